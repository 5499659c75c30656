"""The demo's run: encode the built-in corpus, then score it on questions written apart."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path

from memo_dist import pipeline
from memo_dist.config.schema import Config
from memo_dist.demo.screen import OWN_DOCUMENTS, examples_text
from memo_dist.evaluation.questions import load_questions
from memo_dist.io import atomic
from memo_dist.io.runfolder import RunFolder

EVALUATION = "held-back"
QUICK_DOCUMENTS = 6
"""The quick variant encodes the first of quick.json's documents, to stay within ten minutes."""


@dataclass(frozen=True)
class DemoCorpus:
    """A folder of documents and the questions about them, inside the run folder."""

    documents: Path
    questions: Path


def lay_out(run: RunFolder, full: bool) -> DemoCorpus:
    """Copy the demo's documents and questions (all, or the quick subset) into ``RUN/demo``."""
    target = DemoCorpus(run.root / "demo" / "documents", run.root / "demo" / "questions.jsonl")
    with as_file(files("memo_dist.demo") / "data") as data:
        quick = set(atomic.read_json(data / "quick.json")["documents"][:QUICK_DOCUMENTS])
        target.documents.mkdir(parents=True, exist_ok=True)
        for document in sorted((data / "documents").iterdir()):
            if full or document.stem in quick:
                shutil.copyfile(document, target.documents / document.name)
        rows = list(atomic.read_jsonl(data / "questions.jsonl"))
        atomic.write_jsonl(
            target.questions,
            (row for row in rows if full or (row["quick"] and quick >= set(row["supporting_ids"]))),
        )
    return target


def run_demo(run: RunFolder, config: Config, full: bool, should_stop: Callable[[], bool]) -> str:
    """Encode and evaluate; returns examples, tables and next steps for a terminal."""
    from memo_dist.evaluation.results import load_evaluation
    from memo_dist.evaluation.session import evaluate_run

    corpus = lay_out(run, full)
    pipeline.encode(run, config, corpus.documents)
    questions = load_questions(corpus.questions, config.evaluate.limit)
    _, tables = evaluate_run(run, config, questions, EVALUATION, should_stop)
    examples = examples_text(load_evaluation(run.eval(EVALUATION)))
    return f"{examples}\n{tables}\n{OWN_DOCUMENTS}"
