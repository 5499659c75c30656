"""Readings: the chunks of one document that a call reads together, as numbered passages.

A reading never holds two documents, so that a request stays the same while other documents change.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from memo_dist.corpus.chunking import sentence_spans
from memo_dist.corpus.types import Chunk, Document
from memo_dist.synthesis.types import Unit
from memo_dist.synthesis.words import content


@dataclass(frozen=True, slots=True)
class Passage:
    """A chunk under the number that prompt and reply call it by.

    Attributes:
        number: counted from 1 inside its reading.
        document: the chunk's document.
        chunk: what is read.
    """

    number: int
    document: Document
    chunk: Chunk

    @property
    def ground(self) -> str:
        """All that an answer from this passage may rest on: title, section, date and text."""
        return ground(self.document, self.chunk)


def ground(document: Document, chunk: Chunk) -> str:
    """Title, section, date and text of a chunk."""
    return f"{document.title}\n{chunk.section}\n{document.date or ''}\n{chunk.text}"


@dataclass(frozen=True, slots=True)
class Reading:
    """The passages of one call, in the unit's order."""

    passages: tuple[Passage, ...]

    def passage(self, number: int) -> Passage | None:
        """The passage that a reply names, None where there is none of that number."""
        return self.passages[number - 1] if 1 <= number <= len(self.passages) else None

    @property
    def ground(self) -> str:
        """All that a question about these passages may name."""
        return "\n".join(passage.ground for passage in self.passages)

    @property
    def words(self) -> int:
        """Words of all passages together."""
        return sum(len(passage.chunk.text.split()) for passage in self.passages)

    @property
    def chars(self) -> int:
        """Characters of all passages together."""
        return sum(len(passage.chunk.text) for passage in self.passages)


def readings(unit: Unit, call_chars: int) -> list[Reading]:
    """Cut each document into readings of at most ``call_chars`` characters.

    A longer chunk is a reading of its own.
    """
    documents = {document.id: document for document in unit.documents}
    return [
        Reading(
            tuple(
                Passage(number, documents[chunk.document], chunk)
                for number, chunk in enumerate(batch, start=1)
            )
        )
        for batch in _batches(unit.chunks, call_chars)
    ]


def _batches(chunks: Sequence[Chunk], limit: int) -> Iterator[list[Chunk]]:
    batch: list[Chunk] = []
    size = 0
    for chunk in chunks:
        other = batch and batch[-1].document != chunk.document
        if other or (batch and size + len(chunk.text) > limit):
            yield batch
            batch, size = [], 0
        batch.append(chunk)
        size += len(chunk.text)
    if batch:
        yield batch


@dataclass(frozen=True, slots=True)
class Part:
    """The sentences of a reading that one call is about.

    Attributes:
        reading: all that the call reads.
        index: of the part, from 0.
        sentences: (passage number, sentence) in order.
        whole: whether these are all sentences of the reading.
    """

    reading: Reading
    index: int
    sentences: tuple[tuple[int, str], ...]
    whole: bool


def parts(reading: Reading, chars: int) -> list[Part]:
    """Cut a reading into parts of about ``chars`` characters, as equal as sentences allow."""
    rows = list(_sentences(reading))
    total = sum(len(text) for _, text in rows) or 1
    count = max(1, -(-total // chars))
    dealt: list[list[tuple[int, str]]] = [[] for _ in range(count)]
    at = 0
    for number, text in rows:
        dealt[min(count - 1, (at + len(text) // 2) * count // total)].append((number, text))
        at += len(text)
    full = [tuple(some) for some in dealt if some]
    return [Part(reading, index, some, len(full) == 1) for index, some in enumerate(full)]


def _sentences(reading: Reading) -> Iterator[tuple[int, str]]:
    """Each sentence that says something, once, also where chunks overlap."""
    seen: set[tuple[str, int]] = set()
    for passage in reading.passages:
        for start, end in sentence_spans(passage.chunk.text):
            place = (passage.chunk.document, passage.chunk.start + start)
            text = passage.chunk.text[start:end]
            if place not in seen and content(text):
                seen.add(place)
                yield passage.number, text


def grounds(unit: Unit) -> dict[str, str]:
    """All that a question about each document of a unit may name, by the document's id."""
    return {
        document.id: "\n".join(
            ground(document, chunk) for chunk in unit.chunks if chunk.document == document.id
        )
        for document in unit.documents
    }
