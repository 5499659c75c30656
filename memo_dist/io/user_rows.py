"""JSON lines that come from outside: questions, answers of another system, published sets.

Lines end at a line feed or a carriage return. ``str.splitlines`` also cuts at U+2028 and U+0085,
which may stand inside a JSON string.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from memo_dist.errors import UsageError

_ESCAPE = rb"\u"


def user_rows(path: Path, name: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number from 1, object) of each line that is not blank; a byte order mark is skipped.

    Args:
        path: the file.
        name: what it is, for the message about a file that cannot be read.

    Raises:
        UsageError: the file cannot be read, or a line is no UTF-8 JSON object; names the line.
    """
    try:
        with path.open("rb") as stream:
            parts = (part for line in stream for part in line.splitlines())
            for number, part in enumerate(parts, start=1):
                if part.strip():
                    yield number, _object(part, number, f"{path}, line {number}")
    except OSError as error:
        raise UsageError(f"cannot read {name} {path}: {error.strerror or error}") from error


def _object(line: bytes, number: int, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
        if _ESCAPE in line:  # half a surrogate pair is a text that no file can hold
            json.dumps(row, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{where}: not UTF-8 JSON ({error})") from error
    if not isinstance(row, dict):
        raise UsageError(f"{where}: a {type(row).__name__}, not a JSON object")
    return row
