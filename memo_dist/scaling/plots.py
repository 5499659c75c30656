"""The pictures of a study, as PNG and SVG."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from memo_dist.evaluation.pictures import COLOURS, write_picture
from memo_dist.scaling.fit import Fitted, Study
from memo_dist.scaling.laws import CapacityLaw, Point, RecallLaw

_ANCHORS = {2.0: "2 bits: facts, 1,000 exposures", 3.6: "3.6 bits: raw storage"}
"""Published bits per parameter (arXiv 2404.05405, 2505.24832)."""
_MARKS = "os^D"


def write_plots(study: Study, folder: Path) -> list[str]:
    """Draw what there is; returns the names of the pictures, without suffix.

    Raises:
        UsageError: matplotlib is missing.
    """
    names = []
    for fitted in study.fits.values():
        name = fitted.source if fitted.arm == "plain" else f"{fitted.source}-{fitted.arm}"
        for kind, draw in _pictures(fitted, study):
            write_picture(folder, f"{kind}-{name}", draw, "scale")
            names.append(f"{kind}-{name}")
    return names


def _pictures(fitted: Fitted, study: Study) -> list[tuple[str, Callable[[Any], None]]]:
    pictures: list[tuple[str, Callable[[Any], None]]] = []
    law = fitted.capacity
    if law is not None:
        held_out = [
            row
            for row in study.held_out
            if (row["source"], row["arm"]) == (fitted.source, fitted.arm)
        ]
        pictures.append(("capacity", lambda axes: _capacity(axes, law, held_out)))
        pictures.append(("residuals", lambda axes: _residuals(axes, law)))
    if any(point.bits > 0 for point in fitted.points):
        pictures.append(("recall", lambda axes: _recall(axes, fitted.points, fitted.recall)))
    return pictures


def _capacity(axes: Any, law: CapacityLaw, held_out: Sequence[dict[str, Any]]) -> None:
    """Bits held against bits offered, both a parameter; a colour a size, a mark an exposure."""
    sizes = sorted({point.parameters for point in law.points})
    exposures = sorted({point.exposures for point in law.points})
    loads = [point.volume / point.parameters for point in law.points]
    grid = np.geomspace(min(loads) / 1.2, max(loads) * 1.3, 100)
    for index, size in enumerate(sizes):
        colour = COLOURS[index % len(COLOURS)]
        axes.plot([], [], color=colour, linewidth=4, label=f"{size:,} parameters")
        for style, count in enumerate(exposures):
            mine = [p for p in law.points if (p.parameters, p.exposures) == (size, count)]
            axes.plot(
                [p.volume / size for p in mine],
                [p.bits / size for p in mine],
                linestyle="",
                marker=_MARKS[style % len(_MARKS)],
                color=colour,
                markersize=4,
            )
            curve = [law.bits(size, load * size, count).value / size for load in grid]
            line = "-" if count == exposures[-1] else ":"
            axes.plot(grid, curve, linestyle=line, color=colour, linewidth=1)
    _held_out(axes, held_out)
    _exposure_marks(axes, exposures)
    axes.plot(grid, np.minimum(grid, 5), color="#999999", linewidth=0.8, linestyle="--")
    for height, text in _ANCHORS.items():
        axes.axhline(height, color="#999999", linewidth=0.8)
        axes.text(grid[0], height * 1.02, text, color="#666666", fontsize=7, va="bottom")
    _log_axis(axes)
    axes.set(xlabel="bits offered a parameter", ylabel="bits held a parameter")
    axes.set_title(f"Capacity ({', '.join(f'{count:g}' for count in exposures)} exposures)")
    _legend(axes)


def _legend(axes: Any) -> None:
    """Beside the axes: inside, every corner holds points of some study."""
    axes.legend(frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))


def _log_axis(axes: Any) -> None:
    """A logarithmic x axis with plain numbers at 1, 2 and 5 times powers of ten."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _held_out(axes: Any, rows: Sequence[dict[str, Any]]) -> None:
    for number, row in enumerate(rows):
        axes.plot(
            row["load"],
            row["measured"] / row["size"],
            linestyle="",
            marker="*",
            markersize=8,
            color="black",
            label=f"{row['size']:,}, predicted before" if number == 0 else None,
        )


def _exposure_marks(axes: Any, exposures: Sequence[float]) -> None:
    """What marks and lines mean, where there are several."""
    if len(exposures) == 1:
        return
    for style, count in enumerate(exposures):
        axes.plot(
            [],
            [],
            linestyle="-" if count == exposures[-1] else ":",
            marker=_MARKS[style % len(_MARKS)],
            markersize=4,
            linewidth=1,
            color="#666666",
            label=f"{count:g} exposures",
        )


def _residuals(axes: Any, law: CapacityLaw) -> None:
    """Measured over fitted bits."""
    for index, size in enumerate(sorted({point.parameters for point in law.points})):
        mine = [n for n, point in enumerate(law.points) if point.parameters == size]
        axes.plot(
            [law.points[n].volume / size for n in mine],
            [100 * np.expm1(law.residuals[n]) for n in mine],
            linestyle="",
            marker="o",
            markersize=4,
            color=COLOURS[index % len(COLOURS)],
            label=f"{size:,} parameters",
        )
    axes.axhline(0, color="#999999", linewidth=0.8)
    _log_axis(axes)
    axes.set(xlabel="bits offered a parameter", ylabel="measured over fitted, %")
    axes.set_title("Residuals of the capacity law")
    _legend(axes)


def _recall(axes: Any, points: Sequence[Point], law: RecallLaw | None) -> None:
    """Recall against bits held a parameter, or against parameters a fact where there is a law."""
    for index, size in enumerate(sorted({point.parameters for point in points})):
        mine = [point for point in points if point.parameters == size]
        across = [p.parameters / p.items if law else p.volume / p.parameters for p in mine]
        axes.plot(
            across,
            [100 * point.recall for point in mine],
            linestyle="",
            marker="o",
            markersize=4,
            color=COLOURS[index % len(COLOURS)],
            label=f"{size:,} parameters",
        )
    if law is not None:
        ratios = [point.parameters / point.items for point in points]
        grid = np.geomspace(min(ratios) / 1.5, max(ratios) * 1.5, 100)
        values = [law.recall(ratio) for ratio in grid]
        axes.plot(grid, [100 * value.value for value in values], color="#444444", linewidth=1)
        low, high = [100 * v.low for v in values], [100 * v.high for v in values]
        axes.fill_between(grid, low, high, color="#bbbbbb", alpha=0.4, linewidth=0)
    label = "parameters a fact" if law else "bits offered a parameter"
    _log_axis(axes)
    axes.set(xlabel=label, ylabel="recall, %", ylim=(0, 102))
    axes.set_title("Recall")
    _legend(axes)
