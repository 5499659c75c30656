"""How sure a score is: bootstrap intervals, and the exact McNemar test between methods."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_Z95 = 1.959964
_BLOCK = 2_000_000
"""Resampled indices held in memory at a time."""


def bootstrap_interval(
    values: Sequence[float], resamples: int, seed: int, level: float = 0.95
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean of ``values``.

    The same values, resamples and seed give the same interval. Values that are all equal give an
    interval of width zero: the bootstrap cannot see what was never drawn.

    Raises:
        ValueError: there are no values.
    """
    if not values:
        raise ValueError("an interval needs at least one value")
    data = np.asarray(values, dtype=np.float64)
    generator = np.random.default_rng(seed)
    rows = max(1, _BLOCK // len(data))
    means = [
        data[generator.integers(len(data), size=(min(rows, resamples - done), len(data)))].mean(1)
        for done in range(0, resamples, rows)
    ]
    tail = (1 - level) / 2
    low, high = np.quantile(np.concatenate(means), [tail, 1 - tail])
    return float(low), float(high)


@dataclass(frozen=True, slots=True)
class McNemar:
    """Exact McNemar test of two methods on the same questions.

    Attributes:
        only_first, only_second: questions that just one of the two answered rightly.
        p_value: two-sided, binomial; 1 where the two never differ.
    """

    only_first: int
    only_second: int
    p_value: float


def mcnemar(first: Sequence[bool], second: Sequence[bool]) -> McNemar:
    """Compare two methods question by question (McNemar 1947, in its exact binomial form).

    Raises:
        ValueError: the two do not have one verdict for each question.
    """
    pairs = list(zip(first, second, strict=True))
    only_first = sum(1 for a, b in pairs if a and not b)
    only_second = sum(1 for a, b in pairs if b and not a)
    discordant = only_first + only_second
    smaller = min(only_first, only_second)
    tail = sum(math.comb(discordant, k) for k in range(smaller + 1))
    # Integers divide exactly where floats would overflow: 2 ** 1100 is no float.
    p_value = min(1.0, (2 * tail) / (1 << discordant))
    return McNemar(only_first, only_second, p_value)


def holm(p_values: Sequence[float]) -> list[float]:
    """P values of several tests adjusted for their number (Holm 1979), in the given order."""
    order = sorted(range(len(p_values)), key=lambda place: p_values[place])
    adjusted = [1.0] * len(p_values)
    largest = 0.0
    for rank, place in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p_values[place]))
        adjusted[place] = largest
    return adjusted


def wilson_interval(right: int, total: int) -> tuple[float, float]:
    """95 % score interval of a proportion (Wilson 1927): honest for a handful of cases.

    Raises:
        ValueError: ``total`` is not positive.
    """
    if total < 1:
        raise ValueError("a proportion needs at least one case")
    z = _Z95
    share = right / total
    scale = 1 + z * z / total
    centre = (share + z * z / (2 * total)) / scale
    half = z * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total)) / scale
    return max(0.0, centre - half), min(1.0, centre + half)


@dataclass(frozen=True, slots=True)
class Auroc:
    """How well a number tells two kinds apart.

    Attributes:
        value: probability that a positive one has the larger number, ties counted half.
        low, high: 95 % interval (Hanley and McNeil 1982).
        positives, negatives: how many of each kind.
    """

    value: float
    low: float
    high: float
    positives: int
    negatives: int


def auroc(positives: Sequence[float], negatives: Sequence[float]) -> Auroc | None:
    """Area under the ROC curve; None where one of the two kinds is missing."""
    p, n = len(positives), len(negatives)
    if not p or not n:
        return None
    ordered = np.sort(np.asarray(negatives, dtype=np.float64))
    values = np.asarray(positives, dtype=np.float64)
    below = np.searchsorted(ordered, values, "left")
    up_to = np.searchsorted(ordered, values, "right")
    area = float((below + up_to).sum()) / (2 * p * n)
    q1, q2 = area / (2 - area), 2 * area**2 / (1 + area)
    variance = area * (1 - area) + (p - 1) * (q1 - area**2) + (n - 1) * (q2 - area**2)
    half = _Z95 * math.sqrt(max(0.0, variance) / (p * n))
    return Auroc(area, max(0.0, area - half), min(1.0, area + half), p, n)
