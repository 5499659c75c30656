"""Prices of models and machines: data that the user edits, ``configs/prices.yaml``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from memo_dist.config.shipped import shipped_config
from memo_dist.errors import UsageError, suggest
from memo_dist.io.yaml_text import parse_yaml

_MILLION = 1e6
_HOUR = 3600.0


@dataclass(frozen=True, slots=True)
class ModelPrice:
    """What a model's tokens cost.

    Attributes:
        prompt, completion: currency per million tokens.
        cached: the same for prompt tokens of a prefix cache.
        context: longest prompt with its answer, in tokens; 0: not known.
        date, source: when and where the price was read.
    """

    prompt: float
    completion: float
    cached: float = 0.0
    context: int = 0
    date: str = ""
    source: str = ""

    def money(self, tokens_in: float, tokens_out: float) -> float:
        """Of so many tokens."""
        return (tokens_in * self.prompt + tokens_out * self.completion) / _MILLION


@dataclass(frozen=True, slots=True)
class MachinePrice:
    """What an hour of a machine costs."""

    per_hour: float
    date: str = ""
    source: str = ""

    def money(self, seconds: float) -> float:
        """Of so many seconds."""
        return seconds * self.per_hour / _HOUR


@dataclass(frozen=True, slots=True)
class Prices:
    """All prices of one file.

    Attributes:
        currency: of all of them.
        models, machines: by name.
    """

    currency: str
    models: Mapping[str, ModelPrice]
    machines: Mapping[str, MachinePrice]

    def machine(self, name: str) -> MachinePrice:
        """The price of ``compare.machine``.

        Raises:
            UsageError: the file does not list it.
        """
        if name not in self.machines:
            raise UsageError(
                f"compare.machine={name} is not in the price file{suggest(name, self.machines)};"
                f" it lists {', '.join(self.machines)}"
            )
        return self.machines[name]


def load_prices(file: str = "") -> Prices:
    """Read a price file; "": the one that is shipped.

    Raises:
        UsageError: it cannot be read, or a price is missing, negative or no number.
    """
    path = Path(file) if file else shipped_config("prices")
    try:
        rows = parse_yaml(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot read compare.prices={path}: {error}") from error
    if not isinstance(rows, dict):
        raise UsageError(f"compare.prices={path} must hold currency, models and machines")
    models = _table(rows, "models", path)
    machines = _table(rows, "machines", path)
    return Prices(
        str(rows.get("currency") or "USD"),
        {name: _make(ModelPrice, row, f"{path}: models.{name}") for name, row in models.items()},
        {n: _make(MachinePrice, row, f"{path}: machines.{n}") for n, row in machines.items()},
    )


def _table(rows: Mapping[str, Any], group: str, path: Path) -> Mapping[str, Any]:
    table = rows.get(group) or {}
    if not isinstance(table, dict) or not all(isinstance(row, dict) for row in table.values()):
        raise UsageError(f"{path}: '{group}' must map names to prices")
    return {str(name): row for name, row in table.items()}


def _make(kind: Any, row: Mapping[str, Any], where: str) -> Any:
    texts = ("date", "source")
    for key, value in row.items():
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if key not in texts and (not number or value < 0):
            raise UsageError(f"{where}.{key} is {value!r}; write a number, 0 or more")
    try:
        return kind(**{key: str(value) if key in texts else value for key, value in row.items()})
    except TypeError as error:
        raise UsageError(f"{where}: {error}") from error
