"""PDF to text: pages in order, lines joined to sentences again."""

from __future__ import annotations

import io
import logging
import re

from pypdf import PdfReader
from pypdf.errors import FileNotDecryptedError, WrongPasswordError

from memo_dist.corpus.parsed import Parsed
from memo_dist.corpus.types import UnreadableError

_FULL_LINE = 0.75
"""A line this long, as a fraction of the usual longest, ran on to the next one."""
_HYPHEN_BREAK = re.compile(r"(?<=\w)-$")
_END_OF_SENTENCE = re.compile(r"[.!?:;][\"')\]]*$")

# pypdf logs each oddity of each page; what matters of it reaches the quarantine.
logging.getLogger("pypdf").setLevel(logging.CRITICAL)


def read_pdf(data: bytes) -> Parsed:
    """Read the text layer of a PDF; the title comes from its metadata.

    Raises:
        UnreadableError: ``encrypted_pdf``, ``broken_pdf``, or ``no_text`` (scanned pages).
    """
    try:
        reader = PdfReader(io.BytesIO(data))
        if reader.is_encrypted and not reader.decrypt(""):
            raise UnreadableError("encrypted_pdf", "the PDF needs a password")
        pages = [page.extract_text() for page in reader.pages]
        title = str((reader.metadata and reader.metadata.title) or "").strip()
    except UnreadableError:
        raise
    except (FileNotDecryptedError, WrongPasswordError) as error:
        raise UnreadableError("encrypted_pdf", str(error)) from error
    except Exception as error:  # pypdf documents that broken files raise anything
        # https://github.com/py-pdf/pypdf/issues/2761
        raise UnreadableError("broken_pdf", f"{type(error).__name__}: {error}"[:200]) from error
    text = join_lines("\n".join(pages))
    if not text:
        raise UnreadableError("no_text", f"{len(pages)} pages without a text layer (scanned?)")
    return Parsed(text, title)


def join_lines(text: str) -> str:
    """Join lines that ran on; short lines (headings, ends of paragraphs) stay lines."""
    lines = [line.strip() for line in text.splitlines()]
    lengths = sorted(len(line) for line in lines if line)
    width = lengths[int(0.9 * (len(lengths) - 1))] if lengths else 0  # robust to one long line
    joined: list[str] = []
    runs_on = False
    for line in lines:
        if runs_on and line:
            joined[-1] = _joined(joined[-1], line)
        else:
            joined.append(line)
        ended = _END_OF_SENTENCE.search(line) is not None
        runs_on = bool(line) and len(line) >= width * (1.0 if ended else _FULL_LINE)
    return "\n".join(joined).strip("\n")


def _joined(before: str, after: str) -> str:
    """Join two lines; a hyphen before a lower-case letter was put there by the line break."""
    if _HYPHEN_BREAK.search(before) and after[0].islower():
        return before[:-1] + after
    return f"{before} {after}"
