"""``memo-dist launch TARGET -- VERB ...``: run a verb elsewhere."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from memo_dist.cli.options import config_options
from memo_dist.config import Config, load_config
from memo_dist.errors import UsageError
from memo_dist.launch import ray_job, slurm
from memo_dist.launch.foreground import local_command, run_foreground, torchrun_command
from memo_dist.launch.verbs import VerbCall, parse_verb

_SCHEDULERS = {"ray": ray_job, "slurm": slurm}


class _BeforeAndAfter(click.Command):
    """Splits the command line at ``--``: what follows belongs to the verb, untouched."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        border = args.index("--") if "--" in args else len(args)
        ctx.meta["verb"] = args[border + 1 :]
        return super().parse_args(ctx, args[:border])


@click.command("launch", cls=_BeforeAndAfter, options_metavar="[OPTIONS] [KEY=VALUE]... -- VERB")
@click.argument("target", type=click.Choice(["local", "torchrun", "ray", "slurm"]))
@click.option("--dry-run", is_flag=True, help="Print exactly what would run; run nothing.")
@click.option("--wait", is_flag=True, help="Follow the job; the exit code is the verb's.")
@config_options
@click.pass_context
def command(  # noqa: PLR0913
    ctx: click.Context,
    target: str,
    dry_run: bool,
    wait: bool,
    config_files: tuple[Path, ...],
    overrides: tuple[str, ...],
) -> None:
    """Run VERB with its arguments on TARGET: local, torchrun, ray or slurm.

    local and torchrun run it here and end with its exit code. ray and slurm print the job, which
    `memo-dist status JOB --follow` follows, and return at once unless --wait is given.
    """
    call = parse_verb(ctx.meta["verb"])
    config = _resolve(call, config_files, overrides)
    if target in ("local", "torchrun"):
        words = local_command(call) if target == "local" else torchrun_command(config.launch, call)
        ctx.exit(run_foreground(words, dry_run))
    scheduler: Any = _SCHEDULERS[target]
    plan = scheduler.plan(config, call)
    if dry_run:
        click.echo(plan.describe(), nl=False)
        return
    job = plan.submit()
    click.echo(str(job))
    if wait:
        ctx.exit(job.follow(config.launch.queue_minutes * 60, _tell))
    click.echo(f"follow it: memo-dist status {job} --follow", err=True)


def _resolve(call: VerbCall, files: tuple[Path, ...], overrides: tuple[str, ...]) -> Config:
    """The verb's configuration; the group ``launch`` from its files, then from before ``--``.

    Raises:
        UsageError: also for a key before ``--`` that is not of the group.
    """
    foreign = [word for word in overrides if not word.startswith("launch.")]
    if foreign:
        raise UsageError(f"{foreign[0]}: only launch.* stands before --; put it behind the verb")
    here = load_config([*call.files, *files], overrides)
    return replace(call.config(), launch=here.launch)


def _tell(line: str) -> None:
    click.echo(line, err=True)
