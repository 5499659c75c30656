"""``memo-dist forget RUN ID...``: documents leave a memory."""

from __future__ import annotations

from pathlib import Path

import click

from memo_dist.cli.options import (
    config_option,
    dry_run_option,
    resolve,
    run_argument,
    split_overrides,
)
from memo_dist.cluster.stop import STOP
from memo_dist.errors import UsageError
from memo_dist.runs import check_open, existing_run, open_run


@click.command("forget")
@run_argument
@click.argument("words", nargs=-1, required=True, metavar="ID... [KEY=VALUE]...")
@click.option("--why", default="", help="Reason, for the receipt.")
@click.option(
    "--audit",
    "audited",
    is_flag=True,
    help="Train a run that never saw the documents, and compare what both memories know.",
)
@click.option(
    "--questions",
    type=click.Path(path_type=Path),
    help="For --audit: questions about the documents, as for `memo-dist evaluate`.",
)
@dry_run_option
@config_option
def command(  # noqa: PLR0913
    run_folder: Path,
    words: tuple[str, ...],
    why: str,
    audited: bool,
    questions: Path | None,
    dry_run: bool,
    config_files: tuple[Path, ...],
) -> None:
    """Remove the documents ID... from the memory of RUN; the receipt is in RUN/memory/receipts.

    An ID may be a glob, or @FILE with one ID or glob per line. Answers from these documents are
    withheld at once. Then their shards are trained again without them, from the base, and other
    files with their text are cleared. After a stop or a crash, the same command continues.
    """
    existing_run(run_folder)
    if questions and not audited:
        raise UsageError("--questions is read by --audit only; add --audit")
    ids, overrides = split_overrides(words)
    config = resolve(config_files, overrides, run_folder)
    # Imported here: --help and refused arguments need no torch.
    from memo_dist import pipeline
    from memo_dist.change.audit import audited_forget
    from memo_dist.change.forecast import forecast_without
    from memo_dist.change.forget import chosen, forget, known_documents
    from memo_dist.cli.preview import print_need

    if dry_run:
        run, _ = existing_run(run_folder)
        check_open(run, config)
        names = chosen(ids, known_documents(run))
        for name, text in forecast_without(run, config, names).lines():
            click.echo(f"{name:<12} {text}")
        click.echo("nothing was changed (--dry-run)")
        return
    print_need(pipeline.check_before(config))
    STOP.install()
    with open_run(run_folder, config, "must") as run:
        if audited:
            receipt, shown = audited_forget(run, config, ids, why, questions)
        else:
            receipt, shown = forget(run, config, ids, why), []
    for line in shown:
        click.echo(line)
    click.echo(f"forgotten: {', '.join(one.id for one in receipt.documents)}")
    click.echo(f"shards trained again: {', '.join(receipt.shards) or 'none'}")
    click.echo(f"out of reach: {'; '.join(receipt.out_of_reach)}")
    click.echo(
        f"receipts are in {run.generations / 'receipts'}; check: memo-dist verify {run.root}"
    )
