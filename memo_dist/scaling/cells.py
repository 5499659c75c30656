"""The cells of a study: what each one is, what decides its result, and in which order they run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from memo_dist.config.scale_schema import (
    PRECISIONS,
    BiographyStudyConfig,
    GridConfig,
    ReflectionStudyConfig,
    ScaleConfig,
)
from memo_dist.errors import UsageError
from memo_dist.io.hashing import hash_file, hash_value
from memo_dist.io.runfolder import RunFolder

VERSION = 1
"""Of what a cell computes; a change of the arithmetic makes every cell a new one."""
CHECKPOINT = "checkpoint.safetensors"
RESULT = "result.json"
"""What a cell's folder holds while it runs, and in the end."""
Role = Literal["fit", "predict", "rate"]
_SOURCE_KEYS = {
    "random": ("vocabulary", "length"),
    "biographies": ("text", "templates", "asked_fraction", "junk"),
    "reflections": ("vocabulary",),
}
"""What of a source's configuration changes a cell beside its coordinates."""
_NAME_DIGITS = 8


@dataclass(frozen=True, slots=True)
class Cell:
    """One training of the study, by its coordinates.

    Attributes:
        source: of knowledge.
        size: target of the ladder, in parameters.
        load: bits of knowledge per parameter; for reflections the number of documents.
        exposures: times that each piece of knowledge is read.
        seed: draws knowledge, first weights and order.
        arm: of the biographies; ``plain`` elsewhere.
        rate: multiple of the learning rate that the rule gives.
        role: ``fit``; ``predict``: left out of the fit; ``rate``: checks the learning rate.
    """

    source: str
    size: int
    load: float
    exposures: int
    seed: int
    arm: str = "plain"
    rate: float = 1.0
    role: Role = "fit"

    @property
    def label(self) -> str:
        """Short text for messages."""
        text = f"{self.source} {self.size:,} parameters, load {self.load:g}, seed {self.seed}"
        text += f", {self.exposures} exposures"
        if self.arm != "plain":
            text += f", {self.arm}"
        return text + (f", rate x{self.rate:g}" if self.rate != 1 else "")


def cell_spec(cell: Cell, scale: ScaleConfig) -> dict[str, Any]:
    """All that decides a cell's result, as plain values; its role does not.

    Where it is the same, the result is the same: studies may grow, and cells are kept.
    """
    grid: GridConfig = getattr(scale, cell.source)
    coordinates = asdict(cell)
    del coordinates["role"]
    return coordinates | {
        "version": VERSION,
        "lr": grid.lr,
        "lr_exponent": grid.lr_exponent,
        "batch_tokens": grid.batch_tokens,
        "least_layers": grid.least_layers,
        "knowledge": {key: getattr(grid, key) for key in _SOURCE_KEYS[cell.source]},
        "run": _content(Path(grid.run)) if isinstance(grid, ReflectionStudyConfig) else "",
        "precision": scale.precision,
        "precisions": list(scale.precisions),
        "warmup_fraction": scale.warmup_fraction,
        "full": scale.full,
        "measurements": scale.measurements,
        "threads": scale.cell_threads,
    }


def taught_file(run: Path) -> Path:
    """The reflections of a run.

    Raises:
        UsageError: there are none.
    """
    path = RunFolder(run).reflections
    if not path.exists():
        raise UsageError(
            f"scale.reflections.run={run} has no reflections.jsonl: run memo-dist synthesize first"
        )
    return path


def _content(run: Path) -> str:
    """Hash of a run's reflections: a run that was synthesised anew teaches something else."""
    path = taught_file(run)
    stat = path.stat()
    return _hash_at(path.absolute(), stat.st_mtime_ns, stat.st_size)


@lru_cache
def _hash_at(path: Path, time: int, size: int) -> str:
    """The file's hash, computed once for each state of it."""
    return hash_file(path)


def cell_name(cell: Cell, scale: ScaleConfig) -> str:
    """The cell's folder: readable coordinates and a hash of its specification."""
    digest = hash_value(cell_spec(cell, scale))[:_NAME_DIGITS]
    parts = [cell.source, f"p{cell.size}", f"l{cell.load:g}", f"e{cell.exposures}"]
    return "-".join([*parts, f"s{cell.seed}", digest])


def study_cells(scale: ScaleConfig) -> list[Cell]:
    """Every cell of the study, each once, smaller and emptier ones first."""
    cells = [cell for source in scale.sources for cell in _source_cells(source, scale)]
    return sorted(cells, key=lambda cell: (cell.source, cell.role == "predict", cell.size))


def _source_cells(source: str, scale: ScaleConfig) -> Iterator[Cell]:
    grid: GridConfig = getattr(scale, source)
    loads = source_loads(source, scale)
    arms = grid.arms if isinstance(grid, BiographyStudyConfig) else ["plain"]
    for role, sizes in (("fit", grid.sizes), ("predict", grid.predict)):
        wanted = loads if role == "fit" else (grid.predict_loads or loads)
        for size in sizes:
            for arm in arms:
                for exposures in grid.exposures:
                    for load in wanted:
                        for seed in grid.seeds:
                            yield Cell(source, size, load, exposures, seed, arm, role=_role(role))
    yield from _rate_cells(source, grid, loads)


def _role(name: str) -> Role:
    return "predict" if name == "predict" else "fit"


def _rate_cells(source: str, grid: GridConfig, loads: list[float]) -> Iterator[Cell]:
    full = sorted(loads)[-2:][0]  # where everything fits, every rate is good enough
    arm = grid.arms[0] if isinstance(grid, BiographyStudyConfig) else "plain"
    for size in grid.sizes:
        base = Cell(source, size, full, max(grid.exposures), min(grid.seeds), arm, role="rate")
        for factor in grid.lr_check:
            if factor != 1:
                yield replace(base, rate=factor)


def partition_cells(scale: ScaleConfig, partition: int) -> list[Cell]:
    """The cells of one array task: every ``scale.partitions``-th, large and small ones alike.

    Held-out sizes are in none: they wait for the fit of all others. Where loads are skipped beyond
    saturation, all loads of a memory are in one partition, which alone decides about them.
    """
    cells = [cell for cell in study_cells(scale) if cell.role != "predict"]
    key = line_of if scale.saturated else lambda cell: (cell,)
    lines: dict[tuple[object, ...], list[Cell]] = {}
    for cell in cells:
        lines.setdefault(key(cell), []).append(cell)
    heavy = sorted(lines.values(), key=lambda line: -sum(map(cell_weight, line)))
    mine = [cell for line in heavy[partition :: scale.partitions] for cell in line]
    return sorted(mine, key=cell_weight, reverse=True)


def line_of(cell: Cell) -> tuple[object, ...]:
    """What cells share that differ in nothing but their load."""
    return (cell.source, cell.size, cell.exposures, cell.seed, cell.arm, cell.rate, cell.role)


def reference_measure(result: Mapping[str, Any]) -> dict[str, float]:
    """What a cell's result says of the finest precision; empty for one that diverged."""
    every: dict[str, dict[str, float]] = result["measured"]
    return next((every[name] for name in PRECISIONS if name in every), {})


def cell_weight(cell: Cell) -> float:
    """A cell's work relative to others of its source: parameters times what it reads."""
    volume = cell.load if cell.source == "reflections" else cell.load * cell.size
    return cell.size * volume * cell.exposures


def source_loads(source: str, scale: ScaleConfig) -> list[float]:
    """The volumes of a source: bits per parameter, or documents."""
    if source == "reflections":
        return [float(count) for count in scale.reflections.documents]
    grid: GridConfig = getattr(scale, source)
    return list(grid.loads)
