"""What a file holds, whatever stands around it: compression, byte order marks, a wrong suffix."""

from __future__ import annotations

import bz2
import gzip
import lzma
import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

from memo_dist.corpus.types import UnreadableError

COMPRESSED = (".gz", ".bz2", ".xz")
"""Suffixes behind a file's own (``a.md.gz``)."""
_OPENERS: dict[bytes, Callable[[Path], Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\x00": lzma.open,
}
_HEAD = 1024
_HTML = re.compile(
    rb"\s*(?:<\?xml[^>]{0,200}>\s*)?(?:<!--.{0,400}?-->\s*)?<(?:!doctype\s+html|html[\s>])",
    re.IGNORECASE | re.DOTALL,
)
_MARKS = (
    *((b"\xff\xfe\0\0", "utf-32"), (b"\0\0\xfe\xff", "utf-32")),
    *((b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16")),
)


def open_plain(path: Path) -> BinaryIO:
    """Open a file for reading, unpacked where it is compressed (by its first bytes)."""
    with path.open("rb") as stream:
        head = stream.read(8)
    opener = next((how for magic, how in _OPENERS.items() if head.startswith(magic)), None)
    return cast(BinaryIO, opener(path) if opener else path.open("rb"))


@contextmanager
def unpacking() -> Iterator[None]:
    """Turn what damaged compression raises into a reason.

    Raises:
        UnreadableError: ``broken_compression``.
    """
    try:
        yield
    except (gzip.BadGzipFile, EOFError, zlib.error, lzma.LZMAError) as error:
        raise UnreadableError("broken_compression", str(error)) from error


def read_plain(path: Path, max_bytes: int) -> bytes:
    """The bytes of a file, unpacked; never more than one over ``max_bytes``.

    Raises:
        UnreadableError: ``broken_compression``.
    """
    with unpacking(), open_plain(path) as stream:
        return stream.read(max_bytes + 1)


def kind_of(data: bytes, suffix: str) -> str:
    """The suffix that content has: its file's own, unless its first bytes say otherwise."""
    head = data[:_HEAD]
    if head.lstrip(b"\xef\xbb\xbf\0\r\n\t ").startswith(b"%PDF-"):
        return ".pdf"
    if head.startswith(b"PK\x03\x04") and b"word/document.xml" in data:
        return ".docx"
    if suffix in {".txt", ".pdf", ".docx"} and _HTML.match(head.removeprefix(b"\xef\xbb\xbf")):
        return ".html"
    return suffix


def mark_encoding(data: bytes) -> str:
    """The encoding that a byte order mark names; empty without one but UTF-8's."""
    return next((name for mark, name in _MARKS if data.startswith(mark)), "")
