"""The folder of a study: what lies where, and the state of each cell in it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from memo_dist.config.scale_schema import ScaleConfig
from memo_dist.config.shipped import configs_folder
from memo_dist.errors import UsageError
from memo_dist.io import atomic
from memo_dist.scaling.cells import CHECKPOINT, RESULT, Cell, cell_name, study_cells

SETTLED = ("done", "full", "diverged", "skipped")
"""Outcomes after which a cell is not run again."""
FAILED = "failed.json"
SKIPPED = "skipped.json"


@dataclass(frozen=True)
class StudyFolder:
    """Paths inside ``STUDY``; creates nothing by itself."""

    root: Path

    def cell(self, cell: Cell, scale: ScaleConfig) -> Path:
        """``result.json`` in the end; before, ``checkpoint.safetensors``."""
        return self.root / "cells" / cell_name(cell, scale)

    def prediction(self, source: str) -> Path:
        """The held-out sizes of a source, predicted before they ran."""
        return self.root / "predictions" / f"{source}.json"

    @property
    def fit(self) -> Path:
        """The fitted laws, with their intervals."""
        return self.root / "fit.json"

    @property
    def recall_law(self) -> Path:
        """The recall law of reflections, for ``plan.law``."""
        return self.root / "recall-law.json"

    @property
    def results(self) -> Path:
        """One line a cell and precision."""
        return self.root / "results.csv"

    @property
    def plots(self) -> Path:
        """PNG and SVG."""
        return self.root / "plots"

    @property
    def report(self) -> Path:
        """Everything on one page."""
        return self.root / "report.html"

    def outcome(self, cell: Cell, scale: ScaleConfig) -> str:
        """``waiting``, ``begun``, ``failed``, or how it was settled (:data:`SETTLED`)."""
        folder = self.cell(cell, scale)
        if (folder / RESULT).exists():
            return str(atomic.read_json(folder / RESULT)["outcome"])
        if self._is_skipped(folder, scale):
            return "skipped"
        for name, outcome in ((FAILED, "failed"), (CHECKPOINT, "begun")):
            if (folder / name).exists():
                return outcome
        return "waiting"

    def mark_skipped(self, cell: Cell, scale: ScaleConfig) -> None:
        """Say that a cell can't matter by the rule ``scale.saturated``."""
        value = {"reason": "saturated", "saturated": scale.saturated, "cell": cell.label}
        atomic.write_json(self.cell(cell, scale) / SKIPPED, value)

    def _is_skipped(self, folder: Path, scale: ScaleConfig) -> bool:
        """Whether it was skipped by the rule that holds now; by another it waits again."""
        path = folder / SKIPPED
        return path.exists() and atomic.read_json(path).get("saturated") == scale.saturated

    def result(self, cell: Cell, scale: ScaleConfig) -> dict[str, Any] | None:
        """The result of a cell that ran to its end."""
        path = self.cell(cell, scale) / RESULT
        return atomic.read_json(path) if path.exists() else None

    def all_results(self, scale: ScaleConfig) -> dict[Cell, dict[str, Any]]:
        """The results that there are, by cell."""
        found = {cell: self.result(cell, scale) for cell in study_cells(scale)}
        return {cell: result for cell, result in found.items() if result is not None}

    def progress(self, cell: Cell, scale: ScaleConfig) -> dict[str, Any]:
        """What a begun cell's checkpoint says of it; empty without one."""
        from safetensors import safe_open  # loads torch, which other users of a folder don't need

        path = self.cell(cell, scale) / CHECKPOINT
        try:
            with safe_open(path, "pt") as file:
                return dict(json.loads(file.metadata()["progress"]))
        except FileNotFoundError:  # it has ended meanwhile
            return {}


def find_study(study: Path, run_folder: Path | None) -> tuple[Path | None, Path]:
    """(configuration file or None, study folder) of a STUDY argument.

    STUDY is a YAML file (as given, or one that is shipped), or the folder of a study.

    Raises:
        UsageError: it is neither.
    """
    if study.is_dir():
        if run_folder is not None:
            raise UsageError(f"--run {run_folder}: {study} is a study's folder already")
        if not (study / "config.yaml").exists():
            raise UsageError(f"{study} is not a study (no config.yaml); give its YAML file")
        return None, study
    file = study
    if not file.exists() and study.parts[:1] == ("configs",):
        file = configs_folder().joinpath(*study.parts[1:])
    if not file.exists():
        raise UsageError(
            f"STUDY {study} is neither a YAML file nor a study's folder; configs/scale/ has some"
        )
    return file, run_folder or Path("runs") / f"scale-{file.stem}"
