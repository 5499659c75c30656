"""Slurm's own commands, each with a limit."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence

from memo_dist.errors import RunError, UsageError

COMMAND_SECONDS = 60
"""Seconds that a command of Slurm may take."""
TIMED_OUT = 124
"""Exit code of ``timeout``, with which a script of several commands limits each one."""
INTERPRETER = "MEMO_DIST_INTERPRETER"


def run_slurm(
    words: Sequence[str],
    refused: Callable[[str], UsageError] | None = None,
    seconds: float = COMMAND_SECONDS,
) -> str:
    """Run one of Slurm's commands, or a script of some; returns what it printed.

    Raises:
        RunError: it is not there, gives no answer in time, or fails.
        UsageError: from ``refused``, if it fails.
    """
    # The indices of an array's waiting tasks in full: scontrol would cut them.
    environment = {**os.environ, INTERPRETER: sys.executable, "SLURM_BITSTR_LEN": "0"}
    try:
        done = subprocess.run(
            words, capture_output=True, text=True, timeout=seconds, env=environment
        )
    except FileNotFoundError:
        raise RunError(f"no {words[0]} here: run this where Slurm's commands are") from None
    except subprocess.TimeoutExpired:
        raise RunError(
            f"{words[0]} gave no answer within {seconds:g} s: is slurmctld up? (scontrol ping)"
        ) from None
    if done.returncode == 0:
        return done.stdout
    said = done.stderr.strip() or done.stdout.strip()
    if refused is None or done.returncode == TIMED_OUT:
        raise RunError(f"{words[0]}: {said}")
    raise refused(said)
