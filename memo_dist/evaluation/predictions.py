"""``predictions-<method>.jsonl``: answers as they come, so that a killed evaluation resumes."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, Generic, TypeVar

from memo_dist.answers.answer import Answer
from memo_dist.evaluation.questions import Question
from memo_dist.evaluation.scoring import answer_from_json
from memo_dist.io import atomic
from memo_dist.io.hashing import short_hash

_META = ("key", "id", "method", "question")
Row = TypeVar("Row")


class Predictions(Generic[Row]):
    """The answers of one method, appended batch by batch and flushed to the disk.

    An answer is reused only for the same question id and text, method and identity (the
    memory's weights, the baseline's passages and prompt); answers of others are dropped when
    the file is opened. So is a line that a crash cut off, or that has other fields (another
    version wrote it). Without an identity nothing is known, and the file stays as it is.
    """

    def __init__(
        self,
        path: Path,
        method: str,
        identity: str,
        kind: type[Row],
        parse: Callable[[dict[str, Any]], Row],
    ) -> None:
        """Read what is there.

        Args:
            path: the file.
            method, identity: of the method; identity "": it was never made.
            kind: dataclass of its answers.
            parse: one of them from its fields after a round through JSON.
        """
        self._parse = parse
        self._fields = {*_META, *(field.name for field in fields(kind))}  # type: ignore[arg-type]
        self._path = path
        self._method = method
        self._identity = identity
        self._rows: dict[str, dict[str, Any]] = {}
        self._load()

    def get(self, question: Question) -> Row | None:
        """The answer to this question, if it is there."""
        row = self._rows.get(self._key(question.id, question.question))
        if row is None:
            return None
        return self._parse({k: v for k, v in row.items() if k not in _META})

    def append(
        self,
        questions: Sequence[Question],
        answers: Sequence[Row],
        passing: Collection[str] = (),
    ) -> None:
        """Add a batch; when this returns, it is on the disk.

        Answers to the questions whose texts ``passing`` holds are known here only: whoever opens
        the file next asks them again.
        """
        rows = [self._row(q, a) for q, a in zip(questions, answers, strict=True)]
        with self._path.open("ab") as stream:
            kept = (row for row in rows if row["question"] not in passing)
            stream.write(b"".join(atomic.json_line(row) for row in kept))
            stream.flush()
            os.fsync(stream.fileno())
        self._rows.update((row["key"], row) for row in rows)

    def _row(self, question: Question, answer: Row) -> dict[str, Any]:
        return {
            "key": self._key(question.id, question.question),
            "id": question.id,
            "method": self._method,
            "question": question.question,
            **asdict(answer),  # type: ignore[call-overload]
        }

    def _key(self, name: str, text: str) -> str:
        return short_hash([name, text, self._method, self._identity])

    def _load(self) -> None:
        if not self._identity or not self._path.exists():
            return
        lines = self._path.read_bytes().splitlines(keepends=True)
        for line in lines:
            row = self._whole(line)
            if row is not None and row["key"] == self._key(row["id"], row["question"]):
                self._rows[row["key"]] = row
        if len(self._rows) != len(lines):
            atomic.write_jsonl(self._path, self._rows.values())

    def _whole(self, line: bytes) -> dict[str, Any] | None:
        """A whole row, or None for one that a crash cut off or another version wrote."""
        if not line.endswith(b"\n"):
            return None
        try:
            row = json.loads(line)
        except ValueError:
            return None
        return row if isinstance(row, dict) and set(row) == self._fields else None


def answers_of(path: Path, method: str, identity: str) -> Predictions[Answer]:
    """The answers of a method of ``evaluate``."""
    return Predictions(path, method, identity, Answer, answer_from_json)
