"""Sentences and chunks, as exact spans of a document's text."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from functools import cache
from typing import Any

from memo_dist.corpus.sections import Sections
from memo_dist.corpus.types import Chunk, Document

Span = tuple[int, int]
"""Character offsets, half open."""

_LINE = re.compile(r"[^\n]+")
_INNER_BORDER = re.compile(r"[.!?…。！？]\S{0,3}\s")
_WINDOW_CHARS = 8000
"""Longest text handed to pysbd at once: its time grows with the square of the length."""


def sentence_spans(text: str) -> list[Span]:
    """The sentences of ``text`` in order, without the white space around them.

    A line break is always a border (headings, list items and table rows are lines). The
    spans cover every character that is not white space, each exactly once.
    """
    spans: list[Span] = []
    for line in _LINE.finditer(text):
        for start, end in _windows(text, line.start(), line.end()):
            spans.extend(_line_sentences(text, start, end))
    return spans


def chunk_document(document: Document, chunk_chars: int, overlap_sentences: int) -> list[Chunk]:
    """Cut a document into chunks of whole sentences.

    Args:
        document: the document.
        chunk_chars: largest chunk in characters, at least 1; a longer sentence is cut at
            white space (inside a word only where it has none).
        overlap_sentences: sentences repeated from the chunk before, where they fit.

    Returns:
        Chunks in order; together they hold every sentence, and
        ``document.text[chunk.start:chunk.end] == chunk.text``.
    """
    text = document.text
    pieces = [
        piece for span in sentence_spans(text) for piece in _cut_long(text, span, chunk_chars)
    ]
    headings = {at for at, _ in document.headings}
    spans = _pack(pieces, chunk_chars, overlap_sentences, headings)
    sections = Sections(document)
    return [
        Chunk(document.id, start, end, text[start:end], sections.of(start, end))
        for start, end in spans
    ]


def _pack(pieces: list[Span], chunk_chars: int, overlap: int, headings: set[int]) -> Iterator[Span]:
    """Greedy packing: each chunk takes as many pieces as fit, but no heading at its end."""
    first = new = 0  # the chunk's first piece, and its first that no chunk had yet
    while new < len(pieces):
        while pieces[new][1] - pieces[first][0] > chunk_chars:
            first += 1  # the overlap leaves no room for a new piece
        last = new
        while last + 1 < len(pieces) and pieces[last + 1][1] - pieces[first][0] <= chunk_chars:
            last += 1
        while new < last < len(pieces) - 1 and pieces[last][0] in headings:
            last -= 1
        yield pieces[first][0], pieces[last][1]
        new = last + 1
        first = max(new - overlap, first + 1)


def _line_sentences(text: str, start: int, end: int) -> Iterator[Span]:
    """The sentences between two offsets, by pysbd."""
    line = text[start:end]
    borders = [len(line)]
    if _INNER_BORDER.search(line):
        # Only the ends are used: pysbd sometimes loses a piece of text, which then joins
        # the sentence after it instead of vanishing.
        # https://github.com/nipunsadvilkar/pySBD/issues/83
        borders = sorted({min(span.end, len(line)) for span in _segmenter().segment(line)})
        borders += [len(line)]
    before = 0
    for border in borders:
        piece = line[before:border]
        stripped = piece.strip()
        if stripped:
            begin = start + before + piece.index(stripped)
            yield begin, begin + len(stripped)
        before = max(before, border)


def _windows(text: str, start: int, end: int) -> Iterator[Span]:
    """Cut a long line where a sentence seems to end, else at white space."""
    while end - start > _WINDOW_CHARS:
        window = text[start : start + _WINDOW_CHARS]
        cut = max(window.rfind(mark) for mark in (". ", "! ", "? ")) + 2
        if cut < _WINDOW_CHARS // 2:
            cut = _space_cut(window)
        yield start, start + cut
        start += cut
    yield start, end


def _cut_long(text: str, span: Span, limit: int) -> Iterator[Span]:
    start, end = span
    while end - start > limit:
        # One character more: a word that ends right at the limit stays whole.
        cut = min(_space_cut(text[start : start + limit + 1]), limit)
        yield start, start + len(text[start : start + cut].rstrip())
        start += cut
        start += len(text[start:end]) - len(text[start:end].lstrip())
    yield start, end


def _space_cut(window: str) -> int:
    """Length of ``window`` up to its last white space, or all of it where it has none."""
    for index in range(len(window) - 1, 0, -1):
        if window[index].isspace():
            return index
    return len(window)


@cache
def _segmenter() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)  # pysbd 0.3.4 on Python 3.12
        import pysbd
    return pysbd.Segmenter(language="en", clean=False, char_span=True)
