"""Laws of memorisation, and their fit to measured cells, with bootstrap intervals.

Capacity. A memory of P parameters that was offered V bits, E times, holds

    B(P, V, E) = (V^-q + C^-q)^(-1/q),    C = c(E) P^a,    c(E) = c (1 - exp(-E / tau))

bits: V while there is room, C when it is full, and q says how sharp the knee is. The form of c(E)
is that of fact memorisation over exposures (arXiv 2406.15720); with a single number of exposures
tau is left out. c, a, q (and tau) are fitted by least squares of log B: relative errors count
alike for small and large memories. The exponent a is tested against 1: whether its 95 % interval
contains it.

Recall. For a real corpus nobody knows V. What counts there is recall on unseen wordings against
parameters a fact, x = P / N:

    R(x) = r / (1 + (x0 / x)^s)

Intervals are percentiles of a wild bootstrap (Liu 1988, "Bootstrap Procedures under some Non-I.I.D.
Models"): each cell keeps its place in the grid and the size of its residual, whose sign is drawn
anew, times sqrt(n / (n - k)) for n cells and k fitted numbers; the law is fitted to each draw. So
small grids keep their design, and noise may differ from cell to cell. What all cells of a size
share (its shape, its learning rate) is not in them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from memo_dist.errors import UsageError, install_hint
from memo_dist.scaling.cells import Cell

_LEVEL = 0.95
_HELD = 0.95
"""A load is held, and a memory is full, at this fraction."""
_REFERENCE = 1e4  # parameters; keeps c and a uncorrelated enough for the search
_KNEES = (1.0, 2.0, 4.0, 8.0)
_BOUNDS = ((-20.0, 0.2, 0.3, -3.0), (60.0, 2.5, 30.0, 12.0))


@dataclass(frozen=True, slots=True)
class Point:
    """One measured cell.

    Attributes:
        cell: its coordinates.
        parameters, without_embeddings: P, counted both ways.
        items: facts.
        volume: V, bits offered; NaN where unknown.
        exposures: E.
        bits: B, bits held.
        recall: on unseen wordings, 0 to 1 (symbols for random sequences).
    """

    cell: Cell
    parameters: int
    without_embeddings: int
    items: int
    volume: float
    exposures: float
    bits: float
    recall: float


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with its 95 % interval."""

    value: float
    low: float
    high: float

    def to_json(self) -> list[float]:
        """[value, low, high]."""
        return [self.value, self.low, self.high]


@dataclass
class CapacityLaw:
    """The fitted law of one source and arm; see the module's text.

    Attributes:
        c: bits a parameter at 10,000 parameters and endless exposures (or the only number).
        exponent: a.
        knee: q.
        tau: exposures; None with a single number of them.
        points: what it rests on.
        draws: parameter vectors of the bootstrap.
        residuals: log of measured over fitted bits, in the order of the points.
    """

    c: Interval
    exponent: Interval
    knee: Interval
    tau: Interval | None
    points: list[Point]
    best: np.ndarray
    draws: np.ndarray
    residuals: np.ndarray

    @property
    def exponent_is_one(self) -> bool:
        """Whether the interval of the exponent contains 1."""
        return self.exponent.low <= 1 <= self.exponent.high

    def bits(self, parameters: float, volume: float, exposures: float) -> Interval:
        """B, with the interval of the mean (spread of the bootstrap's laws)."""
        return self._interval(lambda theta: _bits(theta, parameters, volume, exposures))

    def capacity(self, parameters: float, exposures: float) -> Interval:
        """C in bits."""
        return self._interval(lambda theta: math.exp(_log_capacity(theta, parameters, exposures)))

    def held_volume(self, parameters: float, exposures: float) -> Interval:
        """The largest V of which 95 % is held."""
        return self._interval(lambda theta: _held(theta, parameters, exposures))

    def full_volume(self, parameters: float, exposures: float) -> Interval:
        """The V at which 95 % of the capacity is used: the saturation volume."""
        return self._interval(lambda theta: _full(theta, parameters, exposures))

    def _interval(self, value: Callable[[np.ndarray], float]) -> Interval:
        return _interval(value(self.best), [value(theta) for theta in self.draws])


@dataclass
class RecallLaw:
    """R(x) of a real corpus; see the module's text.

    Attributes:
        top, half, slope: r, x0 (parameters a fact), s.
        spread: standard deviation of single memories around the law.
    """

    top: Interval
    half: Interval
    slope: Interval
    spread: float
    points: list[Point]
    best: np.ndarray
    draws: np.ndarray

    def recall(self, parameters_per_fact: float) -> Interval:
        """R."""
        draws = [float(_recall(theta, parameters_per_fact)) for theta in self.draws]
        return _interval(float(_recall(self.best, parameters_per_fact)), draws)

    def promise(self, ratio: float, ratios: np.ndarray, seed: int) -> Interval:
        """R of one memory that is yet to be trained: the law's doubt, and a memory's around it.

        Args:
            ratio: parameters a fact.
            ratios: draws of it, where the number of facts is uncertain.
            seed: pairs draws, and draws the spread.
        """
        chance = np.random.default_rng(seed)
        laws = self.draws[chance.integers(len(self.draws), size=len(ratios))]
        means = np.array([_recall(theta, x) for theta, x in zip(laws, ratios, strict=True)])
        drawn = np.clip(means + chance.normal(0, self.spread, len(means)), 0, 1)
        value = float(_recall(self.best, ratio))
        found = _interval(value, drawn)
        return Interval(value, min(found.low, value), max(found.high, value))

    def parameters_per_fact(self, recall: float) -> Interval | None:
        """x for a wanted recall; None where the law never reaches it."""
        if recall >= _top(self.best):
            return None
        draws = [_needed(theta, recall) for theta in self.draws if recall < _top(theta)]
        return _interval(_needed(self.best, recall), draws)


def fit_capacity(
    points: Sequence[Point], resamples: int, seed: int, embeddings: bool = True
) -> CapacityLaw:
    """Fit B(P, V, E).

    Args:
        points: of one source and arm, with known V.
        resamples: of the bootstrap.
        seed: of the bootstrap.
        embeddings: whether P counts them.
    """
    sizes = np.array([p.parameters if embeddings else p.without_embeddings for p in points], float)
    data = np.array([[p.volume, p.exposures, p.bits] for p in points], float)
    table = np.column_stack([sizes, data])
    several = len({point.exposures for point in points}) > 1
    best = _search(table, several, None)
    residuals = _residuals(_padded(best), table)
    fitted = np.log(table[:, 3]) - residuals
    draws = [
        _search(np.column_stack([table[:, :3], np.exp(fitted + noise)]), several, best)
        for noise in _wild(residuals, len(best), resamples, seed)
    ]
    every = np.array([_padded(theta) for theta in draws])
    names = _padded(best)
    return CapacityLaw(
        c=_interval(
            math.exp(names[0]) / _REFERENCE, [math.exp(theta[0]) / _REFERENCE for theta in every]
        ),
        exponent=_interval(names[1], every[:, 1]),
        knee=_interval(names[2], every[:, 2]),
        tau=_interval(math.exp(names[3]), np.exp(every[:, 3])) if several else None,
        points=list(points),
        best=names,
        draws=every,
        residuals=residuals,
    )


def fit_recall(points: Sequence[Point], resamples: int, seed: int) -> RecallLaw:
    """Fit R(x)."""
    ratios = np.array([point.parameters / point.items for point in points])
    recalls = np.array([point.recall for point in points])
    best = _search_recall(ratios, recalls)
    fitted = _recall(best, ratios)
    residuals = recalls - fitted
    draws = np.array(
        [
            _search_recall(ratios, fitted + noise)
            for noise in _wild(residuals, len(best), resamples, seed)
        ]
    )
    return RecallLaw(
        top=_interval(_top(best), [_top(theta) for theta in draws]),
        half=_interval(math.exp(best[1]), np.exp(draws[:, 1])),
        slope=_interval(math.exp(best[2]), np.exp(draws[:, 2])),
        spread=_spread(residuals, len(best)),
        points=list(points),
        best=best,
        draws=draws,
    )


def _search(table: np.ndarray, several: bool, near: np.ndarray | None) -> np.ndarray:
    """The best (log c P0^a, a, q[, log tau]) from several starts, or from one nearby."""
    least_squares = _least_squares()
    count = 4 if several else 3
    low, high = (np.array(bound[:count]) for bound in _BOUNDS)
    level = math.log(float(np.median(table[:, 3] / table[:, 0])) * _REFERENCE)
    middle = math.log(float(np.median(table[:, 2])))
    starts = [np.array([level, 1.0, knee, middle][:count]) for knee in _KNEES]
    found = [
        least_squares(
            lambda theta: _residuals(_padded(theta), table),
            np.clip(start, low + 1e-6, high - 1e-6),
            bounds=(low, high),
        )
        for start in ([near] if near is not None else starts)
    ]
    return np.array(min(found, key=lambda fit: fit.cost).x)


def _search_recall(ratios: np.ndarray, recalls: np.ndarray) -> np.ndarray:
    """The best (logit r, log x0, log s)."""
    start = np.array([3.0, math.log(float(np.median(ratios))), 0.5])
    fit = _least_squares()(
        lambda theta: _recall(theta, ratios) - recalls,
        start,
        bounds=([-6.0, -5.0, -3.0], [8.0, 25.0, 3.0]),
    )
    return np.array(fit.x)


def _least_squares() -> Any:
    try:
        from scipy.optimize import least_squares
    except ImportError:
        raise UsageError(f"fits need scipy: {install_hint('scale')}") from None
    return least_squares


def _padded(theta: np.ndarray) -> np.ndarray:
    """With log tau = -3 (every exposure counts fully) where tau is not fitted."""
    return theta if len(theta) == 4 else np.append(theta, _BOUNDS[0][3])


def _residuals(theta: np.ndarray, table: np.ndarray) -> np.ndarray:
    predicted = np.log(_bits(theta, table[:, 0], table[:, 1], table[:, 2]))
    residuals: np.ndarray = np.log(table[:, 3]) - predicted
    return residuals


def _log_capacity(theta: np.ndarray, parameters: Any, exposures: Any) -> Any:
    level, exponent, _, log_tau = theta
    learned = np.log(-np.expm1(-exposures / math.exp(log_tau)))
    return level + exponent * np.log(parameters / _REFERENCE) + learned


def _bits(theta: np.ndarray, parameters: Any, volume: Any, exposures: Any) -> Any:
    knee = theta[2]
    capacity = _log_capacity(theta, parameters, exposures)
    return np.exp(-np.logaddexp(-knee * np.log(volume), -knee * capacity) / knee)


def _held(theta: np.ndarray, parameters: float, exposures: float) -> float:
    """V with B = 0.95 V, from 1 + (V / C)^q = 0.95^-q."""
    knee = theta[2]
    capacity = math.exp(_log_capacity(theta, parameters, exposures))
    return float(capacity * (_HELD**-knee - 1) ** (1 / knee))


def _full(theta: np.ndarray, parameters: float, exposures: float) -> float:
    """V with B = 0.95 C, from 1 + (C / V)^q = 0.95^-q."""
    knee = theta[2]
    capacity = math.exp(_log_capacity(theta, parameters, exposures))
    return float(capacity * (_HELD**-knee - 1) ** (-1 / knee))


def _recall(theta: np.ndarray, ratio: Any) -> Any:
    return _top(theta) / (1 + np.exp(math.exp(theta[2]) * (theta[1] - np.log(ratio))))


def _spread(residuals: np.ndarray, fitted: int) -> float:
    """Standard deviation of what a fit of so many numbers leaves."""
    return math.sqrt(float((residuals**2).sum()) / max(1, len(residuals) - fitted))


def _top(theta: np.ndarray) -> float:
    return 1 / (1 + math.exp(-theta[0]))


def _needed(theta: np.ndarray, recall: float) -> float:
    odds = _top(theta) / recall - 1
    return math.exp(theta[1] - math.log(odds) / math.exp(theta[2]))


def _wild(residuals: np.ndarray, fitted: int, resamples: int, seed: int) -> np.ndarray:
    """Draws of noise [resamples, cells]: each cell's residual with a random sign, enlarged by what
    a fit of so many numbers has taken of it."""
    count = len(residuals)
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], size=(resamples, count))
    noise: np.ndarray = signs * residuals * math.sqrt(count / max(1, count - fitted))
    return noise


def _interval(value: float, draws: Any) -> Interval:
    tail = 50 * (1 - _LEVEL)
    low, high = np.percentile(np.asarray(draws, float), [tail, 100 - tail])
    return Interval(float(value), float(low), float(high))
