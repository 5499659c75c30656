"""Plain text: decoding, dates, and lines that were wrapped at a fixed width."""

from __future__ import annotations

import itertools
import re
from contextlib import suppress
from datetime import UTC, date, datetime
from typing import Any

from memo_dist.answers.characters import clean_characters
from memo_dist.corpus.types import UnreadableError
from memo_dist.corpus.wrapping import mark_encoding

_LIST_ITEM = re.compile(r"(?:[-*+•]|\(?\w{1,3}[.)])\s")
_BLANK_LINES = re.compile(r"\n\s*\n")
_HARD_WRAP_WIDTHS = range(50, 121)
_MONTHS = (
    *("january", "february", "march", "april", "may", "june", "july", "august", "september"),
    *("october", "november", "december"),
)
_DAY_FIRST = re.compile(
    r"(?P<day>\d{1,2})(?:st|nd|rd|th)?\.?(?: of)? (?P<month>[A-Za-z]+)\.?,? (?P<year>\d{4})"
)
_MONTH_FIRST = re.compile(
    r"(?P<month>[A-Za-z]+)\.? (?P<day>\d{1,2})(?:st|nd|rd|th)?,? (?P<year>\d{4})"
)
_EPOCH_YEARS = (1980, 2100)


def decode(data: bytes) -> str:
    """Decode UTF-8, or UTF-16 and UTF-32 with a byte order mark (which is dropped).

    Raises:
        UnreadableError: ``not_utf8`` with the first bad byte, or ``binary``.
    """
    marked = mark_encoding(data)
    if marked:
        return _decode_marked(data, marked)
    zero = data.find(b"\0")
    if zero >= 0:
        raise UnreadableError("binary", f"NUL byte at offset {zero}: not a text file")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        bad = data[error.start]
        raise UnreadableError(
            "not_utf8", f"byte 0x{bad:02x} at offset {error.start} is not UTF-8"
        ) from error


def _decode_marked(data: bytes, encoding: str) -> str:
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        detail = f"{encoding.upper()} by its byte order mark, but not at offset {error.start}"
        raise UnreadableError("not_utf8", detail) from error
    return check_text(text)


def check_text(text: str) -> str:
    """Return ``text``, which came from a library or from JSON, if UTF-8 files can hold it.

    Raises:
        UnreadableError: ``binary`` (NUL) or ``not_utf8`` (half of a surrogate pair).
    """
    if "\0" in text:
        raise UnreadableError("binary", f"NUL character at offset {text.index(chr(0))}")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UnreadableError(
            "not_utf8", f"half a surrogate pair at character {error.start}"
        ) from error
    return text


def tidy(text: str, *, wrapped: bool) -> str:
    """Normalise characters and line ends, and keep one blank line between blocks.

    Args:
        text: any text.
        wrapped: whether paragraphs may be wrapped at a fixed width; those are joined.

    Raises:
        UnreadableError: ``empty`` when nothing but white space is left.
    """
    blocks = _BLANK_LINES.split(clean_characters(text).strip())
    if not blocks[0]:
        raise UnreadableError("empty", "no text")
    return "\n\n".join(_unwrap(block) if wrapped else block for block in blocks)


def _unwrap(block: str) -> str:
    """Join the lines of one block if each was broken only because the next word had no room.

    A line break in text is otherwise a border between sentences, which would cut the
    sentences of files that an editor wrapped at 72 columns.
    """
    lines = [line.rstrip() for line in block.split("\n")]
    width = max(len(line) for line in lines)
    if len(lines) == 1 or width not in _HARD_WRAP_WIDTHS:
        return "\n".join(lines)
    for line, following in itertools.pairwise(lines):
        word = following.split(maxsplit=1)[0]
        if len(line) + 1 + len(word) <= width or _LIST_ITEM.match(following.lstrip()):
            return "\n".join(lines)
    return " ".join(line.strip() for line in lines)


def readable_date(value: Any) -> str | None:
    """The ISO date in ``value``; None where there is none, or none that can be read for sure.

    Read are dates and datetimes, ISO text (``2031-03-14``, also with a time), a day with the
    month's English name (``14 March 2031``, ``March 14, 2031``), and numbers that are seconds,
    milliseconds, microseconds or nanoseconds since 1970 (as pandas writes dates). A date is
    optional: one that cannot be read (``2031``, ``3/4/31``) is left out.
    """
    if isinstance(value, datetime):
        return value.date().isoformat()
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, int | float) and not isinstance(value, bool):
        return _epoch_date(value)
    text = str(value).strip() if isinstance(value, str) else ""
    # fromisoformat also takes 20310314 and 2031-W11-5, which are too easily something else.
    if re.match(r"\d{4}-\d{2}-\d{2}(?:$|[T ])", text):
        with suppress(ValueError):
            return datetime.fromisoformat(text).date().isoformat()
        with suppress(ValueError):
            return date.fromisoformat(text[:10]).isoformat()
    if re.fullmatch(r"\d{9,19}", text):
        return _epoch_date(int(text))
    return _named_date(text)


def _epoch_date(value: float) -> str | None:
    """A number of seconds or smaller units since 1970, where it falls between 1980 and 2100."""
    for unit in (1, 10**3, 10**6, 10**9):
        with suppress(ValueError, OSError, OverflowError):  # OSError: from 1e18 on, by the platform
            day = datetime.fromtimestamp(value / unit, UTC).date()
            if _EPOCH_YEARS[0] <= day.year < _EPOCH_YEARS[1]:
                return day.isoformat()
    return None


def _named_date(text: str) -> str | None:
    """``14 March 2031``, ``14th of March 2031``, ``March 14, 2031``, ``14 Mar 2031``."""
    match = _DAY_FIRST.fullmatch(text) or _MONTH_FIRST.fullmatch(text)
    name = match["month"].lower() if match else ""
    months = [n for n, month in enumerate(_MONTHS, start=1) if name in (month, month[:3])]
    if match and months:
        with suppress(ValueError):
            return date(int(match["year"]), months[0], int(match["day"])).isoformat()
    return None
