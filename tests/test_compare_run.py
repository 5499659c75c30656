"""Comparisons of a tiny memory: rows that fail, resuming, an outside baseline, the files."""

import json
import re
import shutil
from pathlib import Path

import pytest
from compare_cases import SETTINGS, Table, install, make_root, never, plan_of

from memo_dist.cli.main import run as run_cli
from memo_dist.compare.comparing import compare_methods
from memo_dist.compare.method import NotRunError
from memo_dist.compare.output import write_comparison
from memo_dist.compare.task import run_task
from memo_dist.compare.text import comparison_text
from memo_dist.config import load_config
from memo_dist.corpus.build import build_corpus
from memo_dist.errors import RunError, StoppedError, UsageError
from memo_dist.io import atomic

EXAMPLE = Path(__file__).parent.parent / "examples" / "baseline"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_root(tmp_path_factory.mktemp("compare"))


@pytest.fixture
def root(made, tmp_path):
    shutil.copytree(made, tmp_path / "it")
    return tmp_path / "it"


def raising(error):
    def act():
        raise error

    return act


def test_memory_and_reader_answer_the_same_questions(root):
    plan = plan_of(root, ["closed_book", "oracle", "bm25", "graph", "memory", "memory_bm25"])
    result = compare_methods(plan, never, run_task)
    rows = {row.method: row for row in result.rows}
    assert {row.state for row in result.rows} == {"done"}, comparison_text(result)
    assert rows["memory"].right == 1.0
    assert rows["memory"].refused == 0.25
    assert rows["memory"].tokens_out > 0
    assert rows["memory"].tokens_in > rows["memory"].tokens_out
    assert rows["bm25"].tokens_in > rows["closed_book"].tokens_in
    assert rows["memory_bm25"].calls > rows["memory"].calls
    assert result.reference == "memory"
    assert [p.comparison.first for p in result.pairs] == ["memory"] * 5
    assert all(pair.p_holm >= pair.comparison.p_value for pair in result.pairs)
    report = write_comparison(result)
    folder = report.parent
    told = json.loads((folder / "comparison.json").read_text())
    assert told["types"]["tarn"]["memory"]["n"] == 1
    assert "memory" in (folder / "rows.csv").read_text()
    for name in ("right", "cost-questions", "cost-updates"):
        assert (folder / f"{name}.png").stat().st_size > 1000
        assert (folder / f"{name}.svg").read_text().startswith("<?xml")
    page = report.read_text()
    assert "What to use, why, and at what cost" in page
    assert not re.search(r"""(src|href)=["']?http""", page), "the page needs no network"


def test_the_same_seeds_give_the_same_table(root, monkeypatch):
    install(monkeypatch, table=Table)
    first = compare_methods(plan_of(root, ["closed_book", "table"], name="a"), never, run_task)
    second = compare_methods(plan_of(root, ["closed_book", "table"], name="b"), never, run_task)
    for one, other in zip(first.rows, second.rows, strict=True):
        assert (one.right, one.low, one.high, one.refused) == (
            other.right,
            other.low,
            other.high,
            other.refused,
        )
    assert first.pairs == second.pairs


@pytest.mark.parametrize(
    ("error", "state", "reason"),
    [
        (NotRunError("no GPU"), "not run", "no GPU"),
        (RunError("no answer from any of 1 endpoints"), "failed", "RunError: no answer"),
        (MemoryError("can't allocate 9 GiB"), "failed", "MemoryError: can't allocate"),
        (ImportError("No module named 'x'"), "failed", "ImportError"),
    ],
)
def test_a_method_that_cannot_run_is_a_row_that_says_so(root, monkeypatch, error, state, reason):
    install(monkeypatch, good=Table, bad=lambda setting: Table(setting, prepare=raising(error)))
    result = compare_methods(plan_of(root, ["bad", "good"]), never, run_task)
    bad, good = result.rows
    assert (bad.state, bad.n, bad.right, bad.money) == (state, 0, None, None)
    assert bad.reason.startswith(reason)
    assert (good.state, good.right) == ("done", 1.0)
    assert f"bad: {state}: {reason}" in comparison_text(result)
    assert reason in write_comparison(result).read_text().replace("&#39;", "'")


def test_a_method_that_fails_midway_keeps_its_replies_and_goes_on(root, monkeypatch):
    asked, prepared = [], []

    def midway():
        asked.append(1)
        if len(asked) == 2:
            raise ConnectionError("the server is down")

    install(monkeypatch, table=lambda s: Table(s, act=midway, prepare=lambda: prepared.append(1)))
    (row,) = compare_methods(plan_of(root, ["table"]), never, run_task).rows
    assert (row.state, row.n, row.missing, row.right) == ("failed", 2, 2, 1.0)
    (row,) = compare_methods(plan_of(root, ["table"]), never, run_task).rows
    assert (row.state, row.n, row.missing) == ("done", 4, 0)
    assert len(asked) == 3, "the first batch is not asked again"
    compare_methods(plan_of(root, ["table"]), never, run_task)
    assert (len(asked), len(prepared)) == (3, 2), "a finished row is not done again"


def test_a_stop_keeps_replies(root, monkeypatch):
    asked = []
    install(monkeypatch, table=lambda s: Table(s, act=lambda: asked.append(1)))
    with pytest.raises(StoppedError, match="run the same command again"):
        compare_methods(plan_of(root, ["table"]), lambda: len(asked) == 1, run_task)
    (row,) = compare_methods(plan_of(root, ["table"]), never, run_task).rows
    assert (row.n, len(asked)) == (4, 2)


def test_another_corpus_or_memory_is_asked_anew(root, monkeypatch):
    asked = []
    install(monkeypatch, table=lambda s: Table(s, act=lambda: asked.append(1)))
    compare_methods(plan_of(root, ["table"]), never, run_task)
    source = root / "corpus.jsonl"
    atomic.write_jsonl(source, [{"id": "tarn", "title": "t", "text": "Another text."}])
    shutil.rmtree(root / "run" / "corpus")
    build_corpus(source, root / "run" / "corpus", load_config((), SETTINGS).corpus)
    compare_methods(plan_of(root, ["table"]), never, run_task)
    assert len(asked) == 4


def test_bad_choices_are_refused(root):
    for methods, predictions, message in (
        (["bm52"], {}, r"unknown method 'bm52' \(did you mean 'bm25'\?\)"),
        (["bm25", "bm25"], {}, "'bm25' is named twice"),
        ([], {}, "names no method"),
        ([], {"x": root / "none"}, "no such file"),
    ):
        with pytest.raises(UsageError, match=message):
            plan_of(root, methods, predictions)
    with pytest.raises(UsageError, match="cannot name a comparison"):
        plan_of(root, ["bm25"], name="cache")


KILLED = """
import os, signal
from memo_dist.compare.method import Cost, Reply

class Killed:
    identity = "killed"
    asked = 0

    def prepare(self, corpus):
        return Cost()

    def answer(self, questions):
        self.asked += 1
        if self.asked == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return [Reply("Ida Brandt") for _ in questions]

def make(setting):
    return Killed()
"""
"""A method whose process the system ends at its second batch."""


@pytest.fixture
def example(tmp_path, monkeypatch):
    """The outside baseline of examples/, installed as pip would."""
    site = tmp_path / "site"
    shutil.copytree(EXAMPLE, site)
    metadata = site / "nearest_sentence-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: nearest-sentence\nVersion: 1.0\n"
    )
    points = "[memo_dist.compare]\nnearest_sentence = nearest_sentence:make\nkilled = killed:make\n"
    (metadata / "entry_points.txt").write_text(points)
    (site / "killed.py").write_text(KILLED)
    monkeypatch.syspath_prepend(str(site))
    return site


def test_the_example_is_short_and_stands_in_the_table(root, example, tmp_path, capsys):
    assert len((EXAMPLE / "nearest_sentence.py").read_text().splitlines()) <= 30
    answers = tmp_path / "answers.jsonl"
    atomic.write_jsonl(answers, [{"id": "q0", "answer": "Ida Brandt"}, {"id": "u", "answer": ""}])
    words = ["compare", str(root / "run"), "--questions", str(root / "questions.jsonl")]
    words += ["--methods", "nearest_sentence,killed", "--predictions", f"other={answers}"]
    assert run_cli([*words, "--reader", str(root / "models" / "shard-0"), "--name", "out"]) == 0
    told = json.loads((root / "run" / "compare" / "out" / "comparison.json").read_text())
    rows = {row["method"]: row for row in told["rows"]}
    assert (rows["nearest_sentence"]["state"], rows["nearest_sentence"]["n"]) == ("done", 4)
    assert rows["nearest_sentence"]["right"] > 0
    assert rows["nearest_sentence"]["peak_bytes"] > 2**20
    assert (rows["killed"]["state"], rows["killed"]["n"]) == ("failed", 2)
    assert "SIGKILL (out of memory?)" in rows["killed"]["reason"]
    assert (rows["other"]["n"], rows["other"]["missing"], rows["other"]["right"]) == (2, 2, 1.0)
    assert (rows["other"]["money"], rows["other"]["prepare"]) == (None, None)
    assert "report:" in capsys.readouterr().out
