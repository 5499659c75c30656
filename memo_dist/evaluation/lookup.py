"""The baseline without a model: the trained answer of the nearest trained question."""

from __future__ import annotations

import time
from collections.abc import Sequence

from memo_dist.answers.answer import Answer
from memo_dist.evaluation.taught import Taught, abstains
from memo_dist.io.hashing import short_hash
from memo_dist.synthesis.types import Reflection

VERSION = "1"
"""Raise it with every change of the search: answers of an older one are not reused."""


class Lookup:
    """Answers as the BM25-nearest trained question is answered.

    It abstains where that is a trained abstention, and where no trained question shares a word.
    What a memory has learned shows only beyond it: a search over the training questions gives
    the rest.
    """

    def __init__(self, taught: Taught) -> None:
        self._taught = taught
        self.identity = short_hash(["lookup", VERSION, [row.id for row in taught.rows]])

    def answer(self, questions: Sequence[str]) -> list[Answer]:
        """One search per question; no model runs."""
        return [self._answer(question) for question in questions]

    def _answer(self, question: str) -> Answer:
        started = time.perf_counter()
        found = self._taught.nearest(question)
        row: Reflection | None = found[0] if found and not abstains(found[0]) else None
        return Answer(
            text=row.answer if row else "",
            confidence=float(row is not None),
            abstained=row is None,
            sources=row.sources if row else (),
            shards=(),
            seconds=time.perf_counter() - started,
            tokens=0,
        )
