"""A recall law as a JSON file, so that one study's law can plan another corpus.

The file holds ``schema_version``, ``base``, ``corpus``, ``exposures`` (passes over all wordings),
``versions``, ``recipe`` (how the memories were trained, :class:`~memo_dist.scaling.recipe.Recipe`),
``measured`` (which memories it rests on, :class:`Measured`),
and the law R(x) = r / (1 + (x0 / x)^s), x in parameters a fact: ``r``, ``x0``, ``s`` as [value,
low, high], ``spread``, the standard deviation of single memories around it, and ``draws``, the
bootstrap's rows of [logit r, log x0, log s].
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from memo_dist.errors import UsageError
from memo_dist.io import atomic
from memo_dist.scaling.laws import Interval, Point, RecallLaw
from memo_dist.scaling.recipe import Recipe

SCHEMA_VERSION = 1
_ABOUT = ("base", "corpus", "exposures", "versions")
_NAMES = ("r", "x0", "s")


@dataclass(frozen=True)
class Measured:
    """The memories that a law rests on; beyond them it is an extrapolation.

    Attributes:
        cells: how many.
        parameters: [smallest, largest].
        parameters_per_fact: [least, most].
        wordings: trained ones a fact, mean.
    """

    cells: int
    parameters: tuple[float, float]
    parameters_per_fact: tuple[float, float]
    wordings: float

    @classmethod
    def of(cls, points: Sequence[Point], wordings: float) -> Measured:
        """From the cells of a fit."""
        sizes = [float(point.parameters) for point in points]
        ratios = [point.parameters / point.items for point in points]
        return cls(len(points), (min(sizes), max(sizes)), (min(ratios), max(ratios)), wordings)

    @classmethod
    def from_json(cls, row: Any) -> Measured:
        """Read what :meth:`to_json` wrote.

        Raises:
            ValueError: it is something else.
        """
        try:
            low, high = (float(value) for value in row["parameters"])
            least, most = (float(value) for value in row["parameters_per_fact"])
            found = cls(int(row["cells"]), (low, high), (least, most), float(row["wordings"]))
        except (KeyError, TypeError, ValueError):
            found = None
        if found is None or not (0 < low <= high and 0 < least <= most and found.wordings > 0):
            raise ValueError(
                "must hold cells, parameters and parameters_per_fact as [least, most], and wordings"
            )
        return found

    def to_json(self) -> dict[str, Any]:
        """Its numbers by name."""
        return asdict(self)


@dataclass(frozen=True)
class LawFile:
    """A law, and what it was measured on.

    Attributes:
        law: R(x), without the points it rests on.
        recipe: how its memories were trained.
        measured: which memories these were.
        about: ``base``, ``corpus``, ``exposures`` (passes) and ``versions``.
    """

    law: RecallLaw
    recipe: Recipe
    measured: Measured
    about: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """All but the draws, for reports."""
        return {
            **{key: self.about[key] for key in _ABOUT},
            "recipe": self.recipe.to_json(),
            "measured": self.measured.to_json(),
            "r": self.law.top.to_json(),
            "x0": self.law.half.to_json(),
            "s": self.law.slope.to_json(),
            "spread": self.law.spread,
        }


def write_law(path: Path, file: LawFile) -> None:
    """Write a fitted law, atomically.

    Raises:
        UsageError: ``about`` lacks ``base``, ``corpus``, ``exposures`` or ``versions``.
    """
    missing = [key for key in _ABOUT if key not in file.about]
    if missing:
        raise UsageError(f"a law file must say {', '.join(missing)}")
    draws = np.asarray(file.law.draws, float).tolist()
    atomic.write_json(path, {"schema_version": SCHEMA_VERSION, **file.to_json(), "draws": draws})


def read_law(path: Path) -> LawFile:
    """Read a law file.

    Raises:
        UsageError: no such file, or it holds no law; names the field.
    """
    try:
        row = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"plan.law={path}: {error.strerror or error}") from error
    except ValueError as error:
        raise UsageError(f"plan.law={path} is not JSON: {error}") from error
    if not isinstance(row, dict) or row.get("schema_version") != SCHEMA_VERSION:
        raise UsageError(f"plan.law={path} is not a law file of schema_version {SCHEMA_VERSION}")
    missing = [
        key for key in (*_ABOUT, "recipe", "measured", *_NAMES, "spread", "draws") if key not in row
    ]
    if missing:
        raise UsageError(f"plan.law={path} lacks {', '.join(missing)}")
    exposures = row["exposures"]
    if not isinstance(exposures, int | float) or not 0 < exposures < math.inf:
        raise UsageError(f"plan.law={path}: exposures={exposures} must be a number above 0")
    top, half, slope = (_interval(row[name], name, path) for name in _NAMES)
    if top.value >= 1:
        raise UsageError(f"plan.law={path}: r={top.value} must lie below 1")
    best = [math.log(top.value / (1 - top.value)), math.log(half.value), math.log(slope.value)]
    spread, draws = _spread(row["spread"], path), _draws(row["draws"], path)
    law = RecallLaw(top, half, slope, spread, [], np.array(best), draws)
    try:
        recipe = Recipe.from_json(row["recipe"])
    except ValueError as error:
        raise UsageError(f"plan.law={path}: recipe.{error}") from error
    try:
        measured = Measured.from_json(row["measured"])
    except ValueError as error:
        raise UsageError(f"plan.law={path}: measured {error}") from error
    return LawFile(law, recipe, measured, {key: row[key] for key in _ABOUT})


def _spread(value: Any, path: Path) -> float:
    if not isinstance(value, int | float) or not 0 <= value < 1:
        raise UsageError(f"plan.law={path}: spread={value} must be at least 0 and below 1")
    return float(value)


def _interval(value: Any, name: str, path: Path) -> Interval:
    try:
        found = Interval(*(float(number) for number in value))
    except (TypeError, ValueError):
        raise UsageError(f"plan.law={path}: {name}={value} must be [value, low, high]") from None
    if not 0 < found.value < math.inf:
        raise UsageError(f"plan.law={path}: {name}={found.value} must be above 0")
    return found


def _draws(value: Any, path: Path) -> np.ndarray:
    try:
        draws = np.array(value, float)
    except (TypeError, ValueError):
        draws = np.empty(0)
    if draws.ndim != 2 or draws.shape[1] != 3 or not len(draws) or not np.isfinite(draws).all():
        raise UsageError(f"plan.law={path}: draws must be rows of [logit r, log x0, log s]")
    return draws
