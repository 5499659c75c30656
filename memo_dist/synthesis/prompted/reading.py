"""Readings: the chunks that one call reads together, as numbered passages.

A long document is read chunk by chunk; short documents of a unit share a reading, because a call
costs its instructions and its latency however little it reads.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from memo_dist.corpus.types import Chunk, Document
from memo_dist.synthesis.types import Reflection, Unit


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
        """All that an answer from this passage may rest on: title, date and text."""
        return ground(self.document, self.chunk)


def ground(document: Document, chunk: Chunk) -> str:
    """Title, date and text of a chunk."""
    return f"{document.title}\n{document.date or ''}\n{chunk.text}"


@dataclass(frozen=True, slots=True)
class Reading:
    """The passages of one call, in the unit's order."""

    passages: tuple[Passage, ...]

    def passage(self, number: int) -> Passage | None:
        """The passage that a reply names, None where there is none of that number."""
        return self.passages[number - 1] if 1 <= number <= len(self.passages) else None

    def number_of(self, reflection: Reflection) -> int | None:
        """The first passage that the reflection rests on, None where this reading has none."""
        cited = set(reflection.chunks)
        for passage in self.passages:
            if passage.chunk.id in cited:
                return passage.number
        return None

    @property
    def chars(self) -> int:
        """Characters of all passages together."""
        return sum(len(passage.chunk.text) for passage in self.passages)


def readings(unit: Unit, call_chars: int) -> list[Reading]:
    """Cut a unit into readings of at most ``call_chars`` characters (a longer chunk is alone)."""
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
        if batch and size + len(chunk.text) > limit:
            yield batch
            batch, size = [], 0
        batch.append(chunk)
        size += len(chunk.text)
    if batch:
        yield batch
