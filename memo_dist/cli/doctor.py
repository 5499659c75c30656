"""``memo-dist doctor``: what this machine has, and what to do about what it lacks."""

from __future__ import annotations

import click

from memo_dist.errors import RunError


@click.command("doctor")
def command() -> None:
    """Check this machine; exit 1 if something would stop a run."""
    from memo_dist.doctor.findings import findings

    broken = 0
    for finding in findings():
        click.echo(f"{finding.level:<5} {finding.name:<14} {finding.text}")
        broken += finding.level == "bad"
    if broken:
        raise RunError(f"{broken} finding(s) would stop a run")
