"""``scale plan``: the grid of a study, and what it costs."""

from __future__ import annotations

from collections import Counter
from typing import Any

from memo_dist.cluster.resources import detect_resources
from memo_dist.config.schema import Config
from memo_dist.observability.progress import duration
from memo_dist.scaling.cells import Cell, source_loads, study_cells
from memo_dist.scaling.estimate import GPU_UTILIZATION, CellCost, Estimator, gpu_hours, study_hours
from memo_dist.scaling.folder import SETTLED, StudyFolder
from memo_dist.scaling.sources import draw_knowledge

_GIB = 2**30
_LAUNCH_BOUND = 1_000_000  # parameters below which a GPU mostly waits for kernels to start


def check_study(config: Config) -> None:
    """Refuse what would fail in every cell, before anything is started.

    Raises:
        UsageError: no memory of some size exists for its vocabulary, or a source can't be read.
    """
    scale = config.scale
    for source in scale.sources:
        grid = getattr(scale, source)
        loads = source_loads(source, scale)
        for size in (*grid.sizes, *grid.predict):
            draw_knowledge(Cell(source, size, min(loads), 1, min(grid.seeds)), scale)
        if source == "reflections":  # there may be fewer documents
            draw_knowledge(Cell(source, min(grid.sizes), max(loads), 1, min(grid.seeds)), scale)


def plan_study(study: StudyFolder, config: Config) -> dict[str, Any]:
    """The grid by source and size, and totals of the cells that have not run.

    A step of each size is timed on this machine (a second or two each).

    Raises:
        UsageError: see :func:`check_study`.
    """
    check_study(config)
    scale, estimator = config.scale, Estimator(config.scale)
    cells = study_cells(scale)
    costs = {cell: estimator.cost(cell) for cell in cells}
    left = [costs[c] for c in cells if study.outcome(c, scale) not in SETTLED]
    have = detect_resources()
    return {
        "study": str(study.root),
        "rows": _rows(costs),
        "cells": len(cells),
        "cells_left": len(left),
        "flops_left": sum(cost.flops for cost in left),
        "machine": str(have),
        "hours_here": study_hours(left, have, scale),
        "bytes_here": _side_by_side(left, max(1, have.cores // scale.cell_threads)),
        "gpu_hours": gpu_hours(left),
        "gpu_utilization_assumed": GPU_UTILIZATION,
    }


def _rows(costs: dict[Cell, CellCost]) -> list[dict[str, Any]]:
    rows = []
    for source, role, size in sorted(
        {(cell.source, cell.role == "predict", cell.size) for cell in costs}
    ):
        mine = [
            cost
            for cell, cost in costs.items()
            if (cell.source, cell.role == "predict", cell.size) == (source, role, size)
        ]
        shape = mine[0].shape
        rows.append(
            {
                "source": source,
                "held_out": role,
                "size": size,
                "shape": f"{shape.layers} x {shape.hidden}, MLP {shape.intermediate}",
                "parameters": shape.parameters,
                "embedding_parameters": shape.embedding_parameters,
                "cells": len(mine),
                "loads": sorted({cost.cell.load for cost in mine}),
                "items": [min(c.items for c in mine), max(c.items for c in mine)],
                "flops": sum(cost.flops for cost in mine),
                "seconds": sum(cost.seconds for cost in mine),
                "bytes": max(cost.bytes for cost in mine),
            }
        )
    return rows


def _side_by_side(costs: list[CellCost], workers: int) -> int:
    """Bytes when the largest cells run at once."""
    return sum(sorted((cost.bytes for cost in costs), reverse=True)[:workers])


def plan_text(planned: dict[str, Any]) -> str:
    """The plan for a terminal."""
    lines = [
        f"{'source':<12} {'parameters':>12} {'embeddings':>10}  {'layers x width':<20} {'cells':>5}"
        f" {'items':>15} {'FLOPs':>8} {'core time':>12}"
    ]
    for row in planned["rows"]:
        low, high = row["items"]
        items = f"{low:,}" if low == high else f"{low:,}-{high:,}"
        lines.append(
            f"{row['source']:<12} {row['parameters']:>12,} {row['embedding_parameters']:>10,}"
            f"  {row['shape']:<20} {row['cells']:>5} {items:>15} {row['flops']:>8.1e}"
            f" {duration(row['seconds']):>12}{'  predicted first' if row['held_out'] else ''}"
        )
    sources = Counter(row["source"] for row in planned["rows"])
    lines += [
        "",
        f"{planned['cells_left']} of {planned['cells']} cells of {len(sources)} source(s) have not"
        f" run: {planned['flops_left']:.2g} FLOPs, if none ends early",
        f"here ({planned['machine']}): about {duration(3600 * planned['hours_here'])}, up to"
        f" {planned['bytes_here'] / _GIB:.1f} GiB of memory",
        *_gpu_lines(planned),
        f"memo-dist scale run writes to {planned['study']}",
    ]
    return "\n".join(lines) + "\n"


def _gpu_lines(planned: dict[str, Any]) -> list[str]:
    """Hours on GPUs; nothing where the memories are so small that starting kernels decides."""
    if max(row["parameters"] for row in planned["rows"]) < _LAUNCH_BOUND:
        return []
    gpus = ", ".join(f"{name} {hours:.2g}" for name, hours in planned["gpu_hours"].items())
    share = 100 * planned["gpu_utilization_assumed"]
    return [
        f"hours on one GPU at {share:.0f} % of its bf16 peak (an assumption, not measured): {gpus}"
    ]
