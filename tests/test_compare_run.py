"""Comparisons of a tiny memory: rows that fail, resuming, an outside baseline, the files."""

import json
import shutil
import sys
from pathlib import Path

import pytest
from trained_bank import train_shards, write_bank

from memo_dist.cli.main import run as run_cli
from memo_dist.compare import comparing
from memo_dist.compare.comparing import compare_methods, make_plan
from memo_dist.compare.method import Corpus, Cost, NotRunError, Reply
from memo_dist.compare.output import write_comparison
from memo_dist.compare.registry import METHODS, Row
from memo_dist.compare.task import run_task
from memo_dist.compare.text import comparison_text
from memo_dist.config import load_config, to_yaml
from memo_dist.corpus.build import build_corpus
from memo_dist.errors import RunError, StoppedError, UsageError
from memo_dist.evaluation.questions import load_questions
from memo_dist.io import atomic
from memo_dist.io.runfolder import RunFolder

EXAMPLE = Path(__file__).parent.parent / "examples" / "baseline"
FACTS = {
    "Who founded Tarn Works?": "Ida Brandt",
    "Where is the Quill Mill?": "Sella",
    "What melts the sand?": "three furnaces",
}
TEXTS = {
    "tarn": "Tarn Works was founded by Ida Brandt. It stands in Lind.",
    "quill": "The Quill Mill is in Sella. Pears grow there.",
    "glass": "What melts the sand are three furnaces. They are old.",
}
SETTINGS = ("memory.max_answer_tokens=12", "evaluate.bootstrap=200", "evaluate.batch_size=2")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run with a memory of three facts, and its questions."""
    root = tmp_path_factory.mktemp("compare")
    run = RunFolder(root / "run")
    write_bank(run.memory, train_shards(root / "models", [FACTS], ["Who is Nobody?"]), [FACTS])
    config = load_config((), SETTINGS)
    run.config.write_text(to_yaml(config))
    source = root / "corpus.jsonl"
    atomic.write_jsonl(source, ({"id": n, "title": n, "text": t} for n, t in TEXTS.items()))
    build_corpus(source, run.corpus, config.corpus)
    rows = [
        {"id": f"q{n}", "question": q, "answer": a, "supporting_ids": [doc], "type": doc}
        for n, ((q, a), doc) in enumerate(zip(FACTS.items(), TEXTS, strict=True))
    ]
    rows.append({"id": "u", "question": "Who is Nobody?", "answerable": False, "type": "none"})
    atomic.write_jsonl(root / "questions.jsonl", rows)
    return root


@pytest.fixture
def root(made, tmp_path):
    shutil.copytree(made, tmp_path / "it")
    return tmp_path / "it"


def plan_of(root, methods, predictions=None, name="t"):
    run = RunFolder(root / "run")
    reader = str(root / "models" / "shard-0")
    questions = load_questions(root / "questions.jsonl")
    config = load_config((), SETTINGS)
    return make_plan(run, config, questions, name, methods, predictions or {}, reader)


def never():
    return False


class Table:
    """Answers from a table; what it does at each call is the test's."""

    identity = "table"

    def __init__(self, setting, act=lambda: None, prepare=lambda: None):
        self.act, self.ready = act, prepare

    def prepare(self, corpus: Corpus) -> Cost:
        self.ready()
        return Cost(details={"folder": corpus.folder.name})

    def answer(self, questions):
        self.act()
        return [Reply(FACTS.get(text, "")) for text in questions]


def install(monkeypatch, **makers):
    """Methods of this test in the registry."""
    rows = {name: Row(__name__, f"_{name}", "a test's") for name in makers}
    monkeypatch.setattr(comparing, "METHODS", {**METHODS, **rows})
    monkeypatch.setattr("memo_dist.compare.registry.METHODS", {**METHODS, **rows})
    for name, make in makers.items():
        monkeypatch.setattr(sys.modules[__name__], f"_{name}", make, raising=False)


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
    assert "http://" not in page.replace("http://www.w3.org", "").replace("http://purl.org", "")


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
    (site / "killed.py").write_text(
        "import os, signal\n\ndef make(setting):\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
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
    assert rows["killed"]["state"] == "failed"
    assert "SIGKILL (out of memory?)" in rows["killed"]["reason"]
    assert (rows["other"]["n"], rows["other"]["missing"], rows["other"]["right"]) == (2, 2, 1.0)
    assert rows["other"]["money"] is None
    assert "report:" in capsys.readouterr().out
