"""Ranks that another program started: which ones are they, and where do they meet?

``torchrun`` and ``deepspeed`` set RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT.
``srun`` sets its own variables and no address: there every rank leaves a file in the run folder,
which all ranks share anyway. It names the rank's node and cores, and rank 0's also its address and
a free port; no host name has to be guessed, and a rank that never comes is missed by its number.
"""

from __future__ import annotations

import os
import shutil
import socket
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from memo_dist.cluster.address import own_address
from memo_dist.cluster.stop import STOP
from memo_dist.errors import RunError
from memo_dist.io import atomic

RANK_VARIABLES = ("RANK", "WORLD_SIZE")
SHARING_VARIABLE = "MEMO_DIST_RANKS_ON_CORES"
"""Ranks that share this one's cores, itself included. With ``srun --cpus-per-task`` each rank of a
node has cores of its own, so LOCAL_WORLD_SIZE does not say it."""
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
        RunError: ranks did not come in time; says have and want.
        StoppedError: a stop was requested meanwhile.
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
        "MASTER_PORT": str(free_port()),
    }


def _adopt_slurm(shared: Path, seconds: float) -> None:
    rank, world = int(os.environ["SLURM_PROCID"]), int(os.environ["SLURM_STEP_NUM_TASKS"])
    names = ("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT")
    meeting = shared / ".ranks" / "-".join(os.environ.get(name, "0") for name in names)
    node = node_name()
    here: dict[str, Any] = {"node": node, "cores": sorted(os.sched_getaffinity(0))}
    if rank == 0:
        for old in meeting.parent.glob("*"):
            if old != meeting:
                shutil.rmtree(old, ignore_errors=True)
        several = int(os.environ.get("SLURM_STEP_NUM_NODES", "1")) > 1
        here |= {"host": own_address(node) if several else node, "port": free_port()}
    atomic.write_json(meeting / f"{rank}.json", here)
    _await_all(meeting, world, seconds)
    address = atomic.read_json(meeting / "0.json")
    beside = _beside(meeting, here, world)
    os.environ |= {
        "RANK": str(rank),
        "WORLD_SIZE": str(world),
        "LOCAL_RANK": os.environ.get("SLURM_LOCALID", "0"),
        "LOCAL_WORLD_SIZE": str(len(beside)),
        SHARING_VARIABLE: str(sum(not cores.isdisjoint(here["cores"]) for cores in beside)),
        "MASTER_ADDR": str(address["host"]),
        "MASTER_PORT": str(address["port"]),
    }


def _beside(meeting: Path, here: Mapping[str, Any], world: int) -> list[set[int]]:
    """The cores of each rank of this node, this rank included."""
    listed = os.environ.get("SLURM_GTIDS", "")  # the ranks of this node: no need to read them all
    ranks = [int(rank) for rank in listed.split(",")] if listed else range(world)
    found = (atomic.read_json(meeting / f"{rank}.json") for rank in ranks)
    return [set(there["cores"]) for there in found if there["node"] == here["node"]]


def node_name() -> str:
    """This node, as Slurm calls it; outside of Slurm its own name."""
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname()


def ranks_on_cores(world: int) -> int:
    """How many ranks share this rank's cores, itself included; all of ``world`` where nothing says
    how many ranks are on this machine."""
    names = (SHARING_VARIABLE, "LOCAL_WORLD_SIZE")
    return int(next(filter(None, map(os.environ.get, names)), world))


def _await_all(meeting: Path, world: int, seconds: float) -> None:
    """Wait until every rank has left its file; polls one listing of the folder."""
    deadline = time.monotonic() + seconds
    wanted = {f"{rank}.json" for rank in range(world)}
    while missing := wanted - set(os.listdir(meeting)):  # noqa: PTH208 (names, one call)
        if STOP():
            raise STOP.error("nothing was trained yet; run the same command again")
        if time.monotonic() >= deadline:
            ranks = [int(name.removesuffix(".json")) for name in missing]
            hint = f"; is {meeting} on a file system that all nodes share?"
            raise ranks_missing(ranks, world, seconds, hint)
        time.sleep(0.2)


def ranks_missing(missing: Sequence[int], world: int, seconds: float, hint: str = "") -> RunError:
    """What to say of ranks that did not come within ``seconds``."""
    names = sorted(missing)
    shown = ", ".join(map(str, names[:8])) + (", ..." if len(names) > 8 else "")
    return RunError(
        f"{world - len(names)}/{world} ranks are there after {seconds:.0f} s"
        f" (cluster.start_timeout), rank(s) {shown} did not come: see the log of their nodes{hint}"
    )


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])
