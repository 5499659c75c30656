"""Do reflections teach what a file of questions asks? Known before any training, in seconds.

Four shares of the answerable questions, each with its n and 95 % Wilson interval:

- ``taught``: the gold answer stands in a reflection's answer about its documents;
- ``taught_short``: in one of at most :data:`SHORT_WORDS` words, as a small memory can repeat it;
- ``nearest``, ``nearest_5``: the answer of the BM25-nearest reflection question, or of one of the
  nearest five, holds the gold answer. The first is what the baseline ``lookup`` finds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from memo_dist.answers.text import holds
from memo_dist.errors import UsageError
from memo_dist.evaluation.mistakes import Nearest, nearest_of
from memo_dist.evaluation.questions import Question
from memo_dist.evaluation.statistics import wilson_interval
from memo_dist.evaluation.taught import Taught, abstains
from memo_dist.io import atomic
from memo_dist.io.hashing import hash_file, hash_value
from memo_dist.io.runfolder import RunFolder
from memo_dist.synthesis.types import Reflection

SHORT_WORDS = 8
TOP = 5
SCHEMA_VERSION = 1
MEASURES = {
    "taught": "gold answer stands in an answer about its documents",
    "taught_short": f"... in one of at most {SHORT_WORDS} words",
    "nearest": "nearest reflection question has it in its answer",
    "nearest_5": f"... one of the nearest {TOP}",
}
"""Every measure with its meaning."""


@dataclass(frozen=True, slots=True)
class QuestionCoverage:
    """One answerable question: which of :data:`MEASURES` hold, and its nearest reflection."""

    id: str
    question: str
    golds: tuple[str, ...]
    taught: bool
    taught_short: bool
    nearest: bool
    nearest_5: bool
    nearest_question: Nearest | None


def cover_questions(questions: Sequence[Question], taught: Taught) -> list[QuestionCoverage]:
    """Measure every answerable question, in order."""
    return [_cover(question, taught) for question in questions if question.answerable]


def measure_questions(run: RunFolder, questions: Sequence[Question], name: str) -> str:
    """Measure the run's reflections, write ``synth/question-coverage-<name>.json``, tell it.

    Args:
        run: with finished reflections.
        questions: of the file.
        name: of the file, a part of a file name.

    Returns:
        A table for a terminal.

    Raises:
        UsageError: no question is answerable, or there are no reflections.
    """
    rows = [Reflection.from_json(row) for row in atomic.read_jsonl(run.reflections)]
    if not rows:
        raise UsageError(f"{run.reflections} holds no reflection: no question is covered")
    covered = cover_questions(questions, Taught(rows))
    if not covered:
        raise UsageError(f"the questions '{name}' hold no answerable one: nothing can be covered")
    shares = {measure: _share([getattr(c, measure) for c in covered]) for measure in MEASURES}
    path = coverage_path(run, name)
    atomic.write_json(
        path,
        {
            "schema_version": SCHEMA_VERSION,
            "reflections": {"n": len(rows), "sha256": hash_file(run.reflections)},
            "questions": {
                "answerable": len(covered),
                "unanswerable": len(questions) - len(covered),
                "sha256": hash_value([asdict(question) for question in questions]),
            },
            "measures": shares,
            "rows": [asdict(one) for one in covered],
        },
    )
    return _text(name, len(rows), len(questions) - len(covered), shares, path)


def coverage_path(run: RunFolder, name: str) -> Path:
    """Where the measures of one file of questions are written."""
    return run.synth / f"question-coverage-{name}.json"


def _cover(question: Question, taught: Taught) -> QuestionCoverage:
    golds, documents = question.golds, question.supporting_ids
    found = taught.nearest(question.question, TOP)
    leads = [not abstains(row) and holds(row.answer, golds) for row in found]
    return QuestionCoverage(
        id=question.id,
        question=question.question,
        golds=golds,
        taught=taught.holds(golds, documents),
        taught_short=taught.holds(golds, documents, SHORT_WORDS),
        nearest=any(leads[:1]),
        nearest_5=any(leads),
        nearest_question=nearest_of(question.question, found[0]) if found else None,
    )


def _share(hits: Sequence[bool]) -> dict[str, Any]:
    return {
        "n": len(hits),
        "hits": sum(hits),
        "share": sum(hits) / len(hits),
        "ci95": wilson_interval(sum(hits), len(hits)),
    }


def _text(
    name: str, reflections: int, unanswerable: int, shares: dict[str, dict[str, Any]], path: Path
) -> str:
    n = shares["taught"]["n"]
    lines = [
        f"{name}: {n:,} answerable questions ({unanswerable:,} unanswerable ones do not count),"
        f" {reflections:,} reflections"
    ]
    width = max(map(len, MEASURES.values()))
    for measure, meaning in MEASURES.items():
        found = shares[measure]
        low, high = found["ci95"]
        lines.append(
            f"  {meaning:<{width}}  {100 * found['share']:5.1f} %"
            f"  (95 % interval {100 * low:.1f}–{100 * high:.1f}; {found['hits']:,} of {n:,})"
        )
    lines.append(f"each question is in {path}")
    return "\n".join(lines)
