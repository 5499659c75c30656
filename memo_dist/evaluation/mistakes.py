"""Why an answer of the memory is wrong: what was trained about it, and what was made of that."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from memo_dist.answers.text import holds, rouge_l, token_f1
from memo_dist.evaluation.scoring import Verdict
from memo_dist.evaluation.taught import Taught, abstains
from memo_dist.synthesis.types import Reflection

SCORING = "scoring"
REFUSED = "recalled, refused"
TWO_DOCUMENTS = "two documents"
NEVER_TAUGHT = "never taught"
NOT_RECALLED = "taught, not recalled"
SHOULD_REFUSE = "answered, should refuse"

CAUSES = {
    SCORING: "the answer holds the gold answer or comes near it, but does not count as right",
    REFUSED: "the memory wrote the right answer and then abstained",
    TWO_DOCUMENTS: "the question needs several documents",
    NEVER_TAUGHT: "no trained answer about the question's documents holds the gold answer",
    NOT_RECALLED: "a trained answer about its documents holds the gold answer; the memory says"
    " something else, or nothing",
    SHOULD_REFUSE: "the corpus does not hold the answer, and the memory does not abstain",
}
"""Every cause with its meaning; the first that applies, in this order, is the cause."""

_NEAR_F1 = 0.6
_NUMBER = re.compile(r"\d+")


@dataclass(frozen=True, slots=True)
class Nearest:
    """A trained question.

    Attributes:
        question, answer: the trained pair; the answer to an abstention is empty.
        similarity: ROUGE-L F-measure of the two questions, 0 to 1.
        sources: the documents it rests on.
    """

    question: str
    answer: str
    similarity: float
    sources: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Mistake:
    """One wrong answer: a line of ``mistakes.jsonl``.

    Attributes:
        method: whose answer it is.
        id, question, golds: what was asked; no gold where abstaining is right.
        answer: what was answered; empty for an abstention.
        refused: what the memory wrote before it abstained.
        confidence: of the answer, 0 to 1.
        cause: of :data:`CAUSES`.
        nearest: the BM25-nearest trained question; None where none shares a word.
    """

    method: str
    id: str
    question: str
    golds: tuple[str, ...]
    answer: str
    refused: str
    confidence: float
    cause: str
    nearest: Nearest | None

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Mistake:
        """The inverse of ``dataclasses.asdict`` after a round through JSON."""
        near = row["nearest"]
        nearest = Nearest(**{**near, "sources": tuple(near["sources"])}) if near else None
        return cls(**{**row, "golds": tuple(row["golds"]), "nearest": nearest})


def find_mistakes(method: str, verdicts: Iterable[Verdict], taught: Taught) -> list[Mistake]:
    """The wrong answers of one method with their causes, in the order of the questions."""
    return [_mistake(method, verdict, taught) for verdict in verdicts if not verdict.right]


def count_causes(mistakes: Iterable[Mistake]) -> dict[str, int]:
    """The number of mistakes by cause, every cause included."""
    found = Counter(mistake.cause for mistake in mistakes)
    return {cause: found[cause] for cause in CAUSES}


def nearest_of(question: str, row: Reflection) -> Nearest:
    """A reflection as the nearest one of a question."""
    similarity = round(rouge_l(question, [row.question]), 3)
    return Nearest(row.question, "" if abstains(row) else row.answer, similarity, row.sources)


def _mistake(method: str, verdict: Verdict, taught: Taught) -> Mistake:
    question, answer = verdict.question, verdict.answer
    found = taught.nearest(question.question)
    return Mistake(
        method=method,
        id=question.id,
        question=question.question,
        golds=question.golds if question.answerable else (),
        answer=answer.text,
        refused=answer.refused,
        confidence=answer.confidence,
        cause=_cause(verdict, taught),
        nearest=nearest_of(question.question, found[0]) if found else None,
    )


def _cause(verdict: Verdict, taught: Taught) -> str:
    question, answer = verdict.question, verdict.answer
    if not question.answerable:
        return SHOULD_REFUSE
    if _comes_near(answer.text, question.golds):
        return SCORING
    if answer.abstained and holds(answer.refused, question.golds):
        return REFUSED
    if len(set(question.supporting_ids)) > 1:
        return TWO_DOCUMENTS
    if not taught.holds(question.golds, question.supporting_ids):
        return NEVER_TAUGHT
    return NOT_RECALLED


def _comes_near(text: str, golds: Sequence[str]) -> bool:
    """Whether a text says nearly what a gold answer says, with the same numbers."""
    if holds(text, golds):
        return True
    numbers = set(_NUMBER.findall(text))
    same = [gold for gold in golds if set(_NUMBER.findall(gold)) == numbers]
    return token_f1(text, same) >= _NEAR_F1
