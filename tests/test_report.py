"""report.html: every stage shown, none needed, nothing executed, nothing secret."""

import math
import re
from html.parser import HTMLParser

import pytest

from memo_dist.answers.answer import Answer
from memo_dist.config.schema import Config
from memo_dist.corpus.types import Document
from memo_dist.evaluation.charts import Bar, Series, bar_chart, line_chart, ticks
from memo_dist.evaluation.questions import Question
from memo_dist.evaluation.report import write_report
from memo_dist.evaluation.report_stages import downsample
from memo_dist.evaluation.run import evaluate
from memo_dist.io import atomic
from memo_dist.io.runfolder import RunFolder
from memo_dist.observability.redact import redact
from memo_dist.observability.status import StatusWriter
from memo_dist.synthesis.types import Reflection

EVIL = "<script>alert('x')</script> & sons"
KINDS = ("direct", "paraphrase", "paraphrase", "indirect", "abstain")
DOCUMENTS = [
    ("safety-manual", "Safety manual of the ferry Petrel"),
    ("minutes-2031", "Minutes of the harbour board, 14 March 2031"),
    ("tariff", "Tariff regulation"),
    ("evil", EVIL),
    ("long", "A title that goes on and on about moorings, " * 4),
]
TEXT = "Fact number 3 is x 3. Nobody ever asked about mooring rings in winter."


def write_corpus(run: RunFolder) -> None:
    rows = [Document(name, title, TEXT).to_json() for name, title in DOCUMENTS]
    atomic.write_jsonl(run.corpus / "documents.jsonl", rows)
    counts = {"documents": 5, "chunks": 31, "characters": 48210, "quarantined": {"broken pdf": 2}}
    atomic.write_json(run.corpus / "manifest.json", counts)


def write_synthesis(run: RunFolder, facts: int = 60) -> None:
    rows = []
    for n in range(facts):
        name = DOCUMENTS[n % 4 if n % 9 else 0][0]
        question = f"What is fact {n}?"
        made = (question, f"x {n}", KINDS[n % len(KINDS)], (name,), (f"{name}:0-1",))
        rows.append(Reflection(*made, 0, "toy", "1", "r").to_json())
    atomic.write_jsonl(run.reflections, rows)
    rejected = [{"reason": r, "raw": "", "sources": []} for r in ("dangling pronoun", EVIL)]
    atomic.write_jsonl(run.step("direct") / "quarantine" / "part-0.jsonl", rejected)
    atomic.write_jsonl(run.synth / "quarantine.jsonl", [{"reason": "duplicate"}] * 7)


def write_training(run: RunFolder, shards: int = 2, steps: int = 400) -> None:
    for shard in range(shards):
        writer = StatusWriter(run.train(shard))
        for step in range(1, steps + 1):
            noise = 0.25 * math.sin(step * 12.9898 * (shard + 1))
            loss = 0.08 + (3.4 + 0.4 * shard) * math.exp(-step / 70) * (1 + noise)
            writer.metric(
                step=step,
                loss=loss,
                lr=2e-5,
                trained_tokens=900 * step,
                tokens_per_second=812.4,
                seconds=4.2 * step,
            )
        writer.status("done", step=steps)


class Scripted:
    """Answers every third question wrongly and abstains on every fourth."""

    identity = "scripted"

    def __init__(self, golds: dict[str, str], skill: int) -> None:
        self.golds = golds
        self.skill = skill

    def answer(self, questions):
        return [self._one(question, index) for index, question in enumerate(questions)]

    def _one(self, question, index):
        text = self.golds[question]
        luck = (index * 7919) % 10
        if luck >= self.skill + 2 or (not text and luck < 8):
            return Answer("", 0.04 + luck / 50, True, (), (0,), 0.21, 34)
        if luck < self.skill and text:
            return Answer(f"It is {text}", 0.62 + luck / 30, False, ("tariff",), (0,), 0.2, 41)
        wrong = Answer("the <b>blue</b> ferry", 0.35 + luck / 20, False, ("evil",), (0,), 0.2, 38)
        return wrong


def write_evaluation(run: RunFolder) -> None:
    questions = [
        Question(
            f"q{n}",
            f"Which pier does ferry number {n} leave from?" if n else f"Who is {EVIL}?",
            f"pier {n}",
            supporting_ids=(DOCUMENTS[n % 5][0],),
            type=("direct", "reworded", "reverse")[n % 3],
        )
        for n in range(60)
    ]
    questions += [
        Question(f"u{n}", f"What did the mayor eat on day {n}?", "", answerable=False, type="none")
        for n in range(12)
    ]
    golds = {q.question: q.answer for q in questions}
    config = Config()
    config.evaluate.baseline_limit = 20
    config.evaluate.batch_size = 100
    methods = {
        "direct": Scripted(golds, 6),
        "closed_book": Scripted(golds, 0),
        "bm25": Scripted(golds, 2),
    }
    evaluate(run, config, questions, "questions", methods)


def write_everything(run: RunFolder) -> None:
    write_corpus(run)
    write_synthesis(run)
    write_training(run)
    write_evaluation(run)
    atomic.write_text(run.config, "run:\n  seed: 17\ngenerator:\n  api_key: s3cret-value\n")
    launch = {
        "argv": ["encode", "corpus", "generator.api_key=s3cret-value"],
        "time": "2031-03-14T09:26:53Z",
        "versions": {"memo_dist": "0.1.0", "torch": "2.13.0"},
        "git": "0123456789abcdef",
        "hardware": {"cores": 2, "memory_bytes": 24 * 2**30},
        "environment": {"TOKEN": "s3cret-value"},
    }
    atomic.write_json(run.run_json, {"schema_version": 1, "launches": [{}, launch]})
    atomic.write_json(
        run.memory / "bank.json",
        {"base": {"id": "smollm2-135m"}, "shards": [{"documents": [1, 2]}, {"documents": [3]}]},
    )


class Page(HTMLParser):
    """The tags of a page, its visible text, and whether every tag is closed."""

    VOID = frozenset({"meta", "line", "circle", "rect", "polyline", "br"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        if tag not in self.VOID or tag in ("rect", "circle", "polyline"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.add(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"style", "title"} & set(self.open):
            self.text += data + " "


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    run = RunFolder(tmp_path_factory.mktemp("runs") / "harbour-run")
    write_everything(run)
    return run


@pytest.fixture(scope="module")
def html(full):
    return write_report(full).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def text(html):
    page = Page(html)
    assert page.open == []
    return re.sub(r"\s+", " ", page.text)


def test_every_section_has_its_content(text):
    assert "harbour-run" in text
    assert "48,210 characters" in text
    assert "60 question–answer pairs were accepted, 9 candidates rejected" in text
    assert "1 of 5 documents have no reflection" in text
    assert "smollm2-135m" in text
    assert "2 shards over 3 documents" in text
    assert "shard-1 done 400" in text
    assert "Last command encode corpus generator.api_key=[hidden]" in text
    assert "cores 2, memory 24.0 GiB" in text
    for word in ("closed_book", "bm25", "Rightly abstained", "Wrongly abstained", "reverse"):
        assert word in text
    assert "Expected calibration error" in text
    assert "not run yet" not in text


def test_headline_puts_the_memory_beside_its_baselines(text):
    assert re.search(
        r"The memory \(direct\) answers [\d.]+ % of 60 answerable questions"
        r" \(closed_book 0\.0 %, bm25 [\d.]+ %\)"
        r" and abstains on [\d.]+ % of 12 unanswerable ones\.",
        text,
    )


def test_markup_in_titles_questions_and_answers_stays_text(html, text):
    assert "script" not in Page(html).tags
    assert "<b>blue</b>" not in html
    assert f"Who is {EVIL}?" in text
    assert "the <b>blue</b> ferry" in text


def test_secrets_and_environment_stay_out(html):
    assert "s3cret-value" not in html
    assert "TOKEN" not in html
    assert "[hidden]" in html


def test_nothing_is_fetched(html):
    assert not re.search(r"""(src|href)=["'](?!#)""", html)
    assert "url(" not in html
    assert "@import" not in html


def test_same_run_same_bytes(full, html):
    assert write_report(full).read_text(encoding="utf-8") == html


@pytest.mark.parametrize(
    ("stages", "missing"),
    [
        ([], ["Corpus", "Synthesis", "Training", "Evaluation", "Configuration"]),
        ([write_corpus], ["Synthesis", "Training", "Evaluation"]),
        ([write_corpus, write_synthesis], ["Training", "Evaluation"]),
        ([write_evaluation], ["Corpus", "Synthesis", "Training"]),
    ],
)
def test_missing_stages_are_said_to_be_missing(tmp_path, stages, missing):
    run = RunFolder(tmp_path / "run")
    for stage in stages:
        stage(run)
    text = write_report(run).read_text(encoding="utf-8")
    for name in missing:
        assert f"{name}: not run yet." in text


def test_a_stage_that_is_writing_just_now_does_not_break_the_report(tmp_path):
    run = RunFolder(tmp_path / "run")
    write_training(run, shards=1, steps=3)
    with (run.train(0) / "metrics.jsonl").open("a") as stream:
        stream.write('{"step": 4, "lo')
    StatusWriter(run.eval("half"))
    assert "shard-0" in write_report(run).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("api_key: abc", "api_key: [hidden]"),
        ('"api_key": "two words"', '"api_key": [hidden]'),
        ("--api-key abc next", "--api-key [hidden] next"),
        ("generator.api_key=abc", "generator.api_key=[hidden]"),
        ("hf_token: abc", "hf_token: [hidden]"),
        ("url: https://me:pw@host/v1", "url: https://[hidden]@host/v1"),
        ("note sk-abcdefghijkl", "note [hidden]"),
        ("batch_tokens: 4096", "batch_tokens: 4096"),
        ("max_answer_tokens: 48", "max_answer_tokens: 48"),
        ("api_key:\nseed: 17", "api_key:\nseed: 17"),
    ],
)
def test_redact(before, after):
    assert redact(before) == after


def test_ticks_are_round_and_span_the_data():
    assert ticks(0, 3.7) == [0, 1, 2, 3, 4]
    assert ticks(1, 400) == [0, 100, 200, 300, 400]
    assert ticks(0, 0.043)[-1] >= 0.043
    assert ticks(5, 5)[0] <= 5 <= ticks(5, 5)[-1]


def test_charts_stand_degenerate_data():
    assert "NaN" not in line_chart([Series("one", [(1, 0.0)])], "x", "y")
    chart = bar_chart([("EM", [Bar("a", None), Bar("b", 1.0, 1.0, 1.0)])], ["a", "b"])
    assert chart.count("<rect") == 1


def test_downsample_keeps_ends_and_size():
    points = [(float(n), float(n)) for n in range(1001)]
    fewer = downsample(points, 100)
    assert len(fewer) == 100
    assert fewer[0][0] < 10
    assert fewer[-1][0] > 990
    assert downsample(points[:5], 100) == points[:5]
