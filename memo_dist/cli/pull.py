"""``memo-dist pull URL RUN``: a run from its copy in an object store."""

from __future__ import annotations

from pathlib import Path

import click

from memo_dist.cli.options import run_argument
from memo_dist.io.store import read_store_url


@click.command("pull")
@click.argument("url", metavar="URL")
@run_argument
def command(url: str, run_folder: Path) -> None:
    """Bring the run that `memo-dist push` copied to URL back into the new folder RUN.

    Every file is compared with its hash. RUN is a run only when all of its files are there. After a
    stop or a crash, the same command continues. Credentials come from the environment.
    """
    place = read_store_url(url)
    # Imported here: --help and refused arguments need no torch.
    from memo_dist.transfer.pull import pull

    done = pull(place, run_folder)
    click.echo(
        f"pulled {done.files} files, {done.size / 2**20:.1f} MiB, from {place}:"
        f" {done.fetched} fetched; the run is {run_folder}"
    )
