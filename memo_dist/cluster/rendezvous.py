"""Ranks that another program started: which ones are they, and where do they meet?

``torchrun`` and ``deepspeed`` set RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT.
``srun`` sets its own variables and no address: there rank 0 picks a free port and leaves its
address in the run folder, which all ranks share anyway, so no host name has to be guessed.
"""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

from memo_dist.errors import RunError
from memo_dist.io import atomic

RANK_VARIABLES = ("RANK", "WORLD_SIZE")
_SLURM_BATCH_STEP = 0xFFFFFFF0
"""Slurm's step ids from here on are no steps of srun (the batch script itself, interactive)."""


def started_as_rank() -> bool:
    """Whether torchrun, deepspeed or srun started this process as one of several ranks.

    One rank of torchrun counts too, but ``srun -n 1`` does not: it is how people start any
    single command.
    """
    return all(name in os.environ for name in RANK_VARIABLES) or _slurm_tasks() > 1


def _slurm_tasks() -> int:
    """Tasks of the srun step that this process belongs to; 0 outside of one."""
    step = os.environ.get("SLURM_STEP_ID", "")
    if not step.isdigit() or int(step) >= _SLURM_BATCH_STEP:
        return 0
    return int(os.environ.get("SLURM_STEP_NUM_TASKS", "0"))


def adopt_ranks(shared: Path, seconds: float) -> None:
    """Set the rank environment that torch reads, where it is not set already.

    A process that nothing started as a rank becomes the only one.

    Args:
        shared: a folder that all ranks see.
        seconds: how long to wait for rank 0's address.

    Raises:
        RunError: rank 0 left no address in time.
    """
    if all(name in os.environ for name in RANK_VARIABLES):
        return
    if _slurm_tasks() > 1:
        _adopt_slurm(shared, seconds)
        return
    os.environ |= {
        "RANK": "0",
        "WORLD_SIZE": "1",
        "LOCAL_RANK": "0",
        "LOCAL_WORLD_SIZE": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
    }


def _adopt_slurm(shared: Path, seconds: float) -> None:
    rank, world = os.environ["SLURM_PROCID"], os.environ["SLURM_STEP_NUM_TASKS"]
    names = ("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT")
    launch = "-".join(os.environ.get(name, "0") for name in names)
    path = shared / f".address-{launch}.json"
    if rank == "0":
        host = os.environ.get("SLURMD_NODENAME") or socket.gethostname()
        atomic.write_json(path, {"host": host, "port": _free_port()})
    address = _await(path, seconds, world)
    os.environ |= {
        "RANK": rank,
        "WORLD_SIZE": world,
        "LOCAL_RANK": os.environ.get("SLURM_LOCALID", "0"),
        "MASTER_ADDR": str(address["host"]),
        "MASTER_PORT": str(address["port"]),
    }


def _await(path: Path, seconds: float, world: str) -> dict[str, object]:
    deadline = time.monotonic() + seconds
    while not path.exists():
        if time.monotonic() >= deadline:
            raise RunError(
                f"rank 0 of {world} left no address in {path} within {seconds:.0f} s"
                " (cluster.start_timeout): is the run folder on a file system that all nodes share?"
            )
        time.sleep(0.2)
    found: dict[str, object] = atomic.read_json(path)
    return found


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])
