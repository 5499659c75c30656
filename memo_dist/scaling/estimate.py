"""What a study costs, before anything runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from memo_dist.cluster.resources import Resources
from memo_dist.config.scale_schema import GridConfig, ScaleConfig
from memo_dist.scaling.cells import Cell
from memo_dist.scaling.ladder import Shape
from memo_dist.scaling.sources import Knowledge, draw_knowledge
from memo_dist.scaling.training import step_seconds
from memo_dist.training.flops import PEAK
from memo_dist.training.memory_need import CPU_RUNTIME_BYTES

GPU_UTILIZATION = 0.2
"""Share of a GPU's dense bf16 peak that small memories are assumed to reach; not measured yet."""
_LARGEST_TIMED = 3_000_000
"""Parameters up to which a step is timed on this CPU; larger ones follow by their FLOPs."""
_STATE_BYTES = 16
"""A parameter in training: fp32 weight, gradient and two moments."""


@dataclass(frozen=True, slots=True)
class CellCost:
    """The work of one cell, if it does not end early.

    Attributes:
        cell: its coordinates.
        shape: of its memory.
        items: pieces of knowledge.
        steps: of training.
        tokens: read in training.
        flops: of training.
        bytes: of memory, the runtime included.
        seconds: on one worker of this machine's CPU.
    """

    cell: Cell
    shape: Shape
    items: int
    steps: int
    tokens: float
    flops: float
    bytes: int
    seconds: float


class Estimator:
    """Costs of cells; each shape's step is timed once.

    Args:
        scale: the study's configuration.
    """

    def __init__(self, scale: ScaleConfig) -> None:
        self._scale = scale
        self._knowledge: dict[tuple[str, int, float, str], tuple[Knowledge, Shape]] = {}
        self._flops_rate: dict[tuple[str, int], float] = {}

    def cost(self, cell: Cell) -> CellCost:
        """One cell's; cells that differ in seed, rate or exposures share the drawing."""
        grid: GridConfig = getattr(self._scale, cell.source)
        key = (cell.source, cell.size, cell.load, cell.arm)
        if key not in self._knowledge:
            self._knowledge[key] = draw_knowledge(cell, self._scale)
        knowledge, shape = self._knowledge[key]
        batches = knowledge.batches(grid.batch_tokens)
        steps = batches * cell.exposures
        tokens = float(steps * knowledge.batch(0, 0, grid.batch_tokens).read)
        flops = shape.flops(tokens, knowledge.length)
        return CellCost(
            cell=cell,
            shape=shape,
            items=knowledge.items,
            steps=steps,
            tokens=tokens,
            flops=flops,
            bytes=CPU_RUNTIME_BYTES + _STATE_BYTES * shape.parameters + _row_bytes(shape, grid),
            seconds=flops / self._rate(cell, shape, knowledge, grid),
        )

    def _rate(self, cell: Cell, shape: Shape, knowledge: Knowledge, grid: GridConfig) -> float:
        """FLOP/s of one core on this shape, timed; of the nearest timed one for large shapes."""
        key = (cell.source, shape.parameters)
        if key not in self._flops_rate:
            timed = [
                rate for (source, _), rate in self._flops_rate.items() if source == cell.source
            ]
            if shape.parameters > _LARGEST_TIMED and timed:
                self._flops_rate[key] = max(timed)
            else:
                batch = knowledge.batch(0, 0, grid.batch_tokens)
                work = shape.flops(float(batch.read), knowledge.length)
                self._flops_rate[key] = work / self._timed(shape, knowledge, grid)
        return self._flops_rate[key]

    def _timed(self, shape: Shape, knowledge: Knowledge, grid: GridConfig) -> float:
        before = torch.get_num_threads()
        torch.set_num_threads(self._scale.cell_threads)
        try:
            return step_seconds(shape, knowledge, grid.batch_tokens)
        finally:
            torch.set_num_threads(before)


def _row_bytes(shape: Shape, grid: GridConfig) -> int:
    """Activations and logits of one batch in fp32 (the counting of training.memory_need)."""
    layer = 11 * shape.hidden + 4 * shape.intermediate
    return 4 * grid.batch_tokens * (shape.layers * layer + 3 * shape.vocabulary)


def study_hours(costs: Sequence[CellCost], have: Resources, scale: ScaleConfig) -> float:
    """Hours on this machine's cores, cells side by side: no less than the longest cell."""
    workers = max(1, have.cores // scale.cell_threads)
    seconds = [cost.seconds for cost in costs]
    return max(sum(seconds) / workers, max(seconds, default=0.0)) / 3600


def gpu_hours(costs: Sequence[CellCost]) -> dict[str, float]:
    """Hours on one GPU of each known kind at :data:`GPU_UTILIZATION` of its peak."""
    flops = sum(cost.flops for cost in costs)
    return {name: flops / (peak * GPU_UTILIZATION) / 3600 for name, peak in PEAK.items()}
