"""Binary search in files of lines that are sorted by something which each line shows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import BinaryIO


def first_line(stream: BinaryIO, end: int, is_before: Callable[[bytes], bool]) -> int:
    """Byte offset of the first line that is not before the one that is looked for.

    Reads about one line for each bit of ``end``.

    Args:
        stream: a binary file; its position changes.
        end: bytes of it to look at, up to the end of a line.
        is_before: whether a line comes before; holds for the first lines up to some line only.

    Returns:
        ``end`` where every line comes before.
    """
    low, high = 0, end
    while low < high:
        middle = (low + high) // 2
        start = _line_start(stream, middle)
        if start < end and is_before(stream.readline()):
            low = start + 1
        else:
            high = middle
    return min(_line_start(stream, low), end)


def lines_between(stream: BinaryIO, start: int, end: int) -> Iterator[bytes]:
    """The lines of an open file from byte ``start`` up to byte ``end``, both of line borders."""
    stream.seek(start)
    while start < end:
        line = stream.readline()
        start += len(line)
        yield line


def _line_start(stream: BinaryIO, offset: int) -> int:
    """Where the first line begins that begins at ``offset`` or behind it."""
    if offset == 0:
        stream.seek(0)
        return 0
    stream.seek(offset - 1)
    stream.readline()
    return stream.tell()
