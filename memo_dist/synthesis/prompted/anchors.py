"""Answers taken from the text, each with the passage that it stands in."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from memo_dist.synthesis.clean import normalise
from memo_dist.synthesis.prompted.reading import Passage
from memo_dist.synthesis.spans import Span, answer_spans
from memo_dist.synthesis.words import content

_MOST_WORDS = 6


@dataclass(frozen=True, slots=True)
class Anchor:
    """An answer and the passage that it stands in."""

    passage: Passage
    text: str


def anchors_of(passage: Passage, most: int) -> list[Anchor]:
    """Answers in the order of the text, each once.

    A noun inside a longer answer is left out: the longer one says which. The passage's own title
    is no answer: its questions need it.

    Args:
        passage: the passage.
        most: at most so many, spread over the passage; 0: all.
    """
    title = content(passage.document.title)
    found: dict[str, Anchor] = {}
    for span in _telling(answer_spans(passage.chunk.text)):
        if normalise(span.text) and not content(span.text) <= title:
            found.setdefault(normalise(span.text), Anchor(passage, span.text))
    anchors = list(found.values())
    if not most or len(anchors) <= most:
        return anchors
    return [anchors[index * len(anchors) // most] for index in range(most)]


def _telling(spans: list[Span]) -> Iterator[Span]:
    short = [span for span in spans if len(span.text.split()) <= _MOST_WORDS]
    for span in short:
        inside = any(
            other.start <= span.start and span.end <= other.end and other is not span
            for other in short
        )
        if span.kind != "noun" or not inside:
            yield span
