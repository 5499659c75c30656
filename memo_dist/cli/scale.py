"""``memo-dist scale plan|run|status|fit STUDY``: the scaling study."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from memo_dist.cli.options import Decorator, config_options, resolve
from memo_dist.cluster.stop import STOP
from memo_dist.config import Config
from memo_dist.errors import UsageError
from memo_dist.observability.logs import quiet_libraries
from memo_dist.observability.progress import duration
from memo_dist.runs import open_run

if TYPE_CHECKING:
    from memo_dist.scaling.folder import StudyFolder


def _study_argument() -> Decorator:
    def add(function: Any) -> Any:
        study = click.argument("study", metavar="STUDY", type=click.Path(path_type=Path))
        folder = click.option(
            "--run",
            "run_folder",
            type=click.Path(path_type=Path),
            help="Folder of the study [default: runs/scale-NAME for NAME.yaml].",
        )
        return study(folder(config_options(function)))

    return add


@click.group("scale")
def command() -> None:
    """Measure how much knowledge a memory of a given size can store.

    STUDY is a YAML file, as in configs/scale/, or the folder of a started study. A study trains a
    grid of cells; a cell is one small memory with a size, an amount of knowledge and a seed.
    """


@command.command("plan")
@_study_argument()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def plan(
    study: Path,
    run_folder: Path | None,
    config_files: tuple[Path, ...],
    overrides: tuple[str, ...],
    as_json: bool,
) -> None:
    """Estimate FLOPs, memory and hours of the grid; run nothing."""
    folder, config = _resolve(study, run_folder, config_files, overrides)
    quiet_libraries()
    from memo_dist.scaling.planning import plan_study, plan_text

    planned = plan_study(folder, config)
    click.echo(json.dumps(planned, sort_keys=True) if as_json else plan_text(planned), nl=as_json)


@command.command("run")
@_study_argument()
@click.option(
    "--only-partition",
    type=click.IntRange(min=0),
    help="Run only this partition, numbered from 0, of scale.partitions (for job arrays)."
    " Afterwards, run once without this option.",
)
def run(
    study: Path,
    run_folder: Path | None,
    config_files: tuple[Path, ...],
    overrides: tuple[str, ...],
    only_partition: int | None,
) -> None:
    """Train the missing cells, fit the laws and test predictions.

    The results of larger sizes are predicted from the fit before these are trained. At the end,
    the report is written. After a stop, the same command continues the study.
    """
    folder, config = _resolve(study, run_folder, config_files, overrides)
    quiet_libraries()
    from memo_dist.scaling.planning import check_study
    from memo_dist.scaling.study import run_partition, run_study
    from memo_dist.scaling.summary import summary_text

    check_study(config)
    STOP.install()
    if only_partition is not None:
        click.echo(run_partition(folder, config, only_partition))
        return
    with open_run(folder.root, config, "auto"):
        fitted = run_study(folder, config)
    click.echo(summary_text(fitted), nl=False)
    click.echo(f"report: {folder.report}")


@command.command("fit")
@_study_argument()
def fit(
    study: Path,
    run_folder: Path | None,
    config_files: tuple[Path, ...],
    overrides: tuple[str, ...],
) -> None:
    """Fit the existing results and write the report; run nothing."""
    folder, config = _resolve(study, run_folder, config_files, overrides)
    _check_begun(folder)
    quiet_libraries()
    from memo_dist.scaling.study import finish_study
    from memo_dist.scaling.summary import summary_text

    click.echo(summary_text(finish_study(folder, config)), nl=False)
    click.echo(f"report: {folder.report}")


@command.command("status")
@_study_argument()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def status(
    study: Path,
    run_folder: Path | None,
    config_files: tuple[Path, ...],
    overrides: tuple[str, ...],
    as_json: bool,
) -> None:
    """Show progress per size, running cells and failures."""
    folder, config = _resolve(study, run_folder, config_files, overrides)
    _check_begun(folder)
    state = study_state(folder, config)
    if as_json:
        click.echo(json.dumps(state, sort_keys=True))
        return
    for row in state["sizes"]:
        counts = ", ".join(f"{n} {name}" for name, n in row["outcomes"].items())
        click.echo(f"{row['source']:<12} {row['size']:>12,} parameters: {counts}")
    for row in state["begun"]:
        click.echo(f"begun: {row['cell']}: step {row['step']}, {duration(row['seconds'])}")
    for row in state["failed"]:
        click.echo(f"failed: {row['cell']}: {row['reason']}")


def study_state(folder: StudyFolder, config: Config) -> dict[str, Any]:
    """Counts of outcomes by source and size, the begun cells, and the failed ones."""
    from memo_dist.io import atomic
    from memo_dist.scaling.cells import study_cells
    from memo_dist.scaling.folder import FAILED

    scale = config.scale
    outcomes = {cell: folder.outcome(cell, scale) for cell in study_cells(scale)}
    sizes = sorted({(cell.source, cell.size) for cell in outcomes})
    begun, failed = [], []
    for cell, outcome in outcomes.items():
        if outcome == "begun":
            begun.append({"cell": cell.label, **folder.progress(cell, scale)})
        if outcome == "failed":
            failed.append(atomic.read_json(folder.cell(cell, scale) / FAILED))
    return {
        "sizes": [
            {
                "source": source,
                "size": size,
                "outcomes": Counter(
                    outcome
                    for c, outcome in outcomes.items()
                    if (c.source, c.size) == (source, size)
                ),
            }
            for source, size in sizes
        ],
        "begun": begun,
        "failed": failed,
    }


def _resolve(
    study: Path, run_folder: Path | None, files: tuple[Path, ...], overrides: tuple[str, ...]
) -> tuple[StudyFolder, Config]:
    """The study's folder, and its configuration: its file, then more files, then overrides."""
    from memo_dist.scaling.folder import StudyFolder, find_study

    file, root = find_study(study, run_folder)
    if file is None:
        return StudyFolder(root), resolve(files, overrides, root)
    return StudyFolder(root), resolve((file, *files), overrides)


def _check_begun(folder: StudyFolder) -> None:
    if not (folder.root / "config.yaml").exists():
        raise UsageError(f"{folder.root} does not exist yet: start it with memo-dist scale run")
