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
    """Splits the command line at ``--``: the words behind it are the verb's, unchanged."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        border = args.index("--") if "--" in args else len(args)
        ctx.meta["verb"] = args[border + 1 :]
        return super().parse_args(ctx, args[:border])

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        return [*super().collect_usage_pieces(ctx), "-- VERB ..."]


@click.command("launch", cls=_BeforeAndAfter)
@click.argument(
    "target", metavar="TARGET", type=click.Choice(["local", "torchrun", "ray", "slurm"])
)
@click.option("--dry-run", is_flag=True, help="Print the commands and scripts; run nothing.")
@click.option("--wait", is_flag=True, help="Follow the job and exit with the code of the verb.")
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

    local and torchrun run VERB on this machine and exit with its code. ray and slurm submit a job
    and print its name; with --wait they also follow it until it ends. `memo-dist status JOB
    --follow` follows a job later. KEY=VALUE sets a key of the group launch, for example
    launch.nodes=4.
    """
    call = parse_verb(ctx.meta["verb"])
    config = _resolve(call, config_files, overrides)
    if target in ("local", "torchrun"):
        words = local_command(call) if target == "local" else torchrun_command(config, call)
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
    click.echo(f"to follow the job: memo-dist status {job} --follow", err=True)


def _resolve(call: VerbCall, files: tuple[Path, ...], overrides: tuple[str, ...]) -> Config:
    """The verb's configuration; the group ``launch`` from its files, then from before ``--``.

    Raises:
        UsageError: also for a key before ``--`` that is not of the group.
    """
    foreign = [word for word in overrides if not word.startswith("launch.")]
    if foreign:
        raise UsageError(f"{foreign[0]}: only launch.* stands before --; move it behind the verb")
    here = load_config([*call.files, *files], overrides)
    return replace(call.config(), launch=here.launch)


def _tell(line: str) -> None:
    click.echo(line, err=True)
