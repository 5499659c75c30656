"""PDF to text, by pdfminer.six: pages in order, lines joined to sentences again."""

from __future__ import annotations

import io
import itertools
import logging
import re
from collections import Counter

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
_LEADER = re.compile(r".*(?:\.\s?){4,}\s*[\divxlc]*\s*")
"""A line of a table of contents: dots lead to the page."""
_BULLET = re.compile(r"[•‣▪●◦–-]\s")
_NUMBER = re.compile(r"\d+|\b[ivxlc]+\b")
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
    three pages and on half of them; in the first and in the last line numbers may differ.
    """
    counts = Counter(key for page in pages for key in set(_edges(page.split("\n")).values()))
    least = max(_FEWEST_PAGES, len(pages) / 2)
    cleaned = []
    for page in pages:
        lines = page.split("\n")
        margins = {at for at, key in _edges(lines).items() if counts[key] >= least}
        cleaned.append(
            "\n".join(
                line
                for at, line in enumerate(lines)
                if at not in margins and not _LEADER.fullmatch(line)
            )
        )
    return cleaned


def _edges(lines: list[str]) -> dict[int, str]:
    """Index of each line that may be a header or footer, and what it shares with others."""
    full = [at for at, line in enumerate(lines) if line.strip()]
    inner = {at: lines[at].strip() for at in (*full[1:2], *full[-2:-1])}
    return inner | {at: _NUMBER.sub("0", lines[at].strip()) for at in (*full[:1], *full[-1:])}


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
