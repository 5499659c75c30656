"""A method whose answers another system has written to a file."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from memo_dist.compare.method import Corpus, Cost, Reply
from memo_dist.errors import UsageError
from memo_dist.evaluation.questions import Question
from memo_dist.io.hashing import hash_file, short_hash
from memo_dist.io.runfolder import is_plain_name
from memo_dist.io.user_rows import user_rows

VERSION = "2"
"""Raise it with every change of what is read from a file: older replies are not reused."""
_NUMBERS = ("tokens_in", "tokens_out", "calls", "seconds")


class PredictedMethod:
    """Answers of a file: one JSON object a line, with ``id`` and ``answer``.

    ``answer`` is "" where the system refused. Optional: ``tokens_in``, ``tokens_out``, ``calls``,
    ``seconds``. A question that the file does not answer is missing, not wrong.

    Attributes:
        name: of the row.
        identity: see :class:`memo_dist.compare.method.Method`.
    """

    def __init__(self, name: str, file: Path, questions: Sequence[Question]) -> None:
        """Read the file.

        Raises:
            UsageError: it cannot be read, a line is not such an object, an id comes twice, or no
                id is one of the questions'.
        """
        self.name = name
        self._replies = _load(file)
        if not {question.id for question in questions} & self._replies.keys():
            raise UsageError(f"{file}: none of its ids is the id of a question that is asked")
        self.identity = short_hash([name, VERSION, hash_file(file)])

    def prepare(self, corpus: Corpus) -> Cost:
        """Nothing: another system has done the work, and its cost is not known."""
        return Cost(details={"answered by": "a predictions file"})

    def answer(self, questions: Sequence[str]) -> list[Reply]:
        """What the file holds for some ids: questions of equal texts have answers of their own."""
        missing = Reply("", failed="the predictions file does not answer it")
        return [self._replies.get(name, missing) for name in questions]


def split_predictions(words: Sequence[str]) -> dict[str, Path]:
    """{name: file} of ``--predictions name=FILE``.

    Raises:
        UsageError: a word has another form, or a name comes twice.
    """
    found: dict[str, Path] = {}
    for word in words:
        name, equals, file = word.partition("=")
        if not equals or not file or not is_plain_name(name):
            raise UsageError(f"--predictions {word}: write NAME=FILE, with a plain name")
        if name in found:
            raise UsageError(f"--predictions names '{name}' twice")
        found[name] = Path(file)
    return found


def _load(file: Path) -> dict[str, Reply]:
    replies: dict[str, Reply] = {}
    for number, row in user_rows(file, "the predictions"):
        where = f"{file}, line {number}"
        name, reply = _reply(row, where)
        if name in replies:
            raise UsageError(f"{where}: the id '{name}' comes twice")
        replies[name] = reply
    return replies


def _reply(row: Mapping[str, Any], where: str) -> tuple[str, Reply]:
    for key in ("id", "answer"):
        if not isinstance(row.get(key), str):
            raise UsageError(f"{where}: '{key}' is {row.get(key)!r}; write a text")
    return row["id"], Reply(row["answer"].strip(), **_numbers(row, where))


def _numbers(row: Mapping[str, Any], where: str) -> dict[str, Any]:
    found = {key: row[key] for key in _NUMBERS if row.get(key) is not None}
    for key, value in found.items():
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not number or not 0 <= value < math.inf:
            raise UsageError(f"{where}: '{key}' is {value!r}; write a number, 0 or more")
    return found
