"""The report of a study: ``fit.json``, ``results.csv``, plots and ``report.html``."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from memo_dist.config import to_yaml
from memo_dist.config.schema import Config
from memo_dist.evaluation.pages import render_page
from memo_dist.io import atomic
from memo_dist.observability.redact import redact
from memo_dist.runs import library_versions
from memo_dist.scaling.cells import Cell, reference_measure, study_cells
from memo_dist.scaling.fit import Study
from memo_dist.scaling.folder import StudyFolder
from memo_dist.scaling.plots import write_plots
from memo_dist.scaling.summary import study_json, summary_text, write_results


def write_report(
    study: StudyFolder, config: Config, fitted: Study, results: Mapping[Cell, dict[str, Any]]
) -> None:
    """Write everything that a study ends with; the page last.

    Raises:
        UsageError: matplotlib is missing.
    """
    values = study_json(fitted)
    atomic.write_json(study.fit, values | {"versions": library_versions()})
    write_results(study, results)
    names = write_plots(fitted, study.plots)
    page = render_page(
        "study.html.j2",
        "memo_dist.scaling",
        name=study.root.name,
        summary=summary_text(fitted),
        fit=values,
        pictures=[(name, _svg(study, name)) for name in names],
        cells=[_cell_row(cell, results.get(cell)) for cell in study_cells(config.scale)],
        outcomes=sorted(Counter(r["outcome"] for r in results.values()).items()),
        seconds=sum(result["seconds"] for result in results.values()),
        flops=sum(result["flops"] for result in results.values()),
        versions=", ".join(f"{name} {version}" for name, version in library_versions().items()),
        devices=", ".join(sorted({str(result["device"]) for result in results.values()})),
        config=redact(to_yaml(config)),
    )
    atomic.write_text(study.report, page)


def _svg(study: StudyFolder, name: str) -> Markup:
    """A picture to put into the page: from its root element on. It is our own drawing, in which
    matplotlib has escaped every text."""
    text = (study.plots / f"{name}.svg").read_text("utf-8")
    return Markup(text[text.index("<svg") :])  # noqa: S704


def _cell_row(cell: Cell, result: dict[str, Any] | None) -> dict[str, Any]:
    row = {"label": cell.label, "role": cell.role, "outcome": "not run", "bits": math.nan}
    if result is None:
        return row | {"density": math.nan, "recall": math.nan, "seconds": 0.0}
    measured = reference_measure(result)
    bits = measured.get("bits", math.nan)
    return row | {
        "outcome": result["outcome"],
        "bits": bits,
        "density": bits / result["parameters"],
        "recall": measured.get("recall", math.nan),
        "seconds": result["seconds"],
    }
