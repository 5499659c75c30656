"""Coverage: which sentences of a document its reflections tell, and which none does.

A sentence counts as covered when the reflections that touch it (their answer shares a content
word with it) together hold at least half of its content words. The measure is lexical: it sees
that something about the sentence is asked, not that everything in it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from memo_dist.corpus.chunking import sentence_spans
from memo_dist.corpus.types import Document
from memo_dist.synthesis.types import Reflection
from memo_dist.synthesis.words import content

COVERED = 0.5
"""Share of a sentence's content words that its reflections must hold."""
LEAST_WORDS = 3
"""A line with fewer content words (a heading, a list mark) is not counted as a sentence."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a reflection tells: content words of its answer, and of the whole pair."""

    answer: frozenset[str]
    pair: frozenset[str]


def evidence_of(reflection: Reflection) -> Evidence | None:
    """What a reflection tells; None for an abstention, which tells nothing."""
    if reflection.kind == "abstain":
        return None
    answer = content(reflection.answer)
    return Evidence(answer, answer | content(reflection.question))


def told(sentence: str, evidence: Iterable[Evidence]) -> float:
    """Share of the sentence's content words that the pairs which touch it hold."""
    wanted = content(sentence)
    found: set[str] = set()
    for item in evidence:
        if item.answer & wanted:
            found |= item.pair & wanted
    return len(found) / len(wanted) if wanted else 1.0


def counted_sentences(text: str) -> list[tuple[int, int]]:
    """Spans of the sentences of ``text`` that have something to tell."""
    return [
        (start, end)
        for start, end in sentence_spans(text)
        if len(content(text[start:end])) >= LEAST_WORDS
    ]


def uncovered(sentences: Iterable[str], evidence: Sequence[Evidence]) -> list[str]:
    """The sentences that the evidence does not cover."""
    return [sentence for sentence in sentences if told(sentence, evidence) < COVERED]


@dataclass(frozen=True, slots=True)
class DocumentCoverage:
    """How much of a document its reflections tell.

    Attributes:
        document, title: which one.
        sentences: sentences that have something to tell.
        covered: those that the reflections cover.
        gaps: spans (character offsets, half open) of the others.
    """

    document: str
    title: str
    sentences: int
    covered: int
    gaps: tuple[tuple[int, int], ...]


def cover_documents(
    documents: Iterable[Document], reflections: Iterable[Reflection]
) -> Iterator[DocumentCoverage]:
    """The coverage of each document, in the documents' order.

    A reflection is compared with the sentences of the chunks that it cites only, so the work is
    linear in the corpus; one that cites no chunk of a source is compared with all of it.
    Memory: the word sets of all reflections, one to two kilobytes each.
    """
    evidence = _by_document(reflections)
    for document in documents:
        spans = counted_sentences(document.text)
        told_by = _touching(evidence.get(document.id, {}), spans)
        gaps = tuple(
            span
            for span, items in zip(spans, told_by, strict=True)
            if told(document.text[slice(*span)], items) < COVERED
        )
        yield DocumentCoverage(
            document.id, document.title, len(spans), len(spans) - len(gaps), gaps
        )


Span = tuple[int, int]
_WHOLE = (0, 1 << 62)


def _by_document(reflections: Iterable[Reflection]) -> dict[str, dict[Span, list[Evidence]]]:
    """Document id -> span of a cited chunk -> what its reflections tell."""
    found: dict[str, dict[Span, list[Evidence]]] = {}
    for row in reflections:
        item = evidence_of(row)
        if item is None:
            continue
        cited = [chunk_span(chunk) for chunk in row.chunks]
        for source in row.sources:
            spans = [span for name, span in cited if name == source] or [_WHOLE]
            for span in spans:
                found.setdefault(source, {}).setdefault(span, []).append(item)
    return found


def chunk_span(chunk: str) -> tuple[str, Span]:
    """Document id and character span of a chunk id (``<document id>:<start>-<end>``)."""
    name, _, span = chunk.rpartition(":")
    start, _, end = span.partition("-")
    return name, (int(start), int(end))


def _touching(
    told_by: Mapping[Span, list[Evidence]], sentences: Iterable[Span]
) -> Iterator[list[Evidence]]:
    """For each sentence, what the chunks that overlap it tell; both are in text order."""
    whole = told_by.get(_WHOLE, [])
    chunks = sorted(span for span in told_by if span != _WHOLE)
    first = 0
    for start, end in sentences:
        while first < len(chunks) and chunks[first][1] <= start:
            first += 1
        items = list(whole)
        for chunk in islice(chunks, first, None):
            if chunk[0] >= end:
                break
            items += told_by[chunk]
        yield items
