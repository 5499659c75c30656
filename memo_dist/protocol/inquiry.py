"""One question's state: what was asked, what the memory said, which candidates are left."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping, Sequence
from typing import Any

from memo_dist.answers.text import meant_words, normalise
from memo_dist.config.model_schema import ProtocolConfig
from memo_dist.llm.requests import Failure, Reply, Request
from memo_dist.protocol.budget import Budget
from memo_dist.protocol.requests import Calls
from memo_dist.protocol.types import Ask, Asking, Ballot, Consult, Note, Phase, Query

MAX_QUESTION_CHARS = 500
MAX_NAME_CHARS = 120


class Inquiry:
    """What the flows share for one question.

    Attributes:
        calls: renders the executive's calls.
        settings: of the protocol.
        budget: what was spent.
        notes: every question asked so far with its ballot.
        candidates: see :class:`Candidates`.
    """

    def __init__(self, calls: Calls, budget: Budget) -> None:
        self.calls = calls
        self.settings: ProtocolConfig = calls.protocol
        self.budget = budget
        self.notes: list[Note] = []
        self.candidates = Candidates(self.settings.prune_after)
        self._asked: set[tuple[str, ...]] = set()

    def consult(
        self, phase: Phase, turn: int, request: Request
    ) -> Generator[Consult, Reply, dict[str, Any] | None]:
        """Call the executive: its reply's value, None where it gave no valid one."""
        reply = yield Consult(phase, turn, request)
        self.budget.called(reply)
        if isinstance(reply, Failure):
            return None
        value: dict[str, Any] = reply.value
        return value

    def ask(self, phase: Phase, turn: int, proposals: Iterable[Mapping[str, Any]]) -> Asking:
        """Ask what is new among the executive's proposals, all in one batch.

        Not asked: what was asked before (a dead end would be one again), what is about a
        dropped candidate, what is empty or too long, and what is above a limit.
        """
        queries, refused = self._sorted_out(proposals)
        if not queries and not refused:
            return []
        return (yield from self._ask(Ask(phase, turn, tuple(queries), tuple(refused))))

    def ask_itself(self) -> Generator[Ask, Sequence[Ballot], Note]:
        """Ask the memory the user's question as it stands, whatever the limits say."""
        question = _one_line(self.calls.question)
        (note,) = yield from self._ask(Ask("fallback", 1, (Query(question, (question,)),)))
        return note

    def note_of(self, question: str) -> Note | None:
        """The note of a question that was asked."""
        key = _key(question)
        return next((note for note in self.notes if _key(note.query.question) == key), None)

    def _ask(self, asked: Ask) -> Asking:
        ballots = yield asked
        first = len(self.notes) + 1
        pairs = zip(asked.queries, ballots, strict=True)
        fresh = [Note(first + i, query, ballot) for i, (query, ballot) in enumerate(pairs)]
        self.notes += fresh
        self.budget.asked(ballots)
        self.candidates.learn(fresh)
        return fresh

    @property
    def spoken(self) -> list[Note]:
        """The notes in which the memory said something."""
        return [note for note in self.notes if not note.ballot.silent]

    def _sorted_out(
        self, proposals: Iterable[Mapping[str, Any]]
    ) -> tuple[list[Query], list[tuple[str, str]]]:
        queries: list[Query] = []
        refused: list[tuple[str, str]] = []
        room = min(self.settings.questions, self.budget.questions_left)
        for proposal in proposals:
            query = self._query(proposal)
            reason = self._reason(query) or ("above the limit" if len(queries) >= room else "")
            if reason:
                refused.append((query.question, reason))
                continue
            self._asked.add(_key(query.question))
            queries.append(query)
        return queries, refused

    def _query(self, proposal: Mapping[str, Any]) -> Query:
        question = _one_line(proposal["question"])
        others = [_one_line(text) for text in proposal.get("wordings", ())]
        usable = [text for text in others if text and len(text) <= MAX_QUESTION_CHARS]
        wordings = tuple(dict.fromkeys([question, *usable]))[: self.settings.wordings]
        return Query(question, wordings, _one_line(proposal.get("about", ""))[:MAX_NAME_CHARS])

    def _reason(self, query: Query) -> str:
        if not normalise(query.question):
            return "empty"
        if len(query.question) > MAX_QUESTION_CHARS:
            return f"longer than {MAX_QUESTION_CHARS} characters"
        if _key(query.question) in self._asked:
            return "asked before"
        if self.candidates.is_dropped(query.about):
            return f"about the dropped candidate {query.about}"
        return ""


class Candidates:
    """Entities that the answer may have to be asked of."""

    def __init__(self, prune_after: int) -> None:
        self._prune_after = prune_after
        self._names: dict[tuple[str, ...], str] = {}
        self._silences: dict[tuple[str, ...], int] = {}

    @property
    def alive(self) -> list[str]:
        """Names of the candidates that are left, in order of appearance."""
        return [name for name in self._names.values() if not self.is_dropped(name)]

    @property
    def dropped(self) -> list[str]:
        """Names of the candidates that the memory was silent about too often."""
        return [name for name in self._names.values() if self.is_dropped(name)]

    def propose(self, names: Iterable[str]) -> None:
        """Add what the executive names."""
        for name in names:
            text = _one_line(name)[:MAX_NAME_CHARS]
            if _key(text):
                self._names.setdefault(_key(text), text)

    def learn(self, notes: Sequence[Note]) -> None:
        """Count the silences about each candidate; an answer sets its count back."""
        for note in notes:
            key = _key(note.query.about)
            if not key:
                continue
            self.propose([note.query.about])
            self._silences[key] = self._silences.get(key, 0) + 1 if note.ballot.silent else 0

    def is_dropped(self, name: str) -> bool:
        """Whether the memory was silent about it ``prune_after`` times in a row."""
        return self._silences.get(_key(name), 0) >= self._prune_after


def _key(text: str) -> tuple[str, ...]:
    return meant_words(text)


def _one_line(text: str) -> str:
    return " ".join(text.split())
