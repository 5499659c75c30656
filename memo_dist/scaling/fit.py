"""From the cells of a study to its laws and to the checks beside them.

Cells that diverged and cells that hold nothing are left out, and named in the notes. So are, from
the capacity law, cells that were overwhelmed: offered more than other memories of their size in as
many exposures, they hold a tenth less than these. The law's B never falls with V, and one exponent
would bend for them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from memo_dist.config.scale_schema import PRECISIONS, ScaleConfig
from memo_dist.scaling.cells import Cell, reference_measure
from memo_dist.scaling.laws import CapacityLaw, Point, RecallLaw, fit_capacity, fit_recall

_OVERWHELMED = 0.9
"""A cell is overwhelmed below this fraction of what its size holds of smaller volumes."""


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
    """All laws of a study, by (source, arm), the checks beside them, and what was spent."""

    fits: dict[tuple[str, str], Fitted]
    rates: list[dict[str, Any]]
    precisions: list[dict[str, Any]]
    held_out: list[dict[str, Any]] = field(default_factory=list)
    devices: list[dict[str, Any]] = field(default_factory=list)


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
        fitted.notes += [
            f"diverged, {'held out' if c.role == 'predict' else 'a check of the rate'}: {c.label}"
            for c, r in results.items()
            if (c.source, c.arm) == key and c.role != "fit" and r["outcome"] == "diverged"
        ]
        _fit_laws(fitted, scale.bootstrap, seed)
        fits[key] = fitted
    return Study(fits, _rate_checks(results, fits), _precisions(results))


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
    needed = 4 + (len({point.exposures for point in points}) > 1)
    if sizes < 2 or len(points) < needed:
        fitted.notes.append(
            f"no law: {len(points)} cells of {sizes} size(s); {needed} of 2 are needed"
        )
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


def _rate_checks(
    results: Mapping[Cell, dict[str, Any]], fits: Mapping[tuple[str, str], Fitted]
) -> list[dict[str, Any]]:
    """For each size: bits at multiples of the rule's learning rate, relative to the rule's."""
    rows = []
    checked = [cell for cell in results if cell.role == "rate"]
    for source, size in sorted({(cell.source, cell.size) for cell in checked}):
        mine = [cell for cell in checked if (cell.source, cell.size) == (source, size)]
        rule = next((c for c in results if _is_rule_of(c, mine[0])), None)
        if rule is None or results[rule]["outcome"] == "diverged":
            continue
        reference = make_point(rule, results[rule]).bits
        if reference <= 0:
            note = f"no check of the rate, the rule's cell holds nothing: {rule.label}"
            fits[rule.source, rule.arm].notes.append(note)
            continue
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
            if (c.source, c.arm) == (source, arm) and c.role == "fit" and r["outcome"] != "diverged"
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
