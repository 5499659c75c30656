"""Append-only files of JSON lines with a checksum each: what both journals are made of.

A line that a crash (or a second writer that had not yet noticed its driver's death) tore or
mangled fails its checksum and is not believed, wherever it stands.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from memo_dist.io.atomic import fsync_folder, json_line, write_with
from memo_dist.io.hashing import short_hash

_Row = dict[str, Any]


def to_line(row: dict[str, Any]) -> bytes:
    """``row`` as one line with its own checksum."""
    return json_line({**row, "check": short_hash(row)})


def from_line(line: bytes) -> dict[str, Any] | None:
    """The row of a line, or None where the line is torn or mangled."""
    try:
        row: dict[str, Any] = json.loads(line)
        return row if row.pop("check") == short_hash(row) else None
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


def rewrite(path: Path, change: Callable[[_Row], _Row | None]) -> bool:
    """Rewrite a file of checked lines row by row, where that changes anything; whether it did.

    Args:
        path: the file.
        change: gives the new row; None: the line goes.

    Raises:
        OSError: the disk is full; the file is as before.
    """
    with path.open("rb") as stream:
        rows = ((row, change(row)) for line in stream if (row := from_line(line)) is not None)
        if all(new == row for row, new in rows):
            return False

    def write(out: BinaryIO) -> None:
        with path.open("rb") as stream:
            for line in stream:
                row = from_line(line)
                new = None if row is None else change(row)
                if new is not None:
                    out.write(to_line(new))

    write_with(path, write)
    return True


class LineFile:
    """A file of checked lines, open for appending and for reading at offsets."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._writer = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        self._reader = path.open("rb")
        fsync_folder(path.parent)

    def __enter__(self) -> LineFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close both ends."""
        self._reader.close()
        os.close(self._writer)

    def rows(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """(offset, row) of the believable lines; mends a torn end. Call it before appending."""
        offset, line = 0, b""
        self._reader.seek(0)
        for line in self._reader:
            row = from_line(line)
            if row is not None:
                yield offset, row
            offset += len(line)
        if line and not line.endswith(b"\n"):
            self._write(b"\n")  # so that the torn tail does not swallow the next row

    def row_at(self, offset: int) -> dict[str, Any] | None:
        """The row that begins at an offset."""
        return row_at(self._reader, offset)

    def append(self, row: dict[str, Any]) -> int:
        """Append a row, safe from the end of this process; returns its offset.

        Raises:
            OSError: the disk is full; what stands in the file stays readable.
        """
        line = to_line(row)
        self._write(line)
        return os.lseek(self._writer, 0, os.SEEK_CUR) - len(line)

    def sync(self) -> None:
        """Make what was appended safe from the end of the machine."""
        os.fsync(self._writer)

    def _write(self, data: bytes) -> None:
        """Unbuffered: a whole line reaches the file in one call, at the file's present end."""
        while data:
            data = data[os.write(self._writer, data) :]


def row_at(stream: BinaryIO, offset: int) -> dict[str, Any] | None:
    """The row of the line that begins at an offset of an open file."""
    stream.seek(offset)
    return from_line(stream.readline())


class LineTail:
    """Follows a file that another process appends to: the driver's view of the progress."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0

    def new_rows(self) -> Iterator[dict[str, Any]]:
        """The believable rows that were completed since the last call."""
        if not self._path.exists():
            return
        with self._path.open("rb") as stream:
            stream.seek(self._offset)
            for line in stream:
                if not line.endswith(b"\n"):
                    return
                self._offset += len(line)
                row = from_line(line)
                if row is not None:
                    yield row
