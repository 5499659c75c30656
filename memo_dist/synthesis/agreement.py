"""Whether two short answers say the same, by their words."""

from __future__ import annotations

from collections import Counter

from memo_dist.answers.text import ABSTAIN_ANSWER
from memo_dist.synthesis.clean import normalise
from memo_dist.synthesis.words import numbers

LEAST_F1 = 0.5
"""Token F1 from which two answers agree (the measure of SQuAD, arXiv 1606.05250)."""

_NOTHING = frozenset(
    map(normalise, (ABSTAIN_ANSWER, "not stated", "it is not stated", "unknown", "n/a", "none"))
)


def says_nothing(answer: str) -> bool:
    """Whether an answer says that there is none."""
    words = normalise(answer)
    return not words or words in _NOTHING


def agree(first: str, second: str) -> bool:
    """Whether one answer's words stand in the other, or half of their words are the same.

    Answers with different numbers differ, whatever their words.
    """
    mine, theirs = normalise(first), normalise(second)
    if not mine or not theirs:
        return mine == theirs
    if f" {mine} " in f" {theirs} " or f" {theirs} " in f" {mine} ":
        return True
    given, found = numbers(first), numbers(second)
    if given and found and not (given <= found or found <= given):
        return False
    left, right = Counter(mine.split()), Counter(theirs.split())
    shared = (left & right).total()
    return 2 * shared >= LEAST_F1 * (left.total() + right.total())
