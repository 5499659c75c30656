"""A recall law as a JSON file, so that one study's law can plan another corpus.

The file holds ``schema_version``, ``base``, ``corpus``, ``exposures`` (passes over all wordings),
``versions``, ``recipe`` (how the memories were trained, :class:`~memo_dist.scaling.recipe.Recipe`),
and the law R(x) = r / (1 + (x0 / x)^s), x in parameters a fact: ``r``, ``x0``, ``s`` as [value,
low, high], ``spread``, the standard deviation of single memories around it, and ``draws``, the
bootstrap's rows of [logit r, log x0, log s].
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from memo_dist.errors import UsageError
from memo_dist.io import atomic
from memo_dist.scaling.laws import Interval, RecallLaw
from memo_dist.scaling.recipe import Recipe

SCHEMA_VERSION = 1
_ABOUT = ("base", "corpus", "exposures", "versions")
_NAMES = ("r", "x0", "s")


@dataclass(frozen=True)
class LawFile:
    """A law, and what it was measured on.

    Attributes:
        law: R(x), without the points it rests on.
        recipe: how its memories were trained.
        about: ``base``, ``corpus``, ``exposures`` (passes) and ``versions``.
    """

    law: RecallLaw
    recipe: Recipe
    about: dict[str, Any]


def write_law(path: Path, law: RecallLaw, recipe: Recipe, about: Mapping[str, Any]) -> None:
    """Write a fitted law, atomically.

    Args:
        path: the file.
        law: fitted.
        recipe: how its memories were trained.
        about: ``base``, ``corpus``, ``exposures`` and ``versions``.

    Raises:
        UsageError: ``about`` lacks one of these.
    """
    missing = [key for key in _ABOUT if key not in about]
    if missing:
        raise UsageError(f"a law file must say {', '.join(missing)}")
    atomic.write_json(
        path,
        {
            "schema_version": SCHEMA_VERSION,
            **{key: about[key] for key in _ABOUT},
            "recipe": recipe.to_json(),
            "r": law.top.to_json(),
            "x0": law.half.to_json(),
            "s": law.slope.to_json(),
            "spread": law.spread,
            "draws": np.asarray(law.draws, float).tolist(),
        },
    )


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
        raise UsageError(f"plan.law={path} is no JSON: {error}") from error
    if not isinstance(row, dict) or row.get("schema_version") != SCHEMA_VERSION:
        raise UsageError(f"plan.law={path} is no law file of schema_version {SCHEMA_VERSION}")
    missing = [key for key in (*_ABOUT, "recipe", *_NAMES, "spread", "draws") if key not in row]
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
    return LawFile(law, _recipe(row["recipe"], path), {key: row[key] for key in _ABOUT})


def _recipe(value: Any, path: Path) -> Recipe:
    try:
        return Recipe.from_json(value)
    except ValueError as error:
        raise UsageError(f"plan.law={path}: recipe.{error}") from error


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
