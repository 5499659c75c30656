"""``memo-dist synthesize CORPUS --run RUN``: documents to reflections."""

from __future__ import annotations

from pathlib import Path

import click

from memo_dist.cli.options import (
    check_resume,
    config_options,
    corpus_argument,
    dry_run_option,
    resolve,
    resume_option,
    run_option,
)
from memo_dist.cluster.stop import STOP
from memo_dist.errors import UsageError
from memo_dist.evaluation.questions import default_name, load_questions
from memo_dist.io.store import Place
from memo_dist.runs import open_run
from memo_dist.synthesis import record as recording
from memo_dist.synthesis.coverage_report import coverage_summary, text_report


@click.command("synthesize")
@corpus_argument
@run_option
@dry_run_option
@resume_option
@click.option("--report", is_flag=True, help="Print the sentences that no reflection covers.")
@click.option(
    "--questions",
    "questions_file",
    type=click.Path(path_type=Path),
    help="JSONL file as for evaluate. Print which share of its questions the reflections can"
    " answer: before any training, in seconds.",
)
@click.option(
    "--only-partition",
    type=click.IntRange(min=0),
    help="Run only this partition, numbered from 0, of synthesis.partitions (for job arrays)."
    " Without this option, the remaining partitions run and all are merged.",
)
@click.option(
    "--revise",
    is_flag=True,
    help="Accept a CORPUS that changed after RUN was started; only the changed parts are processed"
    " again.",
)
@click.option(
    "--record",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write the replies of the language model to FILE (.jsonl, .jsonl.gz, .jsonl.xz) at the"
    " end, for generator.kind=recorded; replies that FILE already has are kept.",
)
@click.option("--record-note", default="", help="Licence of the replies, for the header of FILE.")
@config_options
def command(  # noqa: PLR0913
    corpus: Place,
    run_folder: Path,
    dry_run: bool,
    resume: str,
    report: bool,
    questions_file: Path | None,
    only_partition: int | None,
    revise: bool,
    record: Path | None,
    record_note: str,
    config_files: tuple[Path, ...],
    overrides: tuple[str, ...],
) -> None:
    """Turn CORPUS into question-answer pairs in RUN/reflections.jsonl.

    After a stop or a crash, the same command continues the work.
    """
    config = resolve(config_files, overrides, run_folder)
    if record is not None:
        recording.check_record(config, record)
    if only_partition is not None and revise:
        raise UsageError("--revise changes all partitions: run it once without --only-partition")
    if only_partition is not None and (report or questions_file or record):
        raise UsageError(
            "--report, --questions and --record need all partitions: give them without"
            " --only-partition"
        )
    questions = load_questions(questions_file) if questions_file else []
    if only_partition is not None and not dry_run:
        from memo_dist.synthesis.partition import run_partition_alone

        STOP.install()
        click.echo(run_partition_alone(run_folder, config, corpus, only_partition))
        return
    from memo_dist import pipeline

    if dry_run:
        # Imported here: only a preview needs torch and DeepSpeed.
        from memo_dist.cli.preview import print_preview

        print_preview(config, run_folder, corpus)
        return
    STOP.install()
    with open_run(run_folder, config, check_resume(resume)) as run:
        click.echo(f"corpus: {pipeline.run_corpus(run, config, corpus, revise).summary()}")
        pipeline.run_synthesis(run, config)
        if report:
            click.echo(text_report(coverage_summary(run)))
            click.echo(f"all gaps are in {run.synth / 'coverage.jsonl'}")
        if questions_file:
            # Imported here: it loads the search library.
            from memo_dist.evaluation.question_coverage import measure_questions

            click.echo(measure_questions(run, questions, default_name(questions_file)))
        if record is not None:
            replies = recording.record(run, config, record, record_note)
            click.echo(f"{replies} replies are in {record}")
    click.echo(f"the reflections are in {run.reflections}; next: memo-dist train {run_folder}")
