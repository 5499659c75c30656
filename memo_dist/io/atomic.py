"""Atomic files: a reader sees the old file or the new one, never half of one.

Every write goes to a temporary file in the same folder, is flushed to the disk, and is
renamed over the target; the folder is flushed last so that the rename survives a crash.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

TEMP_PREFIX = ".tmp-"


def fsync_folder(folder: Path) -> None:
    """Flush a folder's entries (renames, new files) to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_with(path: Path, writer: Callable[[BinaryIO], None]) -> None:
    """Call ``writer`` on a temporary binary file and rename it to ``path``.

    Raises:
        OSError: the disk is full or the folder cannot be written; ``path`` is untouched
            and no temporary file is left.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=TEMP_PREFIX, dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            writer(stream)
            stream.flush()
            os.fsync(stream.fileno())
        Path(name).chmod(0o666 & ~_umask())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    fsync_folder(path.parent)


def write_bytes(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path`` atomically."""
    write_with(path, lambda stream: _write_all(stream, data))


def write_text(path: Path, text: str) -> None:
    """Write ``text`` (UTF-8) to ``path`` atomically."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON with sorted keys, atomically."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> int:
    """Write one JSON object a line, atomically; returns the number of lines."""
    count = 0

    def writer(stream: BinaryIO) -> None:
        nonlocal count
        for row in rows:
            stream.write(json_line(row))
            count += 1

    write_with(path, writer)
    return count


def json_line(row: dict[str, Any]) -> bytes:
    """One line of JSON (UTF-8, sorted keys, newline at the end): the same row, the same bytes."""
    return (json.dumps(row, sort_keys=True, ensure_ascii=False) + "\n").encode("utf-8")


def read_json(path: Path) -> Any:
    """Read one JSON value."""
    return json.loads(path.read_text(encoding="utf-8"))


def read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects of a JSON-lines file, one at a time."""
    with path.open(encoding="utf-8") as stream:
        for line in stream:
            if line.strip():
                yield json.loads(line)


def jsonl_offsets(path: Path) -> Iterator[tuple[int, Any]]:
    """(byte offset, object) of each line of a JSON-lines file, to read single lines later."""
    offset = 0
    with path.open("rb") as stream:
        for line in stream:
            yield offset, json.loads(line)
            offset += len(line)


def _write_all(stream: BinaryIO, data: bytes) -> None:
    stream.write(data)


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
