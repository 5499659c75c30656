"""The request journal: one line an attempt, so that no answer is paid for twice.

An attempt is a send that the endpoint answered, well or badly, or let time out. A request whose
last attempt is final is never sent again; the number of attempts survives kills because it is
the number of lines.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any, Literal

from memo_dist.io.checked_lines import LineFile
from memo_dist.llm.requests import Failure, Reply, Request, Response, Usage
from memo_dist.llm.schema_check import value_of

Outcome = Literal["ok", "invalid", "fault", "broken", "refused"]


@dataclass(frozen=True, slots=True)
class Attempt:
    """One line of a request journal.

    Attributes:
        key: of the request.
        attempt: number, from 0.
        outcome: ``ok``; ``invalid`` (an answer that breaks the schema or was cut off);
            ``fault`` (5xx, time-out); ``broken`` (the connection ended before an answer: the
            attempt comes again, so that a server that was restarted changes no result);
            ``refused`` (the endpoint will not answer this request).
        final: no further attempt follows.
        reason: what was wrong; "" for ``ok``.
        text: as the model wrote it; "" without an answer.
        finish_reason: "stop", "length" or the endpoint's own word.
        usage: prompt, cached and answer tokens of this attempt.
        at: Unix time at which it ended, in seconds; 0: unknown.
    """

    key: str
    attempt: int
    outcome: Outcome
    final: bool
    reason: str = ""
    text: str = ""
    finish_reason: str = ""
    usage: tuple[int, int, int] = (0, 0, 0)
    at: float = 0.0

    def to_row(self) -> dict[str, Any]:
        """One line of the journal."""
        return {name: getattr(self, name) for name in self.__slots__}

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> Attempt | None:
        """The attempt of a journal's row; None where the row is none."""
        try:
            return cls(**{**row, "usage": tuple(row["usage"])})
        except (TypeError, KeyError):
            return None


def reply_of(request: Request, key: str, history: Sequence[Attempt]) -> Reply | None:
    """The reply that a request's attempts amount to; None while it needs another."""
    if not history or not history[-1].final:
        return None
    last = history[-1]
    if last.outcome != "ok":
        raw = next((row.text for row in reversed(history) if row.text), "")
        return Failure(key, last.reason, raw, sends(history), total_usage(history))
    value = None if request.schema is None else value_of(last.text, request.schema)
    usage = total_usage(history)
    return Response(key, last.text, value, last.finish_reason, usage, sends(history))


def sends(history: Sequence[Attempt]) -> int:
    """Sends that a reply took. A broken one that a later one made up for is not counted: a server
    that was restarted changes nothing that is written."""
    broken = takewhile(lambda row: row.outcome == "broken", reversed(history))
    return answered(history) + len([*broken])


def answered(history: Sequence[Attempt]) -> int:
    """Attempts without those whose connection broke; the number of the next one that is sent."""
    return sum(row.outcome != "broken" for row in history)


def total_usage(history: Sequence[Attempt]) -> Usage:
    """Tokens of all attempts together."""
    prompt, cached, completion = (sum(row.usage[i] for row in history) for i in range(3))
    return Usage(prompt, cached, completion)


class RequestJournal:
    """A partition's request journal; knows where each request's attempts stand.

    Memory: about 200 bytes a request. Of two lines of one attempt (a killed driver's worker may
    still write while its successor asks again) the first holds.
    """

    def __init__(self, path: Path) -> None:
        self._lines = LineFile(path)
        self._offsets: dict[str, list[int]] = {}
        for offset, row in self._lines.rows():
            attempt = Attempt.from_row(row)
            if attempt is not None:
                self._index(attempt, offset)

    def history(self, key: str) -> list[Attempt]:
        """The attempts of a request, in order."""
        return list(self._read(self._offsets.get(key, ())))

    def append(self, attempt: Attempt) -> None:
        """Append an attempt; it survives the end of this process.

        Raises:
            OSError: the disk is full.
        """
        self._index(attempt, self._lines.append(attempt.to_row()))

    def sync(self) -> None:
        """Make the attempts safe from the end of the machine."""
        self._lines.sync()

    def close(self) -> None:
        """Close the file."""
        self._lines.close()

    def _index(self, attempt: Attempt, offset: int) -> None:
        offsets = self._offsets.setdefault(attempt.key, [])
        if attempt.attempt == len(offsets):
            offsets.append(offset)

    def _read(self, offsets: Sequence[int]) -> Iterator[Attempt]:
        for offset in offsets:
            row = self._lines.row_at(offset)
            attempt = None if row is None else Attempt.from_row(row)
            if attempt is None:  # damaged since it was indexed: ask again from there
                return
            yield attempt
