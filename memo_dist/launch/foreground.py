"""Targets that run in the foreground, on this machine: a plain process, or torchrun's ranks."""

from __future__ import annotations

import shlex
import signal
import subprocess
import sys
from types import FrameType

import click

from memo_dist.config import Config
from memo_dist.errors import UsageError
from memo_dist.launch.render import ranks_per_node
from memo_dist.launch.verbs import VerbCall
from memo_dist.training.job import rows_per_step


def local_command(call: VerbCall) -> list[str]:
    """The verb as a process of this interpreter."""
    return [sys.executable, "-m", "memo_dist", *call.words]


def torchrun_command(config: Config, call: VerbCall) -> list[str]:
    """``torchrun``'s arguments, through the module that keeps the ranks' exit code.

    Raises:
        UsageError: another verb than train, several nodes without a meeting point, or ranks that
            cannot share the rows of a step.
    """
    launch = config.launch
    if call.verb != "train":
        raise UsageError(f"torchrun starts training ranks: 'train', not '{call.verb}'")
    ranks = ranks_per_node(launch)
    rows_per_step(config.train, launch.nodes * ranks)
    place = ["--standalone"]
    if launch.nodes > 1:
        if not launch.rendezvous:
            raise UsageError(
                f"launch.nodes={launch.nodes} needs launch.rendezvous=HOST:PORT of the first"
                " machine; run the same command on each"
            )
        place = [f"--nnodes={launch.nodes}", f"--meet={launch.rendezvous}"]
        place.append(f"--secret={call.run / 'train' / '.meeting' if call.run else '.meeting'}")
    module = ["-m", "memo_dist.cluster.torchrun", *place, f"--nproc-per-node={ranks}"]
    # https://github.com/pytorch/pytorch/issues/119856
    module.append("--shutdown-timeout=600")  # seconds that ranks have to save after a SIGTERM
    return [sys.executable, *module, "-m", "memo_dist", *call.words, "cluster.launcher=ranks"]


def run_foreground(words: list[str], dry_run: bool) -> int:
    """Run a command to its end; signals go on to it. Returns its exit code.

    A Ctrl-C reaches it from the terminal itself, as it is in the same process group.
    """
    if dry_run:
        click.echo(shlex.join(words))
        return 0
    process = subprocess.Popen(words)

    def pass_on(number: int, frame: FrameType | None) -> None:
        process.send_signal(number)

    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, pass_on)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    code = process.wait()
    return code if code >= 0 else 128 - code
