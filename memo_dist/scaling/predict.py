"""Predictions for held-out sizes: written before their cells run, compared afterwards."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from memo_dist.config.schema import Config
from memo_dist.io import atomic
from memo_dist.scaling.cells import Cell, cell_name
from memo_dist.scaling.fit import Study, fit_study, make_point
from memo_dist.scaling.folder import StudyFolder
from memo_dist.scaling.laws import CapacityLaw
from memo_dist.scaling.sources import draw_knowledge


def write_predictions(study: StudyFolder, config: Config, held_out: Sequence[Cell]) -> None:
    """Write ``predictions/<source>.json`` for every held-out cell that has not begun.

    What was predicted once stays: a later fit never changes it. A cell that began before it was
    predicted (a size that was fitted earlier, say) gets no prediction.
    """
    scale = config.scale
    results = study.all_results(scale)
    fitted = fit_study(results, scale, config.run.seed)
    for source in sorted({cell.source for cell in held_out}):
        path = study.prediction(source)
        told: dict[str, Any] = atomic.read_json(path)["cells"] if path.exists() else {}
        new = {
            cell_name(cell, scale): _prediction(cell, config, law)
            for cell in held_out
            if cell.source == source
            and (law := _law(fitted, cell)) is not None
            and cell_name(cell, scale) not in told
            and study.outcome(cell, scale) == "waiting"
        }
        if new:
            atomic.write_json(path, {"schema_version": 1, "cells": told | new})


def _law(fitted: Study, cell: Cell) -> CapacityLaw | None:
    found = fitted.fits.get((cell.source, cell.arm))
    return found.capacity if found else None


def _prediction(cell: Cell, config: Config, law: CapacityLaw) -> dict[str, Any]:
    knowledge, shape = draw_knowledge(cell, config.scale)
    bits = law.bits(shape.parameters, knowledge.bits, cell.exposures)
    return {
        "written": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "parameters": shape.parameters,
        "volume_bits": knowledge.bits,
        "exposures": cell.exposures,
        "bits": bits.to_json(),
        "exponent": law.exponent.to_json(),
        "from_cells": len(law.points),
        "from_sizes": sorted({point.parameters for point in law.points}),
    }


def check_predictions(
    study: StudyFolder, fitted: Study, results: Mapping[Cell, dict[str, Any]], config: Config
) -> None:
    """Add to ``fitted.held_out`` what came of each prediction; ``error`` is relative."""
    for cell, result in results.items():
        path = study.prediction(cell.source)
        if cell.role != "predict" or result["outcome"] == "diverged":
            continue
        told = atomic.read_json(path)["cells"] if path.exists() else {}
        if (prediction := told.get(cell_name(cell, config.scale))) is None:
            note = f"not predicted, no law was there before it ran: {cell.label}"
            fitted.fits[cell.source, cell.arm].notes.append(note)
            continue
        measured = make_point(cell, result).bits
        if measured <= 0:
            fitted.fits[cell.source, cell.arm].notes.append(
                f"holds nothing, held out: {cell.label}"
            )
            continue
        fitted.held_out.append(
            {
                "source": cell.source,
                "arm": cell.arm,
                "size": cell.size,
                "load": cell.load,
                "exposures": cell.exposures,
                "seed": cell.seed,
                "predicted": prediction["bits"],
                "written": prediction["written"],
                "measured": measured,
                "error": prediction["bits"][0] / measured - 1,
            }
        )
