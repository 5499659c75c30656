"""``memo-dist export RUN``: trained weights to a bank of Hugging Face folders."""

from __future__ import annotations

from pathlib import Path

import click

from memo_dist.cli.options import config_options, dry_run_option, resolve, run_argument
from memo_dist.cluster.stop import STOP
from memo_dist.runs import existing_run, open_run


@click.command("export")
@run_argument
@dry_run_option
@config_options
def command(
    run_folder: Path,
    dry_run: bool,
    config_files: tuple[Path, ...],
    overrides: tuple[str, ...],
) -> None:
    """Verify and calibrate the trained weights of RUN and write the memory.

    The results in RUN/memory are a Hugging Face folder per shard and bank.json.
    """
    existing_run(run_folder)
    config = resolve(config_files, overrides, run_folder)
    # Imported here: --help and refused arguments need no torch.
    from memo_dist import pipeline
    from memo_dist.cli.preview import print_preview

    if dry_run:
        print_preview(config, run_folder, None)
        return
    STOP.install()
    with open_run(run_folder, config, "must") as run:
        pipeline.run_export(run, config)
    click.echo(f"the memory is in {run.memory}")
