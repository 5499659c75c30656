"""Fewer points of a test over a grid: enough that every pair of values still meets."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

SEED = 1
Point = Mapping[str, Any]


def covering(points: Sequence[Point]) -> list[int]:
    """Places of the points to keep: with them each value meets each value of every other parameter
    that it meets in all ``points``. What is kept follows from the values and :data:`SEED` alone.
    """
    order = sorted(range(len(points)), key=lambda place: _drawn(points[place]))
    pairs = {place: _pairs(points[place]) for place in order}
    left = set().union(*pairs.values())
    kept = []
    while left:
        best = max(order, key=lambda place: len(pairs[place] & left))
        kept.append(best)
        left -= pairs[best]
    return sorted(kept)


def _pairs(point: Point) -> set[frozenset[tuple[str, str]]]:
    values = [(name, str(value)) for name, value in point.items()]
    return {frozenset(pair) for pair in (combinations(values, 2) if values[1:] else [values])}


def _drawn(point: Point) -> bytes:
    return hashlib.sha256(f"{SEED} {sorted(map(str, point.items()))}".encode()).digest()
