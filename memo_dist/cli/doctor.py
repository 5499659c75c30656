"""``memo-dist doctor``: checks this machine and names a remedy for each problem."""

from __future__ import annotations

import click

from memo_dist.errors import RunError


@click.command("doctor")
def command() -> None:
    """Check versions, cores, GPUs, disk and limits of this machine.

    The exit code is 1 if a finding would stop a run.
    """
    from memo_dist.doctor.findings import findings

    broken = 0
    for finding in findings():
        click.echo(f"{finding.level:<5} {finding.name:<14} {finding.text}")
        broken += finding.level == "bad"
    if broken:
        raise RunError(f"{broken} finding(s) would stop a run")
