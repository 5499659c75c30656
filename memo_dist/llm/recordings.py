"""Recordings: the replies of a finished synthesis in one file, to repeat it without its model.

A line each, JSON: a header, then per request ``key`` (see :attr:`Request.key`) and ``text``, with
``finish_reason``; or ``outcome`` and ``reason`` where the run got no valid reply. A file without a
header is read too: a step's request journal, or lines that other programs wrote.
"""

from __future__ import annotations

import gzip
import json
import lzma
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, cast

from memo_dist.io.atomic import json_line, write_with

FORMAT = "memo-dist recording 1"
SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.xz")
MAX_LINE_BYTES = 64 * 2**20
"""A compressed line may unpack to anything: more is no reply."""


@dataclass(frozen=True, slots=True)
class Header:
    """What a recording says of itself.

    Attributes:
        model: the model that wrote the replies.
        seed: of the requests.
        date: ISO date of the run that was recorded.
        note: the licence of the replies, and whatever else their reader must know.
        steps: version of each step: of its prompts and of the schema of its replies.
    """

    model: str
    seed: int
    date: str = ""
    note: str = ""
    steps: dict[str, str] = field(default_factory=dict)


def read_header(path: Path) -> Header | None:
    """The header of a recording; None where it has none.

    Raises:
        OSError, ValueError: no file, or no JSON lines.
    """
    first = next(_rows(path), {})
    if first.pop("format", None) != FORMAT:
        return None
    try:
        header = Header(**first)
        named = dict(header.steps)
    except TypeError as error:
        raise ValueError(f"the header is damaged: {error}") from None
    texts = (header.model, header.date, header.note, *named, *named.values())
    if not all(isinstance(text, str) for text in texts) or type(header.seed) is not int:
        raise ValueError("the header is damaged: a value of another type")
    return header


def read_replies(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a recording without its header.

    Raises:
        OSError, ValueError: no file, or no JSON lines.
    """
    for row in _rows(path):
        if "format" not in row:
            yield row


def write_recording(path: Path, header: Header, replies: Iterable[dict[str, Any]]) -> int:
    """Write a recording, compressed as its name says; returns the number of replies.

    Equal header and replies give equal bytes (with one version of the compression library).
    """
    count = 0

    def write(stream: BinaryIO) -> None:
        nonlocal count
        with _packed(path, stream) as out:
            out.write(json_line({"format": FORMAT, **asdict(header)}))
            for row in replies:
                out.write(json_line(row))
                count += 1

    write_with(path, write)
    return count


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    with _unpacked(path) as stream:
        try:
            while line := stream.readline(MAX_LINE_BYTES):
                if line.strip():
                    yield _row(line)
        except (lzma.LZMAError, EOFError) as error:  # gzip's own errors are OSErrors
            raise ValueError(f"damaged: {error}") from None


def _row(line: bytes) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except RecursionError:
        raise ValueError("a line nests too deeply") from None
    if not isinstance(row, dict):
        raise ValueError(f"a line is {type(row).__name__}, not an object")
    return row


def _unpacked(path: Path) -> BinaryIO:
    if path.suffix == ".xz":
        return cast(BinaryIO, lzma.open(path))
    return cast(BinaryIO, gzip.open(path)) if path.suffix == ".gz" else path.open("rb")


def _packed(path: Path, stream: BinaryIO) -> AbstractContextManager[Any]:
    """A writer into ``stream``, which stays open for its owner."""
    if path.suffix == ".xz":
        return lzma.open(stream, "wb", preset=9 | lzma.PRESET_EXTREME)
    if path.suffix == ".gz":
        return gzip.GzipFile(filename="", fileobj=stream, mode="wb", mtime=0)
    return nullcontext(stream)
