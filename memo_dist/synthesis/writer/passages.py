"""The passages of a document that questions are written about: prose under its headings."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass

from memo_dist.corpus.types import Document
from memo_dist.synthesis.rules.blocks import Block, read_blocks
from memo_dist.synthesis.rules.nlp import split_sentences

_WORDS = 130
"""Of a passage, at most: about as long as those that the writer learned from."""


@dataclass(frozen=True, slots=True)
class Passage:
    """A stretch of prose.

    Attributes:
        title: the document's title, and the heading where there is one.
        text: sentences joined by single spaces.
        places: (offset into ``text``, offset into the document) of each sentence.
    """

    title: str
    text: str
    places: tuple[tuple[int, int], ...]

    def place(self, offset: int) -> int:
        """The document's offset of the sentence that holds an offset into ``text``."""
        return self.places[bisect_right(self.places, (offset, 1 << 62)) - 1][1]


def passages(document: Document) -> list[Passage]:
    """The document's prose in passages of whole sentences; tables and key-value lines are not."""
    found: list[Passage] = []
    heading, sentences, words = "", list[tuple[str, int]](), 0
    for block, text, start in _sentences(document):
        size = len(text.split())
        if sentences and (block.heading != heading or words + size > _WORDS):
            found.append(_passage(document, heading, sentences))
            sentences, words = [], 0
        heading = block.heading
        sentences.append((" ".join(text.split()), start))
        words += size
    if sentences:
        found.append(_passage(document, heading, sentences))
    return found


def _sentences(document: Document) -> Iterator[tuple[Block, str, int]]:
    for block in read_blocks(document.text):
        if block.kind == "prose":
            for text, start in split_sentences(block.text, block.start):
                yield block, text, start


def _passage(document: Document, heading: str, sentences: list[tuple[str, int]]) -> Passage:
    places, at = [], 0
    for text, start in sentences:
        places.append((at, start))
        at += len(text) + 1
    title = f"{document.title}, {heading}" if heading else document.title
    return Passage(title, " ".join(text for text, _ in sentences), tuple(places))
