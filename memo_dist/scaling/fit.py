"""Laws fitted to the cells of a study, with bootstrap intervals.

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

Intervals are percentile bootstraps over cells, drawn within each size so that none is lost.
Cells that diverged and cells that hold nothing are left out, and named in the notes. So are, from
the capacity law, cells that were overwhelmed: offered more than other memories of their size in as
many exposures, they hold a tenth less than these. B never falls with V, and one exponent would
bend for them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from memo_dist.config.scale_schema import PRECISIONS, ScaleConfig
from memo_dist.errors import UsageError
from memo_dist.scaling.cells import Cell, reference_measure

_LEVEL = 0.95
_OVERWHELMED = 0.9
"""A cell is overwhelmed below this fraction of what its size holds of smaller volumes."""
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
    """

    top: Interval
    half: Interval
    slope: Interval
    points: list[Point]
    best: np.ndarray
    draws: np.ndarray

    def recall(self, parameters_per_fact: float) -> Interval:
        """R."""
        draws = [float(_recall(theta, parameters_per_fact)) for theta in self.draws]
        return _interval(float(_recall(self.best, parameters_per_fact)), draws)

    def parameters_per_fact(self, recall: float) -> Interval | None:
        """x for a wanted recall; None where the law never reaches it."""
        if recall >= _top(self.best):
            return None
        draws = [_needed(theta, recall) for theta in self.draws if recall < _top(theta)]
        return _interval(_needed(self.best, recall), draws)


@dataclass
class Fitted:
    """What was fitted to one source and arm.

    Attributes:
        source, arm: which cells.
        capacity: over all parameters; None where V is unknown or cells are too few.
        without_embeddings: the same over parameters without embeddings.
        recall: for reflections.
        notes: what was left out, and why.
    """

    source: str
    arm: str
    capacity: CapacityLaw | None = None
    without_embeddings: CapacityLaw | None = None
    recall: RecallLaw | None = None
    points: list[Point] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass
class Study:
    """All laws of a study, by (source, arm), and the checks beside them."""

    fits: dict[tuple[str, str], Fitted]
    rates: list[dict[str, Any]]
    precisions: list[dict[str, Any]]
    held_out: list[dict[str, Any]] = field(default_factory=list)


def fit_study(results: Mapping[Cell, dict[str, Any]], scale: ScaleConfig, seed: int) -> Study:
    """Fit every source and arm that has results; held-out sizes and rate checks stay out.

    Raises:
        UsageError: scipy is missing.
    """
    fits = {}
    for key in sorted({(cell.source, cell.arm) for cell in results}):
        mine = {c: r for c, r in results.items() if (c.source, c.arm) == key and c.role == "fit"}
        fitted = Fitted(*key)
        fitted.points, fitted.notes = usable_points(mine)
        _fit_laws(fitted, scale.bootstrap, seed)
        fits[key] = fitted
    return Study(fits, _rate_checks(results), _precisions(results))


def usable_points(results: Mapping[Cell, dict[str, Any]]) -> tuple[list[Point], list[str]]:
    """Measured cells, and a note for each cell that is left out."""
    points, notes = [], []
    for cell, result in results.items():
        if result["outcome"] == "diverged":
            notes.append(f"left out, diverged: {cell.label}")
            continue
        point = make_point(cell, result)
        if point.bits <= 0:
            notes.append(f"left out, holds nothing: {cell.label}")
        else:
            points.append(point)
    return points, notes


def make_point(cell: Cell, result: dict[str, Any]) -> Point:
    """A cell's result in the finest precision that was measured."""
    measured = reference_measure(result)
    return Point(
        cell=cell,
        parameters=result["parameters"],
        without_embeddings=result["parameters"] - result["embedding_parameters"],
        items=result["items"],
        volume=result["volume_bits"],
        exposures=float(cell.exposures),
        bits=measured["bits"],
        recall=measured["recall"],
    )


def _fit_laws(fitted: Fitted, resamples: int, seed: int) -> None:
    points = fitted.points
    sizes = len({point.parameters for point in points})
    if fitted.source == "reflections":
        _fit_recall_law(fitted, resamples, seed)
        return
    points, overwhelmed = split_overwhelmed(points)
    fitted.notes += [f"left out of the law, overwhelmed: {p.cell.label}" for p in overwhelmed]
    if sizes < 2 or len(points) < 4:
        fitted.notes.append(f"no law: {len(points)} cells of {sizes} size(s); 4 of 2 are needed")
        return
    fitted.capacity = fit_capacity(points, resamples, seed)
    fitted.without_embeddings = fit_capacity(points, resamples, seed, embeddings=False)


def _fit_recall_law(fitted: Fitted, resamples: int, seed: int) -> None:
    """To the cells of most exposures: R(x) has none in it."""
    most = max((point.exposures for point in fitted.points), default=0.0)
    points = [point for point in fitted.points if point.exposures == most]
    if len(points) < len(fitted.points):
        fitted.notes.append(f"the recall law is of {most:g} exposures; fewer are only listed")
    if len(points) >= 4:
        fitted.recall = fit_recall(points, resamples, seed)
    else:
        fitted.notes.append(f"no law: {len(points)} cells; 4 are needed")


def split_overwhelmed(points: Sequence[Point]) -> tuple[list[Point], list[Point]]:
    """(points of the capacity law, points of overwhelmed cells); see the module's text."""
    kept: list[Point] = []
    overwhelmed: list[Point] = []
    for point in points:
        smaller = [
            other.bits
            for other in points
            if (other.parameters, other.exposures) == (point.parameters, point.exposures)
            and other.volume < point.volume
        ]
        below = point.bits < _OVERWHELMED * max(smaller, default=0.0)
        (overwhelmed if below else kept).append(point)
    return kept, overwhelmed


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
    draws = [
        _search(table[chosen], several, best) for chosen in _resampled(points, resamples, seed)
    ]
    residuals = _residuals(_padded(best), table)
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
    draws = np.array(
        [
            _search_recall(ratios[chosen], recalls[chosen])
            for chosen in _resampled(points, resamples, seed)
        ]
    )
    return RecallLaw(
        top=_interval(_top(best), [_top(theta) for theta in draws]),
        half=_interval(math.exp(best[1]), np.exp(draws[:, 1])),
        slope=_interval(math.exp(best[2]), np.exp(draws[:, 2])),
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
        raise UsageError("fits need scipy: pip install 'memo-dist[scale]'") from None
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


def _top(theta: np.ndarray) -> float:
    return 1 / (1 + math.exp(-theta[0]))


def _needed(theta: np.ndarray, recall: float) -> float:
    odds = _top(theta) / recall - 1
    return math.exp(theta[1] - math.log(odds) / math.exp(theta[2]))


def _resampled(points: Sequence[Point], resamples: int, seed: int) -> list[np.ndarray]:
    """Indices of bootstrap samples, drawn with replacement within each size."""
    groups: dict[int, list[int]] = {}
    for index, point in enumerate(points):
        groups.setdefault(point.parameters, []).append(index)
    chance = np.random.default_rng(seed)
    return [
        np.concatenate([chance.choice(group, len(group)) for group in groups.values()])
        for _ in range(resamples)
    ]


def _interval(value: float, draws: Any) -> Interval:
    tail = 50 * (1 - _LEVEL)
    low, high = np.percentile(np.asarray(draws, float), [tail, 100 - tail])
    return Interval(float(value), float(low), float(high))


def _rate_checks(results: Mapping[Cell, dict[str, Any]]) -> list[dict[str, Any]]:
    """For each size: bits at multiples of the rule's learning rate, relative to the rule's."""
    rows = []
    checked = [cell for cell in results if cell.role == "rate"]
    for source, size in sorted({(cell.source, cell.size) for cell in checked}):
        mine = [cell for cell in checked if (cell.source, cell.size) == (source, size)]
        rule = next((c for c in results if _is_rule_of(c, mine[0])), None)
        if rule is None or not results[rule]["measured"]:
            continue
        reference = make_point(rule, results[rule]).bits
        ratios = {
            cell.rate: make_point(cell, results[cell]).bits / reference
            for cell in mine
            if results[cell]["outcome"] != "diverged"
        }
        diverged = [cell.rate for cell in mine if results[cell]["outcome"] == "diverged"]
        rows.append(
            {
                "source": source,
                "size": size,
                "learning_rate": results[rule]["learning_rate"],
                "bits_relative_to_rule": {f"{rate:g}": ratio for rate, ratio in ratios.items()},
                "diverged": diverged,
                "gain_of_the_best": max([1.0, *ratios.values()]) - 1,
            }
        )
    return rows


def _is_rule_of(cell: Cell, check: Cell) -> bool:
    """Whether a cell is a check's counterpart with the rule's learning rate."""
    same = ("source", "size", "load", "exposures", "seed", "arm")
    return cell.rate == 1 and all(getattr(cell, k) == getattr(check, k) for k in same)


def _precisions(results: Mapping[Cell, dict[str, Any]]) -> list[dict[str, Any]]:
    """Bits a parameter by precision, at each source's highest load and most exposures."""
    rows = []
    for source, arm in sorted({(cell.source, cell.arm) for cell in results}):
        mine = {
            c: r
            for c, r in results.items()
            if (c.source, c.arm) == (source, arm) and c.role == "fit" and r["measured"]
        }
        if not mine:
            continue
        load, exposures = max(c.load for c in mine), max(c.exposures for c in mine)
        for size in sorted({c.size for c in mine}):
            chosen = [
                r
                for c, r in mine.items()
                if (c.size, c.load, c.exposures) == (size, load, exposures)
            ]
            for precision in (p for p in PRECISIONS if chosen and p in chosen[0]["measured"]):
                values = [r["measured"][precision]["bits"] / r["parameters"] for r in chosen]
                rows.append(
                    {
                        "source": source,
                        "arm": arm,
                        "size": size,
                        "load": load,
                        "exposures": exposures,
                        "precision": precision,
                        "bits_per_parameter": sum(values) / len(values),
                    }
                )
    return rows
