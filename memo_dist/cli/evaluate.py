"""``memo-dist evaluate RUN --questions FILE``: scores, baselines and the report."""

from __future__ import annotations

from pathlib import Path

import click

from memo_dist.answering import MODES
from memo_dist.cli.options import config_options, names_in, questions_options, resolve, run_argument
from memo_dist.cluster.stop import STOP
from memo_dist.evaluation.questions import default_name, load_questions
from memo_dist.io import permissions
from memo_dist.observability.logs import quiet_libraries
from memo_dist.runs import existing_run


@click.command("evaluate")
@run_argument
@questions_options
@click.option(
    "--modes",
    default="direct",
    show_default=True,
    metavar="MODE[,MODE]...",
    help=f"Answering modes to compare: {', '.join(MODES)}.",
)
@click.option(
    "--name", help="Name of the evaluation [default: folder and file name of the questions]."
)
@config_options
def command(  # noqa: PLR0913
    run_folder: Path,
    questions_file: Path,
    limit: int | None,
    modes: str,
    name: str | None,
    config_files: tuple[Path, ...],
    overrides: tuple[str, ...],
) -> None:
    """Score the memory of RUN and its baselines on a file of questions.

    The results are in RUN/eval/NAME and RUN/report.html.
    """
    run, _ = existing_run(run_folder)
    config = resolve(config_files, overrides, run_folder)
    questions = load_questions(questions_file, limit or config.evaluate.limit)
    quiet_libraries()
    STOP.install()
    from memo_dist.evaluation.session import evaluate_run

    evaluation = name or default_name(questions_file)
    with permissions.creating(config.run.group_readable):
        _, tables = evaluate_run(run, config, questions, evaluation, STOP, names_in(modes))
    click.echo(tables)
    click.echo(f"report: {run.report}")
