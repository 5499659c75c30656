"""One answer of what the memory says and what the buffer holds."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from memo_dist.answering import Answered
from memo_dist.answers.keywords import FUNCTION_WORDS
from memo_dist.answers.text import normalise
from memo_dist.serve.records import Hit

MEMORY, BUFFER, NOTHING = "memory", "pending", "none"
"""Values of ``source``."""
ENOUGH = 0.5
"""Fraction of a question's words that a pending text must hold to answer in place of silence."""
_SENTENCE = re.compile(r"(?<=[.!?])\s+|\n+")
_STEM = 5
"""Letters by which words are compared: "opened" and "opening" are one."""


@dataclass(frozen=True, slots=True)
class Passage:
    """A sentence of a pending text.

    Attributes:
        document: id.
        title: of the document.
        text: the sentence.
        coverage: fraction of the question's words that the document holds, 0 to 1.
        score: BM25 of the document.
    """

    document: str
    title: str
    text: str
    coverage: float
    score: float

    def to_json(self) -> dict[str, Any]:
        """As answers carry it."""
        return {
            "document_id": self.document,
            "title": self.title,
            "text": self.text,
            "coverage": round(self.coverage, 4),
            "score": round(self.score, 4),
            "source": BUFFER,
        }


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer of the server.

    Attributes:
        text: empty where it abstained.
        confidence: calibrated probability that the memory's answer is right, 0 to 1; None: the
            answer is a sentence of a pending text, for which there is no calibration.
        abstained: neither memory nor buffer has an answer.
        sources: ids of documents.
        source: of :data:`MEMORY`, :data:`BUFFER`, :data:`NOTHING`.
        mode: that answered.
        shards: of the bank that answered.
        tokens: prompt and generated tokens that the memory spent.
        pending: what the buffer holds about it, best first.
        details: see ``Answered.details``.
    """

    text: str
    confidence: float | None
    abstained: bool
    sources: tuple[str, ...]
    source: str
    mode: str
    shards: tuple[int, ...]
    tokens: int
    pending: tuple[Passage, ...]
    details: Mapping[str, Any]


def passages(question: str, hits: Sequence[Hit]) -> tuple[Passage, ...]:
    """The best sentence of each hit, the fullest documents first."""
    words = _stems(question) - {word[:_STEM] for word in FUNCTION_WORDS}
    found = [_passage(words or _stems(question), hit) for hit in hits]
    return tuple(sorted(found, key=lambda one: (-one.coverage, -one.score, one.document)))


def merge(mode: str, answered: Answered, pending: Sequence[Passage]) -> Reply:
    """A pending text answers where the memory abstains and it holds half of the question's words,
    or where it holds all of them: it is newer than the memory."""
    answer = answered.answer
    best = pending[0] if pending else None
    needed = ENOUGH if answer.abstained else 1.0
    reply = Reply(
        text=answer.text,
        confidence=answer.confidence,
        abstained=answer.abstained,
        sources=answer.sources,
        source=NOTHING if answer.abstained else MEMORY,
        mode=mode,
        shards=answer.shards,
        tokens=answer.tokens,
        pending=tuple(pending),
        details=answered.details,
    )
    if best is None or best.coverage < needed:
        return reply
    return replace(
        reply,
        text=best.text,
        confidence=None,
        abstained=False,
        sources=(best.document,),
        source=BUFFER,
    )


def _passage(words: frozenset[str], hit: Hit) -> Passage:
    document = hit.document
    sentences = [one.strip() for one in _SENTENCE.split(document.text) if one.strip()]
    best = max(sentences, key=lambda one: len(words & _stems(one)), default="")
    held = words & _stems(f"{document.title} {document.text}")
    coverage = len(held) / len(words) if words else 0.0
    return Passage(document.id, document.title, best, coverage, hit.score)


def _stems(text: str) -> frozenset[str]:
    return frozenset(word[:_STEM] for word in normalise(text))
