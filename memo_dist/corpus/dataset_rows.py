"""What the readers of published data sets share: rows, ids, and errors that name the place."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from memo_dist.errors import UsageError
from memo_dist.io.hashing import hash_value
from memo_dist.io.user_rows import user_rows

Row = dict[str, Any]
_ID_DIGITS = 12


@dataclass(frozen=True, slots=True)
class Dataset:
    """Rows of ``corpus.jsonl`` and of ``questions.jsonl``; documents may repeat."""

    documents: Iterable[Row]
    questions: Iterable[Row]


def question_row(row: Row, where: str, *, answerable: bool = True, **extra: Any) -> Row:
    """A line of ``questions.jsonl`` from a row that names its fields the usual way."""
    if answerable and not str(row.get("answer") or "").strip():
        raise UsageError(f"{where}: no answer; test splits are published without answers")
    answer = str(row["answer"]).strip() if answerable else ""
    aliases = [str(alias) for alias in extra.pop("aliases", []) if alias and alias != answer]
    question = str(need(row, "question", where)).strip()
    return {
        "question": question,
        "answer": answer,
        "aliases": sorted(set(aliases)) if answerable else [],
        "answerable": answerable,
        **extra,
    }


def content_id(prefix: str, title: str, text: str) -> str:
    """An id that is a hash of the content."""
    return f"{prefix}-{hash_value([title, text])[:_ID_DIGITS]}"


def split_of(source: Path) -> str:
    """The split that a file's name names; "" where it names none."""
    return next((name for name in ("train", "dev", "test") if name in source.stem), "")


def need(row: Any, key: str, where: str) -> Any:
    """A field that must be there.

    Raises:
        UsageError: it is missing.
    """
    if not isinstance(row, dict) or row.get(key) is None:
        raise UsageError(f"{where}: field {key!r} is missing; is this the published file?")
    return row[key]


def json_lines(source: Path) -> Iterator[tuple[int, Row]]:
    """Numbered objects of a JSON lines file.

    Raises:
        UsageError: a folder, or a line is no JSON object.
    """
    if not source.is_file():
        raise UsageError(f"{source} is a folder; give the path of the .jsonl file")
    yield from user_rows(source, "the data set")


def json_file(source: Path, kind: type) -> Any:
    """The value of a JSON file.

    Raises:
        UsageError: it cannot be read, or holds another kind of value.
    """
    try:
        value = json.loads(source.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{source} is not the published JSON file: {error}") from error
    if not isinstance(value, kind):
        expected = "array" if kind is list else "object"
        raise UsageError(f"{source} holds {type(value).__name__}, not an {expected}")
    return value
