"""``memo-dist compare RUN --questions FILE``: a memory beside retrieval and trained weights."""

from __future__ import annotations

from pathlib import Path

import click

from memo_dist.cli.options import config_options, names_in, questions_options, resolve, run_argument
from memo_dist.cluster.stop import STOP
from memo_dist.compare.registry import DEFAULT, METHODS
from memo_dist.evaluation.questions import default_name, load_questions
from memo_dist.io import permissions
from memo_dist.observability.logs import quiet_libraries
from memo_dist.runs import existing_run


@click.command("compare")
@run_argument
@questions_options
@click.option(
    "--methods",
    default=",".join(DEFAULT),
    show_default=True,
    metavar="NAME[,NAME]...",
    help=f"Methods to compare: {', '.join(METHODS)}, or one of an installed package.",
)
@click.option(
    "--predictions",
    multiple=True,
    metavar="NAME=FILE",
    help="Answers of another system: a JSONL file with id and answer; repeatable.",
)
@click.option(
    "--reader",
    default="smollm2-135m",
    show_default=True,
    metavar="MODEL",
    help="Model that reads for all methods: a local folder, a hub id, or executive (the model of"
    " that configuration group, at any OpenAI-compatible or Anthropic URL).",
)
@click.option(
    "--name", help="Name of the comparison [default: folder and file name of the questions]."
)
@config_options
def command(  # noqa: PLR0913
    run_folder: Path,
    questions_file: Path,
    limit: int | None,
    methods: str,
    predictions: tuple[str, ...],
    reader: str,
    name: str | None,
    config_files: tuple[Path, ...],
    overrides: tuple[str, ...],
) -> None:
    """Compare the memory of RUN with other methods on a file of questions.

    All methods answer the same questions, with the same reader. The results are in
    RUN/compare/NAME: report.html, comparison.json, rows.csv and plots. A comparison that was
    stopped continues with the same command; a method that cannot run is a row with the reason.
    """
    run, _ = existing_run(run_folder)
    config = resolve(config_files, overrides, run_folder)
    questions = load_questions(questions_file, limit or config.evaluate.limit)
    quiet_libraries()
    STOP.install()
    from memo_dist.compare.comparing import compare_methods, make_plan
    from memo_dist.compare.output import write_comparison
    from memo_dist.compare.outside import split_predictions
    from memo_dist.compare.text import comparison_text

    files = split_predictions(predictions)
    name = name or default_name(questions_file)
    plan = make_plan(run, config, questions, name, names_in(methods), files, reader)
    with permissions.creating(config.run.group_readable):
        result = compare_methods(plan, STOP)
        report = write_comparison(result)
    click.echo(comparison_text(result))
    click.echo(f"report: {report}")
