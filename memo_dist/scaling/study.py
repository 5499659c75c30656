"""A study from its configuration to its report: fit, predict, check the prediction, report."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from memo_dist.cluster.ray_local import ray_session
from memo_dist.config.schema import Config
from memo_dist.errors import RunError, UsageError
from memo_dist.models.base import SCRATCH_NAME
from memo_dist.runs import library_versions, shared_run
from memo_dist.scaling.cells import Cell, partition_cells, reference_measure, study_cells
from memo_dist.scaling.fit import Study, fit_study
from memo_dist.scaling.folder import SETTLED, StudyFolder
from memo_dist.scaling.law_file import LawFile, Measured, write_law
from memo_dist.scaling.predict import check_predictions, write_predictions
from memo_dist.scaling.recipe import Recipe
from memo_dist.scaling.report import write_report
from memo_dist.scaling.runner import run_cells
from memo_dist.scaling.summary import device_rows


def run_study(study: StudyFolder, config: Config) -> Study:
    """Run what has not run yet, in two halves.

    First the sizes that the laws are fitted to; then, from the fit, what the held-out larger
    sizes will memorise is written down; only then do these run. The final fit has the same
    cells as the first one: held-out sizes never enter it.

    Raises:
        StoppedError, InterruptedRunError, RunError: see :func:`memo_dist.scaling.runner.run_cells`.
    """
    if missing_cells(study, config):
        with ray_session(config.cluster):  # one for both halves
            _run_halves(study, config)
    return finish_study(study, config)


def run_partition(study: StudyFolder, config: Config, partition: int) -> str:
    """Run one array task's cells while other tasks run theirs; fits and predicts nothing.

    Returns:
        A line for people.

    Raises:
        UsageError: there is no such partition.
        StoppedError, InterruptedRunError, RunError: see :func:`memo_dist.scaling.runner.run_cells`.
    """
    count = config.scale.partitions
    if partition >= count:
        raise UsageError(
            f"--only-partition {partition}: with scale.partitions={count} the last is {count - 1}"
        )
    cells = partition_cells(config.scale, partition)
    with shared_run(study.root, config, lambda run: run.config.exists(), lambda run: None):
        run_cells(study, config, cells)
    return f"partition {partition} of {count}: {len(cells)} cells are done"


def _run_halves(study: StudyFolder, config: Config) -> None:
    cells = study_cells(config.scale)
    run_cells(study, config, [cell for cell in cells if cell.role != "predict"])
    held_out = [cell for cell in cells if cell.role == "predict"]
    if held_out:
        write_predictions(study, config, held_out)
        run_cells(study, config, held_out)


def finish_study(study: StudyFolder, config: Config) -> Study:
    """Fit, check predictions, and write ``fit.json``, ``results.csv``, plots and report.

    Raises:
        RunError: no cell has a result yet.
    """
    results = study.all_results(config.scale)
    if not results:
        raise RunError(f"{study.root} has no result yet: memo-dist scale run begins it")
    fitted = fit_study(results, config.scale, config.run.seed)
    check_predictions(study, fitted, results, config)
    keep_recall_law(study, config, fitted, results)
    fitted.devices = device_rows(results.values())
    write_report(study, config, fitted, results)
    return fitted


def keep_recall_law(
    study: StudyFolder, config: Config, fitted: Study, results: Mapping[Cell, dict[str, Any]]
) -> None:
    """Write the recall law of reflections for ``plan.law``; where there is none, none stays."""
    found = fitted.fits.get(("reflections", "plain"))
    if found is None or found.recall is None:
        study.recall_law.unlink(missing_ok=True)
        return
    points = found.recall.points
    wordings = [reference_measure(results[point.cell])["wordings"] for point in points]
    about = {
        "base": SCRATCH_NAME,
        "corpus": Path(config.scale.reflections.run).name,
        "exposures": points[0].exposures,
        "versions": library_versions(),
    }
    recipe = Recipe.of_reflections(config.scale)
    measured = Measured.of(points, sum(wordings) / len(wordings))
    write_law(study.recall_law, LawFile(found.recall, recipe, measured, about))


def missing_cells(study: StudyFolder, config: Config) -> list[Cell]:
    """Cells that are not settled."""
    scale = config.scale
    return [c for c in study_cells(scale) if study.outcome(c, scale) not in SETTLED]
