"""``memo-dist encode CORPUS --run RUN``: the whole chain."""

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
from memo_dist.corpus.manifest import load_manifest
from memo_dist.io.store import Place
from memo_dist.runs import open_run


@click.command("encode")
@corpus_argument
@run_option
@dry_run_option
@resume_option
@config_options
def command(  # noqa: PLR0913
    corpus: Place,
    run_folder: Path,
    dry_run: bool,
    resume: str,
    config_files: tuple[Path, ...],
    overrides: tuple[str, ...],
) -> None:
    """Turn CORPUS into a memory in the folder RUN.

    CORPUS is a file or a folder of documents (docs/corpus.md lists the formats), or the URL of one
    in an object store (s3://BUCKET/PREFIX). After a stop or a crash, the same command continues
    the work.
    """
    config = resolve(config_files, overrides)
    # Imported here: --help and refused arguments need no torch.
    from memo_dist import pipeline
    from memo_dist.cli.preview import print_need, print_preview

    if dry_run:
        print_preview(config, run_folder, corpus)
        return
    print_need(pipeline.check_before(config))
    STOP.install()
    with open_run(run_folder, config, check_resume(resume)) as run:
        pipeline.encode(run, config, corpus, resume)
        click.echo(f"corpus: {load_manifest(run.corpus).summary()}")
    click.echo(f"the memory is in {run.memory}; next: memo-dist ask {run_folder} 'QUESTION'")
