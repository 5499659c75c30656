"""``memo-dist train RUN``: reflections to trained weights."""

from __future__ import annotations

from pathlib import Path

import click

from memo_dist.cli.options import (
    check_resume,
    config_options,
    dry_run_option,
    resolve,
    resume_option,
    run_argument,
)
from memo_dist.cluster.stop import STOP
from memo_dist.runs import existing_run, open_run


@click.command("train")
@run_argument
@dry_run_option
@resume_option
@config_options
def command(
    run_folder: Path,
    dry_run: bool,
    resume: str,
    config_files: tuple[Path, ...],
    overrides: tuple[str, ...],
) -> None:
    """Train one memory per shard on the reflections of RUN.

    After a stop or a crash, the same command continues from the last checkpoint.
    """
    existing_run(run_folder)
    config = resolve(config_files, overrides, run_folder)
    # Imported here: --help and refused arguments need no torch.
    from memo_dist import pipeline
    from memo_dist.cli.preview import print_need, print_preview
    from memo_dist.training.bank_work import BankWork
    from memo_dist.training.start import starts_here, train_here

    if dry_run:
        print_preview(config, run_folder, None)
        return
    if starts_here(config):
        train_here(BankWork(check_resume(resume)), run_folder, config, resume)
        return
    print_need(pipeline.check_before(config))
    STOP.install()
    with open_run(run_folder, config, check_resume(resume)) as run:
        pipeline.run_training(run, config, resume)
    click.echo(f"trained; next: memo-dist export {run_folder}")
