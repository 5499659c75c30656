"""Lines that lead through a site or stand on every page of it, and say nothing about its subject.

:func:`drop_navigation` works on one document. :class:`RepeatedLines` finds the headers and footers
that many documents of a corpus share.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Set
from dataclasses import replace

from memo_dist.corpus.parsed import MARK, code_lines
from memo_dist.corpus.types import Document
from memo_dist.io.hashing import sha256_text

_NAVIGATION_WORDS = {
    *("prev", "previous", "up", "home", "next", "back", "top", "contents", "index", "menu"),
    *("previous page", "next page", "previous chapter", "next chapter", "main page"),
}
_NAVIGATION_LINES = {
    *("table of contents", "on this page", "in this article", "skip to content", "contents"),
    *("skip to main content", "edit this page", "edit on github", "back to top", "view source"),
    *("view page source", "was this page helpful?", "print this page", "toggle navigation"),
    *("improve this page", "report an issue with this page", "copy page", "search"),
}
_TRAIL_BEGINS = {
    *("home", "homepage", "home page", "start", "main", "main page", "index", "contents", "top"),
    *("docs", "documentation", "doc", "help", "support", "handbook", "manual", "manuals", "wiki"),
    *(
        "guide",
        "guides",
        "user guide",
        "reference",
        "knowledge base",
        "blog",
        "products",
        "you are here",
    ),
}
_ARROWS = re.compile(
    r"[\u2190-\u21ff\u25b2-\u25c5\u27f5-\u27ff\u00ab\u00bb\u2039\u203a|<>\u00b7\u2022]+"
)
_PARTS = re.compile(
    r"\s*(?:[|;\u00b7\u2022\u00ab\u00bb\u2039\u203a\u2190\u2192]|\s{2,}|\s[-\u2013<>/]\s)\s*"
)
_TRAIL = re.compile(r"\s*[>\u00bb\u203a\u2192]\s*")
_LONGEST = 200
_TRAIL_WITHIN = 6
"""Breadcrumbs stand among the first lines of a document, above its first sentence."""

_EDGE_LINES = 6
_FEWEST_DOCUMENTS = 5
_LEAST_FRACTION = 0.2
_SENTENCE_END = re.compile(r"[.!?][\"')\]]*$")
_BODY = re.compile(r"[.!?:][\"')\]]*$")
"""Ends a sentence, or a line that announces what follows."""
_LEGAL = re.compile(
    r"©|\(c\) \d{4}|copyright|all rights reserved|privacy policy|cookies|terms of (?:use|service)"
    r"|licensed under|powered by|subscribe|newsletter|was this page",
    re.IGNORECASE,
)


def is_navigation_word(text: str) -> bool:
    """Whether a cell or a link's text only leads to another page: ``« Prev``, ``Next``."""
    return _ARROWS.sub(" ", text).strip().lower() in _NAVIGATION_WORDS


def drop_navigation(lines: list[str], names: Iterable[str] = ()) -> list[str]:
    """The lines of a document without those of navigation; code keeps all of its lines.

    Args:
        lines: the document.
        names: its title and folders, with which a trail of breadcrumbs may begin.
    """
    begins = _TRAIL_BEGINS | {name.strip().lower() for name in names}
    kept: list[str] = []
    above = 0
    for line, code in zip(lines, code_lines(lines), strict=True):
        if code or not (
            _is_navigation(line) or (above < _TRAIL_WITHIN and _is_trail(line, begins))
        ):
            kept.append(line)
            above += _TRAIL_WITHIN * (code or _BODY.search(line.rstrip()) is not None)
        above += bool(line.strip())
    return kept


def _is_navigation(line: str) -> bool:
    text = line.strip().lstrip(MARK).strip()
    if not text or len(text) > _LONGEST:
        return False
    plain = _ARROWS.sub(" ", text).strip().lower()
    if plain in _NAVIGATION_LINES and (plain != "search" and plain != "contents"):
        return True
    return not line.startswith(MARK) and _leads_on(text, plain)


def _is_trail(line: str, begins: Set[str]) -> bool:
    """``Home > Products > Bolts``: breadcrumbs, unlike ``File > Print > Two sides``."""
    text = line.strip().lstrip(MARK).strip()
    if len(text) > _LONGEST or _SENTENCE_END.search(text):
        return False
    steps = [step for step in _TRAIL.split(text) if step]
    if len(steps) < 3 or any(len(step.split()) > 6 for step in steps):
        return False
    return steps[0].lower().removeprefix("you are here: ") in begins


def _leads_on(text: str, plain: str) -> bool:
    """``Prev Up Next``, or ``Prev: Bolts | Home | Next: Nuts``; no ``Part: 4; Next: 5``."""
    words = plain.split()
    if len(words) > 1 and all(word in _NAVIGATION_WORDS for word in words):
        return True
    if sum(": " in cell for cell in text.split("; ")) > 1:  # a row of values
        return False
    parts = [part for part in _PARTS.split(text) if part]
    heads = [re.split(r":\s", part, maxsplit=1)[0] for part in parts]
    return len(parts) > 1 and sum(map(is_navigation_word, heads)) > 1


class RepeatedLines:
    """Counts the first and last lines of every document: shared ones are headers or footers.

    Headings, key-value lines and sentences of a document's own stay, however often they occur:
    contracts and minutes repeat facts. Memory: one hash for each different line at an edge.
    """

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._documents = 0

    def add(self, document: Document) -> None:
        """Count a document."""
        self._documents += 1
        headings = {at for at, _ in document.headings}
        self._counts.update({_key(line) for _, line in _edges(document.text, headings)})

    def without(self, document: Document) -> Document:
        """The document without shared lines; as it is where nothing else would be left."""
        least = max(_FEWEST_DOCUMENTS, _LEAST_FRACTION * self._documents)
        headings = {at for at, _ in document.headings}
        shared = {
            start
            for start, line in _edges(document.text, headings)
            if self._counts[_key(line)] >= least
        }
        if not shared:
            return document
        kept: list[str] = []
        moved: dict[int, int] = {}
        start = size = 0
        for line in document.text.split("\n"):
            between = not line and (not kept or not kept[-1])
            if start not in shared and not between:
                moved[start] = size
                kept.append(line)
                size += len(line) + 1
            start += len(line) + 1
        text = "\n".join(kept).rstrip("\n")
        places = tuple((moved[at], level) for at, level in document.headings)
        return replace(document, text=text, headings=places) if text else document


def _edges(text: str, headings: set[int]) -> Iterator[tuple[int, str]]:
    """(offset, line) of the lines near both ends that could be a header or a footer."""
    lines = [(match.start(), match[0]) for match in re.finditer(r"[^\n]+", text)]
    inside = code_lines([line for _, line in lines])
    for index, (start, line) in enumerate(lines):
        if _EDGE_LINES <= index < len(lines) - _EDGE_LINES:
            continue
        if start not in headings and not inside[index] and _could_repeat(line.strip()):
            yield start, line


def _could_repeat(line: str) -> bool:
    if len(line) > _LONGEST or not line:
        return False
    if _LEGAL.search(line):
        return True
    return not _SENTENCE_END.search(line) and ": " not in line and not line.endswith(":")


def _key(line: str) -> str:
    return sha256_text(" ".join(line.split()).lower())[:16]
