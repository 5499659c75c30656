"""What a study found, as plain values: ``fit.json``, ``results.csv``, and tables for people."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from memo_dist.io import atomic
from memo_dist.observability.progress import duration
from memo_dist.scaling.cells import Cell
from memo_dist.scaling.fit import Fitted, Study
from memo_dist.scaling.folder import StudyFolder
from memo_dist.scaling.laws import CapacityLaw, Interval
from memo_dist.training.flops import peak_of

_NEAR = 0.5
"""Below this fraction of a fitted capacity, the fit guesses it: the cells held all they saw."""
_FIRST_COLUMNS = ("source", "arm", "role", "size", "parameters", "without_embeddings", "load")
_COLUMNS = (
    *_FIRST_COLUMNS,
    "exposures",
    "seed",
    "rate",
    "outcome",
    "items",
    "volume_bits",
    "precision",
    "bits",
    "bits_per_parameter",
    "recall",
    "steps",
    "flops",
    "seconds",
    "flops_per_second",
    "share_of_peak",
    "device",
)


def study_json(study: Study) -> dict[str, Any]:
    """``fit.json``: intervals are [value, low, high]."""
    return {
        "schema_version": 1,
        "laws": [_fitted_json(fitted) for fitted in study.fits.values()],
        "learning_rates": study.rates,
        "precisions": study.precisions,
        "held_out": study.held_out,
        "devices": study.devices,
    }


def _fitted_json(fitted: Fitted) -> dict[str, Any]:
    values: dict[str, Any] = {
        "source": fitted.source,
        "arm": fitted.arm,
        "cells": len(fitted.points),
        "notes": fitted.notes,
    }
    if fitted.capacity is not None:
        values["capacity"] = _law_json(fitted.capacity)
        values["sizes"] = size_rows(fitted.capacity)
    if fitted.without_embeddings is not None:
        values["capacity_without_embeddings"] = _law_json(fitted.without_embeddings)
    if fitted.recall is not None:
        law = fitted.recall
        values["recall"] = {
            "top": law.top.to_json(),
            "half": law.half.to_json(),
            "slope": law.slope.to_json(),
        }
    return values


def _law_json(law: CapacityLaw) -> dict[str, Any]:
    return {
        "c": law.c.to_json(),
        "exponent": law.exponent.to_json(),
        "exponent_is_one": law.exponent_is_one,
        "knee": law.knee.to_json(),
        "tau": law.tau.to_json() if law.tau else None,
        "rms_relative_residual": float((law.residuals**2).mean() ** 0.5),
    }


def size_rows(law: CapacityLaw) -> list[dict[str, Any]]:
    """For each size and number of exposures: capacity and saturation volumes."""
    rows = []
    lines = sorted({(point.parameters, point.exposures) for point in law.points})
    for parameters, exposures in lines:
        mine = [p for p in law.points if (p.parameters, p.exposures) == (parameters, exposures)]
        capacity = law.capacity(parameters, exposures)
        largest = max(point.bits for point in mine)
        rows.append(
            {
                "parameters": parameters,
                "exposures": exposures,
                "largest_bits_per_parameter": largest / parameters,
                "near_capacity": largest >= _NEAR * capacity.value,
                "capacity_bits_per_parameter": _scaled(capacity, 1 / parameters).to_json(),
                "held_volume_bits": law.held_volume(parameters, exposures).to_json(),
                "saturation_volume_bits": law.full_volume(parameters, exposures).to_json(),
            }
        )
    return rows


def _scaled(interval: Interval, factor: float) -> Interval:
    return Interval(interval.value * factor, interval.low * factor, interval.high * factor)


def write_results(study: StudyFolder, results: Mapping[Cell, dict[str, Any]]) -> None:
    """``results.csv``: a line for each cell and precision."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, _COLUMNS, lineterminator="\n")
    writer.writeheader()
    for cell, result in results.items():
        for precision, measured in (result["measured"] or {"": {}}).items():
            writer.writerow(_row(cell, result, precision, measured))
    atomic.write_text(study.results, buffer.getvalue())


def _row(
    cell: Cell, result: dict[str, Any], precision: str, measured: Mapping[str, float]
) -> dict[str, Any]:
    bits = measured.get("bits")
    return {
        "source": cell.source,
        "arm": cell.arm,
        "role": cell.role,
        "size": cell.size,
        "parameters": result["parameters"],
        "without_embeddings": result["parameters"] - result["embedding_parameters"],
        "load": cell.load,
        "exposures": cell.exposures,
        "seed": cell.seed,
        "rate": cell.rate,
        "outcome": result["outcome"],
        "items": result["items"],
        "volume_bits": result["volume_bits"],
        "precision": precision,
        "bits": bits,
        "bits_per_parameter": None if bits is None else bits / result["parameters"],
        "recall": measured.get("recall"),
        "steps": result["steps"],
        "flops": result["flops"],
        "seconds": result["seconds"],
        "flops_per_second": _rate(result["flops"], result["seconds"]),
        "share_of_peak": _share_of_peak(result["flops"], result["seconds"], result["device"]),
        "device": result["device"],
    }


def _rate(flops: float, seconds: float) -> float | None:
    return flops / seconds if seconds else None


def _share_of_peak(flops: float, seconds: float, device: str) -> float | None:
    """Of the whole device's dense bf16 peak, by one cell; others may share the device."""
    rate, peak = _rate(flops, seconds), peak_of(device)
    return rate / peak if rate is not None and peak else None


def device_rows(results: Collection[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """For each kind of device: operations of its cells, time, and how much of its peak was used.

    ``busy_seconds`` is the time in which some cell ran, ``flops_per_second`` the operations over
    it: of one device that cells share, or of all devices of a kind together. Both count the
    ``clocked`` cells, those whose result says when they ran.

    Args:
        results: of the cells.
    """
    rows = []
    for device in sorted({str(result["device"]) for result in results}):
        mine = [result for result in results if result["device"] == device]
        flops, seconds = (sum(result[key] for result in mine) for key in ("flops", "seconds"))
        clocked = [result for result in mine if result.get("spans")]
        busy = _union([span for result in clocked for span in result["spans"]])
        done = sum(result["flops"] for result in clocked)
        rows.append(
            {
                "device": device,
                "cells": len(mine),
                "flops": flops,
                "seconds": seconds,
                "clocked": len(clocked),
                "busy_seconds": busy,
                "flops_per_second": _rate(done, busy),
                "share_of_peak": _share_of_peak(done, busy, device),
            }
        )
    return rows


def _union(spans: Sequence[Sequence[float]]) -> float:
    """Seconds that at least one of the spans covers."""
    covered, until = 0.0, -math.inf
    for begun, ended in sorted(map(tuple, spans)):
        covered += max(0.0, ended - max(begun, until))
        until = max(until, ended)
    return covered


def _device_line(row: Mapping[str, Any]) -> str:
    line = f"{row['cells']} cells on {row['device']}: {row['flops']:.3g} FLOPs in"
    line += f" {duration(row['seconds'])} of cells"
    if row["flops_per_second"] is not None:
        part = "" if row["clocked"] == row["cells"] else f"{row['clocked']} of them in "
        line += f", {part}{duration(row['busy_seconds'])} by the clock"
        line += f": {row['flops_per_second']:.3g} FLOP/s"
    if row["share_of_peak"] is not None:
        line += f" ({100 * row['share_of_peak']:.2g} % of the peak)"
    return line


def summary_text(study: Study) -> str:
    """The findings in a few lines a source, for a terminal."""
    lines = []
    for fitted in study.fits.values():
        name = fitted.source if fitted.arm == "plain" else f"{fitted.source}, {fitted.arm}"
        lines.append(f"{name}: {len(fitted.points)} cells")
        if fitted.capacity is not None:
            lines += _law_lines(fitted.capacity)
        if fitted.recall is not None:
            law = fitted.recall
            lines.append(
                f"  recall: at most {_text(law.top)}, half of it at {_text(law.half)} parameters a"
                f" fact, slope {_text(law.slope)}"
            )
        lines += [f"  {note}" for note in fitted.notes]
    for row in study.held_out:
        low, high = row["predicted"][1:]
        lines.append(
            f"  predicted {row['source']} {row['size']:,} parameters, load {row['load']:g},"
            f" {row['exposures']} exposures, seed {row['seed']}: {row['predicted'][0]:,.0f} bits"
            f" ({low:,.0f} to {high:,.0f}), measured {row['measured']:,.0f}:"
            f" {100 * row['error']:+.1f} %"
        )
    for row in study.rates:
        if row["gain_of_the_best"] > 0.03:
            lines.append(
                f"  learning rate of {row['source']} {row['size']:,}: a multiple of the rule's"
                f" holds {100 * row['gain_of_the_best']:.0f} % more"
            )
    lines += [_device_line(row) for row in study.devices]
    return "\n".join(lines) + "\n"


def _law_lines(law: CapacityLaw) -> list[str]:
    verdict = "contains 1" if law.exponent_is_one else "does not contain 1"
    lines = [f"  size exponent {_text(law.exponent)}: the interval {verdict}"]
    if law.tau is not None:
        lines.append(
            f"  exposures: c(E) = {_text(law.c)} (1 - exp(-E / {_text(law.tau)})) bits a parameter"
            " at 10,000"
        )
    for row in size_rows(law):
        capacity = Interval(*row["capacity_bits_per_parameter"])
        measured = f"{row['largest_bits_per_parameter']:.2f}"
        found = (
            f"{_text(capacity)} bits a parameter when full (measured up to {measured}); full at"
            f" {row['saturation_volume_bits'][0]:,.0f} bits"
            if row["near_capacity"]
            else f"at least {measured} bits a parameter; no volume came near what it can hold"
        )
        lines.append(
            f"  {row['parameters']:>12,} parameters, {row['exposures']:g} exposures: {found}"
        )
    return lines


def _text(interval: Interval) -> str:
    return f"{interval.value:.3g} ({interval.low:.3g} to {interval.high:.3g})"
