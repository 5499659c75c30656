"""Answers taken from the text: names, dates and numbers that a question can be written for.

A small model writes a question for a given answer far better than it finds both.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from memo_dist.synthesis.prompted.reading import Passage, Reading
from memo_dist.synthesis.rules.nlp import DATE_PATTERN
from memo_dist.synthesis.words import content, name_spans

_DATE = re.compile(rf"\b(?:{DATE_PATTERN}|(?:1[0-9]|20)\d{{2}})(?!\w)")
_QUANTITY = re.compile(
    r"(?<![\w.,])[$€£]?\d+(?:[.,]\d+)*(?:\s?%|\s[a-z]+(?:\s(?:kilometers|"
    r"kilometres|miles|meters|metres|feet))?)?"
)


@dataclass(frozen=True, slots=True)
class Anchor:
    """An answer and the passage that it stands in."""

    passage: Passage
    text: str


def anchors_of(reading: Reading, most: int) -> list[Anchor]:
    """Answers in the order of the text, each once a passage, at most ``most`` a passage.

    A passage's own title is no answer: its questions need it.
    """
    found = []
    for passage in reading.passages:
        title, seen = content(passage.document.title), set[str]()
        for start, end in _spans(passage.chunk.text):
            text = passage.chunk.text[start:end]
            key = text.casefold()
            if len(seen) < most and key not in seen and not content(text) <= title:
                seen.add(key)
                found.append(Anchor(passage, text))
    return found


def _spans(text: str) -> Iterator[tuple[int, int]]:
    """Dates first, then quantities and names that do not overlap them, in text order."""
    taken: list[tuple[int, int]] = []
    sources = (
        [match.span() for match in _DATE.finditer(text)],
        [match.span() for match in _QUANTITY.finditer(text)],
        list(name_spans(text)),
    )
    for spans in sources:
        free = [s for s in spans if all(s[1] <= start or s[0] >= end for start, end in taken)]
        taken += free
    yield from sorted(taken)
