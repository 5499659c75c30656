"""Near-duplicate reflections: the same fact asked for in nearly the same words.

Two reflections are near duplicates when their answers have the same content words, their
questions the same names, numbers and words with digits or underscores (all of them whole), and the
stems of the questions' content words a Jaccard similarity of at least
``synthesis.near_duplicate``. Candidates come from MinHash buckets, never from all pairs.
"""

from __future__ import annotations

from collections.abc import Sequence

from memo_dist.synthesis.neighbours import buckets, jaccard
from memo_dist.synthesis.types import Reflection
from memo_dist.synthesis.words import coded, content, names, whole_content, words

_BAND_ROWS = 4
_COMPARED = 32
"""Most earlier members of a bucket that a reflection is compared with: bounds the work."""

Key = tuple[frozenset[str], frozenset[str], frozenset[str]]


def near_duplicates(rows: Sequence[Reflection], least: float) -> dict[int, list[int]]:
    """Index of each near duplicate -> indices of the earlier reflections that it repeats.

    Args:
        rows: in order of precedence: the earlier one of a pair shall stay.
        least: similarity from which two questions count as the same, 0 to 1.
    """
    asked = [content(row.question) for row in rows]
    keys = [_key(row) for row in rows]
    found: dict[int, set[int]] = {}
    told = [question | key[0] for question, key in zip(asked, keys, strict=True)]
    for members in buckets(told, _BAND_ROWS):
        for place, index in enumerate(members):
            for other in members[max(0, place - _COMPARED) : place]:
                if keys[index] == keys[other] and jaccard(asked[index], asked[other]) >= least:
                    found.setdefault(index, set()).add(other)
    return {index: sorted(others) for index, others in found.items()}


def _key(row: Reflection) -> Key:
    called = whole_content(" ".join(names(row.question)))
    told = whole_content(row.answer) or frozenset(words(row.answer))
    return told, called, coded(row.question)
