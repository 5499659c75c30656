"""Which cells can't matter any more: loads beyond saturation.

The rule (``scale.saturated``): the cells of one size, exposures, seed and arm run in rising order
of load. Once two neighbouring loads memorised the same number of bits within that fraction, the
memory is full, and every higher load is skipped: it would measure the plateau once more, at a
higher price.
"""

from __future__ import annotations

from collections.abc import Collection
from itertools import pairwise
from typing import Literal

from memo_dist.config.scale_schema import ScaleConfig
from memo_dist.scaling.cells import Cell, line_of, reference_measure, study_cells
from memo_dist.scaling.folder import StudyFolder

Verdict = Literal["run", "wait", "skip"]


class Saturation:
    """Judges cells by the results that there are."""

    def __init__(self, study: StudyFolder, scale: ScaleConfig) -> None:
        self._study, self._scale = study, scale
        self._cells = study_cells(scale)

    def order(self, cell: Cell) -> float:
        """Low loads first."""
        return cell.load

    def verdict(self, cell: Cell, unsettled: Collection[Cell]) -> Verdict:
        """Whether a cell should run now, wait for lower loads, or not run at all.

        Args:
            cell: one that waits.
            unsettled: cells that wait or run in this launch. Nobody waits for others: a lower load
                that failed says nothing.
        """
        if cell.role == "rate":
            return "run"
        below = sorted(
            (o for o in self._cells if line_of(o) == line_of(cell) and o.load < cell.load),
            key=lambda other: other.load,
        )
        if any(other in unsettled for other in below):
            return "wait"
        results = [self._study.result(other, self._scale) for other in below]
        measured = [reference_measure(result) for result in results if result]
        bits = [max(1.0, values["bits"]) for values in measured if values]
        full = any(high < low * (1 + self._scale.saturated) for low, high in pairwise(bits))
        return "skip" if full else "run"
