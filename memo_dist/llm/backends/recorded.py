"""Answers from a file: to repeat a synthesis without its model."""

from __future__ import annotations

from pathlib import Path

from memo_dist.errors import UsageError
from memo_dist.io.atomic import read_jsonl
from memo_dist.llm.backends.base import Answer, RequestRefused
from memo_dist.llm.requests import Request, Usage


class RecordedBackend:
    """One JSON object a line: ``key`` (see :attr:`Request.key`), ``text``, optional
    ``finish_reason`` and ``usage`` (prompt, cached, completion). Of equal keys the last holds.

    A step's request journal has this form, so it can be replayed as it is.
    """

    name = "recorded"

    def __init__(self, path: Path, group: str = "generator") -> None:
        self._answers: dict[str, Answer] = {}
        try:
            for row in read_jsonl(path):
                if row.get("outcome", "ok") == "ok":
                    usage = Usage(*row.get("usage", ()))
                    finish = row.get("finish_reason", "stop")
                    self._answers[row["key"]] = Answer(row["text"], finish, usage)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UsageError(f"{group}.recording={path}: {type(error).__name__}: {error}") from None

    async def complete(self, request: Request, tag: str) -> Answer:
        """The recorded answer to ``request``; a repair turn is another request."""
        answer = self._answers.get(request.key)
        if answer is None:
            raise RequestRefused(f"the recording has no answer to request {request.key}")
        return answer

    async def close(self) -> None:
        """Nothing to release."""
