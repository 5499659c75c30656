"""Where the knowledge of a study comes from."""

from __future__ import annotations

from memo_dist.config.scale_schema import (
    BiographyStudyConfig,
    GridConfig,
    RandomStudyConfig,
    ScaleConfig,
)
from memo_dist.scaling.cells import Cell
from memo_dist.scaling.ladder import Shape, choose_shape
from memo_dist.scaling.sources.biographies import Biographies
from memo_dist.scaling.sources.people import VOCABULARY
from memo_dist.scaling.sources.random import RandomSequences
from memo_dist.scaling.sources.reflections import ReflectionKnowledge
from memo_dist.scaling.sources.types import Batch, Knowledge, Score

__all__ = ["Batch", "Knowledge", "Score", "draw_knowledge"]


def draw_knowledge(cell: Cell, scale: ScaleConfig) -> tuple[Knowledge, Shape]:
    """The knowledge of one cell, and the shape of the memory that reads it.

    The same cell draws the same knowledge on every machine.

    Raises:
        UsageError: no memory of that size exists for the source's vocabulary.
    """
    grid: GridConfig = getattr(scale, cell.source)
    layers = grid.least_layers
    if isinstance(grid, RandomStudyConfig):
        shape = choose_shape(cell.size, RandomSequences.tokens(grid.vocabulary), layers)
        bits = cell.load * shape.parameters
        return RandomSequences(bits, grid.vocabulary, grid.length, cell.seed), shape
    if isinstance(grid, BiographyStudyConfig):
        shape = choose_shape(cell.size, VOCABULARY, layers)
        bits = cell.load * shape.parameters
        return Biographies(bits, grid, cell.arm, cell.seed), shape
    knowledge = ReflectionKnowledge(scale.reflections, int(cell.load), cell.seed)
    return knowledge, choose_shape(cell.size, knowledge.vocabulary, layers)
