"""The transcript: one line a call, appended as it happens, each with its own checksum.

Several questions may share a file; ``session`` tells them apart and ``n`` counts a session's lines.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from memo_dist.io.checked_lines import LineFile
from memo_dist.llm.requests import Failure, Reply
from memo_dist.protocol.types import Ask, Ballot, Conclusion, Consult

FILE_NAME = "transcript.jsonl"


class Transcript:
    """A file of events, safe from the end of the process line by line."""

    def __init__(self, folder: Path) -> None:
        self._lines = LineFile(folder / FILE_NAME)
        for _ in self._lines.rows():  # mends the end that a kill may have torn
            pass

    def session(self, name: str) -> SessionTranscript:
        """The part of one question."""
        return SessionTranscript(self._lines, name)

    def close(self) -> None:
        """Make it safe from the end of the machine, and close it."""
        self._lines.sync()
        self._lines.close()


class SessionTranscript:
    """Writes one question's events."""

    def __init__(self, lines: LineFile, session: str) -> None:
        self._lines, self._session, self._count = lines, session, 0

    def write(self, event: str, **fields: Any) -> None:
        """Append one event.

        Raises:
            OSError: the disk is full.
        """
        row = {"session": self._session, "n": self._count, "event": event, **fields}
        self._count += 1
        self._lines.append(row)

    def consulted(self, call: Consult, reply: Reply, seconds: float) -> None:
        """A call of the executive and what it replied."""
        failure = {"reason": reply.reason, "raw": reply.raw} if isinstance(reply, Failure) else None
        self.write(
            "executive",
            phase=call.phase,
            turn=call.turn,
            request=reply.key,
            messages=[asdict(message) for message in call.request.messages],
            reply=None if isinstance(reply, Failure) else reply.value,
            failure=failure,
            attempts=reply.attempts,
            usage=asdict(reply.usage),
            seconds=round(seconds, 3),
        )

    def asked(self, call: Ask, ballots: Sequence[Ballot], seconds: float) -> None:
        """A turn's questions to the memory and its answers."""
        pairs = zip(call.queries, ballots, strict=True)
        self.write(
            "memory",
            phase=call.phase,
            turn=call.turn,
            questions=[{**asdict(query), "ballot": asdict(ballot)} for query, ballot in pairs],
            refused=[{"question": question, "reason": why} for question, why in call.refused],
            seconds=round(seconds, 3),
        )

    def concluded(self, conclusion: Conclusion, **costs: Any) -> None:
        """The answer and what it cost."""
        self.write(
            "answer",
            answer=conclusion.text,
            support=[note.number for note in conclusion.support],
            ended=conclusion.ended,
            limit=conclusion.limit,
            failed_calls=conclusion.failed,
            **costs,
        )


def read_transcript(folder: Path) -> Iterator[dict[str, Any]]:
    """The events of a transcript, in the order in which they were written."""
    with LineFile(folder / FILE_NAME) as lines:
        for _, row in lines.rows():
            yield row
