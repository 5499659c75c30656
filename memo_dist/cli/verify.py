"""``memo-dist verify RUN``: what receipts claim, computed again."""

from __future__ import annotations

from pathlib import Path

import click

from memo_dist.cli.options import run_argument
from memo_dist.errors import EXIT_FAILED, UsageError
from memo_dist.io import permissions
from memo_dist.runs import existing_run


@click.command("verify")
@run_argument
@click.option(
    "--receipt",
    "receipt_file",
    type=click.Path(path_type=Path),
    help="Check this receipt [default: all in RUN/memory/receipts].",
)
@click.option(
    "--never-saw",
    is_flag=True,
    help="Also train the affected shards in a run that never saw the documents, and compare bytes.",
)
@click.pass_context
def command(
    ctx: click.Context, run_folder: Path, receipt_file: Path | None, never_saw: bool
) -> None:
    """Check the memory of RUN, and what the receipts of `memo-dist forget` claim.

    Hashes of weights and reflections, absence of the forgotten texts in every file of RUN, and
    consistency of bank and corpus. Exit code 1 if a claim does not hold.
    """
    run, config = existing_run(run_folder)
    # Imported here: --help and refused arguments need no torch.
    from memo_dist.change.receipt import Receipt
    from memo_dist.change.verify import never_saw as train_apart
    from memo_dist.change.verify import receipts_of, verify

    files = [receipt_file] if receipt_file else receipts_of(run)
    receipts = [Receipt.load(path) for path in files]
    if never_saw and not receipts:
        raise UsageError(f"--never-saw compares what a receipt names, and {run.root} has none")
    faults = 0
    with permissions.creating(config.run.group_readable):
        checks = list(verify(run, config, receipts))
        if never_saw:
            checks += train_apart(run, config, receipts[-1])
    for check in checks:
        click.echo(f"{'FAULT' if check.fault else 'ok':<6} {check.claim}")
        if check.fault:
            faults += 1
            click.echo(f"       {check.fault}")
    click.echo(f"{len(receipts)} receipts, {len(checks)} claims, {faults} faults")
    ctx.exit(EXIT_FAILED if faults else 0)
