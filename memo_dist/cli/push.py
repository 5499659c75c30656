"""``memo-dist push RUN URL``: a copy of a run in an object store."""

from __future__ import annotations

from pathlib import Path

import click

from memo_dist.cli.options import run_argument
from memo_dist.io.store import read_store_url


@click.command("push")
@run_argument
@click.argument("url", metavar="URL")
def command(run_folder: Path, url: str) -> None:
    """Copy RUN to an object store: URL is s3://BUCKET/PREFIX, gs://... or hdfs://...

    Only what the copy at URL does not hold is sent. The copy before stays complete until the new
    one is; then what only the old one held is removed. After a stop or a crash, the same command
    continues. Credentials come from the environment.
    """
    place = read_store_url(url)
    # Imported here: --help and refused arguments need no torch.
    from memo_dist.transfer.push import push

    done = push(run_folder, place)
    click.echo(
        f"pushed {done.files} files, {done.size / 2**20:.1f} MiB, to {place}:"
        f" {done.sent} objects sent, {done.removed} removed"
    )
