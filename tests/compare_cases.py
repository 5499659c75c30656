"""A tiny memory with its corpus and questions, and methods of tests in the registry."""

from __future__ import annotations

import sys
from pathlib import Path

from trained_bank import train_shards, write_bank

from memo_dist.compare import comparing
from memo_dist.compare.comparing import make_plan
from memo_dist.compare.method import Corpus, Cost, Reply
from memo_dist.compare.registry import METHODS, Row
from memo_dist.config import load_config, to_yaml
from memo_dist.corpus.build import build_corpus
from memo_dist.evaluation.questions import load_questions
from memo_dist.io import atomic
from memo_dist.io.runfolder import RunFolder

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


def make_root(root: Path) -> Path:
    """A folder with a run, whose memory knows three facts, its questions and its corpus."""
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
