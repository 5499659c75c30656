"""``memo-dist update RUN CORPUS``: a changed corpus to a new generation of the bank."""

from __future__ import annotations

from pathlib import Path

import click

from memo_dist.change.request import Request, parse_replacements
from memo_dist.cli.options import (
    config_option,
    dry_run_option,
    resolve,
    run_argument,
    split_overrides,
)
from memo_dist.cluster.stop import STOP
from memo_dist.errors import UsageError
from memo_dist.io.store import read_place
from memo_dist.runs import check_open, existing_run, open_run


@click.command("update")
@run_argument
@click.argument("words", nargs=-1, metavar="[CORPUS] [KEY=VALUE]...")
@click.option(
    "--add",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Add the documents of FILE; repeatable.",
)
@click.option(
    "--replace",
    "replacements",
    multiple=True,
    metavar="ID=FILE",
    help="Replace the document ID by that of FILE; repeatable.",
)
@dry_run_option
@config_option
def command(  # noqa: PLR0913
    run_folder: Path,
    words: tuple[str, ...],
    add: tuple[Path, ...],
    replacements: tuple[str, ...],
    dry_run: bool,
    config_files: tuple[Path, ...],
) -> None:
    """Bring the memory of RUN to the state of CORPUS, or add and replace single documents.

    Only units with a changed document are processed again, and only shards with changed
    reflections are trained again. The result is a new generation in RUN/memory, equal to one
    encode of the final corpus; the bank before it answers until it is complete. After a stop or a
    crash, the same command continues the work.
    """
    existing_run(run_folder)
    plain, overrides = split_overrides(words)
    if len(plain) > 1:
        raise UsageError(f"one CORPUS is enough, {plain[1]!r} is another; --add takes single files")
    corpus = read_place(plain[0]) if plain else None
    request = Request(corpus, add, parse_replacements(replacements))
    request.check()
    config = resolve(config_files, overrides, run_folder)
    # Imported here: --help and refused arguments need no torch.
    from memo_dist import pipeline
    from memo_dist.change.forecast import forecast
    from memo_dist.change.update import update
    from memo_dist.cli.preview import print_need

    if dry_run:
        run, _ = existing_run(run_folder)
        check_open(run, config)
        for name, text in forecast(run, config, request).lines():
            click.echo(f"{name:<12} {text}")
        click.echo("nothing was changed (--dry-run)")
        return
    print_need(pipeline.check_before(config))
    STOP.install()
    with open_run(run_folder, config, "must") as run:
        done = update(run, config, request)
    for line in done.difference.lines():
        click.echo(line)
    trained = ", ".join(map(str, done.shards)) or "none"
    click.echo(f"shards trained: {trained}; generation {done.generation} answers: {run.memory}")
