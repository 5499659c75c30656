"""What passes between the protocol's flows, which decide, and its session, which asks."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from memo_dist.answers.answer import Answer
from memo_dist.llm.requests import Request

Phase = Literal["grounding", "identify", "seek", "conversation", "synthesis", "fallback"]


@dataclass(frozen=True, slots=True)
class Query:
    """A question to the memory.

    Attributes:
        question: self-contained.
        wordings: what is asked, the question itself first.
        about: the candidate that it is about; "" for none.
    """

    question: str
    wordings: tuple[str, ...]
    about: str = ""


@dataclass(frozen=True, slots=True)
class Ballot:
    """What the memory's answers to the wordings of a question amount to.

    Attributes:
        text: the majority's answer; "" where it is silence.
        silent: the memory does not know.
        votes: wordings that got this answer.
        wordings: wordings that were asked.
        confidence: mean calibrated confidence of the votes, 0 to 1.
        sources: documents behind them, best first.
        shards: shards that gave them.
        answers: the memory's answers, by wording.
    """

    text: str
    silent: bool
    votes: int
    wordings: int
    confidence: float
    sources: tuple[str, ...]
    shards: tuple[int, ...]
    answers: tuple[Answer, ...]


@dataclass(frozen=True, slots=True)
class Note:
    """A question that was asked and what the memory said, numbered from 1."""

    number: int
    query: Query
    ballot: Ballot


@dataclass(frozen=True, slots=True)
class Consult:
    """One call of the executive; answered with a Reply."""

    phase: Phase
    turn: int
    request: Request


@dataclass(frozen=True, slots=True)
class Ask:
    """All questions of a turn; answered with a ballot for each.

    Attributes:
        refused: (question, reason) of those that are not asked.
    """

    phase: Phase
    turn: int
    queries: tuple[Query, ...]
    refused: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Conclusion:
    """How a flow ended.

    Attributes:
        text: the answer; "" for an abstention.
        support: the notes that it rests on.
        ended: why: "answered", "not known", "memory silent", or the fallback.
        limit: the budget that cut the questions short; "" for none.
        failed: calls of the executive without a valid reply.
    """

    text: str
    support: tuple[Note, ...]
    ended: str
    limit: str = ""
    failed: int = 0


Flow = Generator[Consult | Ask, Any, Conclusion]
"""Yields calls, is sent a Reply for a Consult and a sequence of ballots for an Ask."""
Asking = Generator[Ask, Sequence[Ballot], list[Note]]
