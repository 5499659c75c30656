"""``memo-dist rebalance RUN --shards K``: another number of shards."""

from __future__ import annotations

from pathlib import Path

import click

from memo_dist.cli.options import config_options, resolve, run_argument
from memo_dist.cluster.stop import STOP
from memo_dist.runs import existing_run, open_run


@click.command("rebalance")
@run_argument
@click.option("--shards", type=click.IntRange(1), required=True, metavar="K", help="Shards.")
@config_options
def command(
    run_folder: Path, shards: int, config_files: tuple[Path, ...], overrides: tuple[str, ...]
) -> None:
    """Spread the documents of RUN over K shards, and train all shards again.

    The result equals an encode with corpus.shards=K. The memory before it answers until it is
    complete. After a stop or a crash, the same command continues the work.
    """
    existing_run(run_folder)
    config = resolve(config_files, overrides, run_folder)
    # Imported here: --help and refused arguments need no torch.
    from memo_dist import pipeline
    from memo_dist.change.rebalance import rebalance, rebalanced
    from memo_dist.cli.preview import print_need

    print_need(pipeline.check_before(rebalanced(config, shards)))
    STOP.install()
    with open_run(run_folder, config, "must") as run:
        done = rebalance(run, config, shards)
    trained = ", ".join(map(str, done.shards)) or "none"
    click.echo(f"shards trained: {trained}; generation {done.generation} answers: {run.memory}")
