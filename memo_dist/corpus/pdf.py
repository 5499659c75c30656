"""PDF to text, by pdfminer.six: pages in order, lines joined to sentences again."""

from __future__ import annotations

import io
import itertools
import logging
import re
from collections import Counter
from typing import NamedTuple

from pdfminer.converter import TextConverter
from pdfminer.layout import LAParams
from pdfminer.pdfdocument import PDFDocument, PDFPasswordIncorrect
from pdfminer.pdfinterp import PDFPageInterpreter, PDFResourceManager
from pdfminer.pdfpage import PDFPage
from pdfminer.pdfparser import PDFParser
from pdfminer.pdftypes import resolve1
from pdfminer.utils import decode_text

from memo_dist.corpus.parsed import MARK, Parsed
from memo_dist.corpus.text import readable_date
from memo_dist.corpus.types import UnreadableError

_FULL_LINE = 0.75
"""A line this long, as a fraction of the usual longest, ran on to the next one."""
_HYPHEN_BREAK = re.compile(r"(?<=\w)-$")
_END_OF_SENTENCE = re.compile(r"[.!?:;][\"')\]]*$")
_UNREADABLE = re.compile(r"\(cid:\d+\)|[\x00\ud800-\udfff]")
"""Glyphs that the font maps to no character."""
_LEADER = re.compile(r"(?:\.\s?){4}\s{0,99}(\d{1,5}|[ivxlc]{1,8})?$")
"""Ends a line of a table of contents: dots lead to the page."""
_FEWEST_LEADERS = 3
_BULLET = re.compile(r"[•‣▪●◦–-]\s")
_MARGIN_PARTS = re.compile(r"\s*[|\u2022\u00b7]\s*|\s{2,}|\t")
_PAGE_NUMBER = re.compile(
    r"(?:page|p\.|p|pg\.?|seite|side|sida|strana|p\u00e1gina|pagina|blz\.)?\s?"
    r"(?P<number>\d{1,5}|[ivxlc]{1,8})(?:\s?(?:of|/|von|de|sur|di|van|av)\s?\d{1,5})?",
    re.IGNORECASE,
)
_ROMAN = {"i": 1, "v": 5, "x": 10, "l": 50, "c": 100}
_FEWEST_PAGES = 3
_DATE = re.compile(r"(?:D:)?(\d{4})(\d{2})(\d{2})")

# pdfminer logs each oddity of each page; what matters of it reaches the quarantine.
logging.getLogger("pdfminer").setLevel(logging.CRITICAL)


def read_pdf(data: bytes) -> Parsed:
    """Read the text layer of a PDF; title and date come from its metadata.

    Raises:
        UnreadableError: ``encrypted_pdf`` (a password is needed), ``broken_pdf``, or ``no_text``
            (scanned pages).
    """
    try:
        document = PDFDocument(PDFParser(io.BytesIO(data)), password="")
        pages = _pages(document)
        title, date = _metadata(document)
    except PDFPasswordIncorrect as error:
        raise UnreadableError("encrypted_pdf", "the PDF needs a password") from error
    except (MemoryError, RecursionError):
        raise
    except Exception as error:  # broken files raise anything
        # https://github.com/pdfminer/pdfminer.six/issues/1107
        raise UnreadableError("broken_pdf", f"{type(error).__name__}: {error}"[:200]) from error
    text = join_lines("\n".join(without_margins(pages)))
    if not text:
        raise UnreadableError("no_text", f"{len(pages)} pages without a text layer (scanned?)")
    return Parsed(text, title, date)


def _pages(document: PDFDocument) -> list[str]:
    manager = PDFResourceManager()
    texts: list[str] = []
    for page in PDFPage.create_pages(document):
        out = io.StringIO()
        device = TextConverter(manager, out, laparams=LAParams())
        PDFPageInterpreter(manager, device).process_page(page)
        texts.append(_UNREADABLE.sub("", out.getvalue()).replace(MARK, "").replace("\f", "\n"))
    if not texts:
        raise ValueError("no pages")
    return texts


def _metadata(document: PDFDocument) -> tuple[str, str | None]:
    values = document.info[0] if document.info else {}
    return _text(values.get("Title")), _date(_text(values.get("CreationDate")))


def _text(value: object) -> str:
    found = resolve1(value)
    text = decode_text(found) if isinstance(found, bytes) else str(found or "")
    return _UNREADABLE.sub("", text).strip()


def _date(text: str) -> str | None:
    match = _DATE.match(text)
    return readable_date("-".join(match.groups())) if match else None


def without_margins(pages: list[str]) -> list[str]:
    """Pages without headers, footers and page numbers, and without tables of contents.

    A header or footer is one of the first or last two lines of a page that stands on at least
    three pages and on half of them; in the first and in the last line it may hold the page's
    number. Other numbers make other lines: ``Lot 101`` and ``Lot 102`` are content.
    """
    edges = [_edges(page.split("\n"), index) for index, page in enumerate(pages)]
    in_step = Counter(key for page in edges for key in set(page.values()))
    counts = Counter(
        key.rest
        for page in edges
        for key in set(page.values())
        if key.offset is None or in_step[key] > 1
    )
    least = max(_FEWEST_PAGES, len(pages) / 2)
    cleaned = []
    for page, keys in zip(pages, edges, strict=True):
        lines = page.split("\n")
        shared = (at for at, key in keys.items() if counts[key.rest] >= least)
        left_out = {at for at in shared if keys[at].offset is None or in_step[keys[at]] > 1}
        left_out |= _contents(lines, len(pages))
        cleaned.append("\n".join(line for at, line in enumerate(lines) if at not in left_out))
    return cleaned


class _Edge(NamedTuple):
    """What a header or footer shares with those of other pages.

    Attributes:
        rest: its text, without the page's number.
        offset: the page's number less the page's place; None for a line without one. It is the
            same on pages that follow each other.
    """

    rest: str
    offset: int | None = None


def _edges(lines: list[str], index: int) -> dict[int, _Edge]:
    """Each line of a page that may be a header or footer, by its place."""
    full = [at for at, line in enumerate(lines) if line.strip()]
    inner = {at: _Edge(lines[at].strip()) for at in (*full[1:2], *full[-2:-1])}
    return inner | {at: _numbered(lines[at], index) for at in (*full[:1], *full[-1:])}


def _numbered(line: str, index: int) -> _Edge:
    """The first or last line of page ``index``; a page's number stands alone or apart in it."""
    parts = [part for part in _MARGIN_PARTS.split(line.strip()) if part]
    for at in (len(parts) - 1, 0):
        match = _PAGE_NUMBER.fullmatch(parts[at].strip(" -\u2013\u2014[]()")) if parts else None
        if match:
            rest = " | ".join(parts[:at] + parts[at + 1 :])
            return _Edge(f"{rest} | number", _value(match["number"]) - index)
    return _Edge(line.strip())


def _value(number: str) -> int:
    """A number in digits or in small Roman ones."""
    if number.isdigit():
        return int(number)
    values = [_ROMAN[letter] for letter in number.lower()]
    pairs = itertools.zip_longest(values, values[1:], fillvalue=0)
    return sum(-value if value < after else value for value, after in pairs)


def _contents(lines: list[str], pages: int) -> set[int]:
    """The lines of a table of contents; prices behind dots follow no order of pages."""
    leaders = {
        at: match for at, line in enumerate(lines) if (match := _LEADER.search(line.strip()))
    }
    numbers = [int(match[1]) for match in leaders.values() if (match[1] or "").isdigit()]
    numbered = sum(match[1] is not None for match in leaders.values())
    in_order = numbers == sorted(numbers) and max(numbers, default=0) <= pages
    return set(leaders) if numbered >= _FEWEST_LEADERS and in_order else set()


def join_lines(text: str) -> str:
    """Join lines that ran on; short lines (headings, ends of paragraphs) stay lines."""
    lines = [line.strip() for line in text.splitlines()]
    lengths = sorted(len(line) for line in lines if line)
    width = lengths[int(0.9 * (len(lengths) - 1))] if lengths else 0  # robust to one long line
    joined: list[list[str]] = []
    runs_on = False
    for line in lines:
        if runs_on and line and not _BULLET.match(line):
            joined[-1].append(line)
        else:
            joined.append([line])
        ended = _END_OF_SENTENCE.search(line) is not None
        runs_on = bool(line) and len(line) >= width * (1.0 if ended else _FULL_LINE)
    return "\n".join(map(_joined, joined)).strip("\n")


def _joined(lines: list[str]) -> str:
    """Join lines; a hyphen before a lower-case letter was put there by the line break."""
    parts = lines[:1]
    for before, after in itertools.pairwise(lines):
        if _HYPHEN_BREAK.search(before) and after[0].islower():
            parts[-1] = parts[-1][:-1]
        else:
            parts.append(" ")
        parts.append(after)
    return "".join(parts)
