"""Word files and tables of values to readable plain text."""

from __future__ import annotations

import csv
import io
import zipfile
from contextlib import suppress

import mammoth

from memo_dist.corpus.html import first_heading, parse_page
from memo_dist.corpus.parsed import MARK, Parsed
from memo_dist.corpus.tables import row_line
from memo_dist.corpus.text import decode
from memo_dist.corpus.types import UnreadableError

_UNPACKED = 20
"""Largest text of a packed file, in sizes of the packed one, beyond the first MiB."""
_STYLES = "p[style-name='Title'] => h1:fresh"
_SNIFFED = 16_384
_DELIMITERS = "\t;|,"
"""Of those that fit equally the first: a comma may stand in numbers and in names."""


def read_docx(data: bytes) -> Parsed:
    """Read a Word file (.docx): headings, paragraphs, lists and tables.

    Raises:
        UnreadableError: ``broken_docx``, or ``too_large`` where it unpacks to far more.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as packed:
            size = sum(i.file_size for i in packed.infolist() if i.filename.endswith(".xml"))
        if size > 2**20 + _UNPACKED * len(data):
            raise UnreadableError("too_large", f"it unpacks to {size / 2**20:.1f} MiB of text")
        page = mammoth.convert_to_html(
            io.BytesIO(data), convert_image=_no_image, style_map=_STYLES
        ).value
    except (UnreadableError, MemoryError, RecursionError):
        raise
    except Exception as error:  # zipfile, expat and mammoth raise classes of their own
        raise UnreadableError("broken_docx", f"{type(error).__name__}: {error}"[:200]) from error
    text = parse_page(page).text
    return Parsed(text, first_heading(text))


def _no_image(_: object) -> list[object]:
    return []


def read_csv(data: bytes) -> Parsed:
    """Read a table with a header row: each row becomes ``header: cell; header: cell``.

    Raises:
        UnreadableError: ``not_utf8``, ``binary`` or ``broken_csv``.
    """
    text = decode(data).replace(MARK, "")
    try:
        rows = list(csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(text)))
    except csv.Error as error:
        raise UnreadableError("broken_csv", str(error)) from error
    filled = [[" ".join(cell.split()) for cell in row] for row in rows if any(map(str.strip, row))]
    if not filled:
        raise UnreadableError("empty", "no rows")
    header, body = (filled[0], filled[1:]) if len(filled) > 1 else ([], filled)
    return Parsed("\n".join(row_line([(cell, False) for cell in row], header) for row in body))


def _delimiter(text: str) -> str:
    """What cuts most of the first rows into as many cells as the header."""
    sample = text[:_SNIFFED]
    if len(sample) < len(text):
        sample = sample[: sample.rfind("\n") + 1] or sample
    best = max(_DELIMITERS, key=lambda mark: _fit(sample, mark))
    if _fit(sample, best)[0]:
        return best
    try:
        return csv.Sniffer().sniff(sample, _DELIMITERS).delimiter
    except csv.Error:  # one column, or too short to tell
        return ","


def _fit(sample: str, delimiter: str) -> tuple[float, int]:
    """The fraction of rows that are as wide as the header, and its width; 0 below two cells."""
    with suppress(csv.Error):
        rows = [
            row for row in csv.reader(io.StringIO(sample, newline=""), delimiter=delimiter) if row
        ]
        width = len(rows[0]) if rows else 0
        if width > 1:
            return sum(len(row) == width for row in rows) / len(rows), width
    return 0.0, 0
