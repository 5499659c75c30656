"""What runs on every training rank, however the rank was started.

Ray Train's ranks call :func:`train_rank`; ``torchrun``, ``deepspeed``, ``srun`` or nothing at all
start ``memo-dist train`` (see :mod:`memo_dist.training.start`), or, for a job that is prepared,
``python -m memo_dist.training.worker RUN/train/shard-<k>/job.json``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch._C._distributed_c10d import Store

from memo_dist.cluster.ranks import Ranks
from memo_dist.cluster.stop import STOP
from memo_dist.errors import EXIT_STOPPED, RunError
from memo_dist.io import atomic
from memo_dist.io.locks import file_lock, holder
from memo_dist.observability.logs import quiet_libraries
from memo_dist.observability.status import failure_noted
from memo_dist.training.deepspeed_seam import init_distributed
from memo_dist.training.job import Outcome, RankJob, TrainJob, Watch
from memo_dist.training.loop import TrainingLoop
from memo_dist.training.memory_trainee import MemoryTrainee
from memo_dist.training.trainee import Trainee

START_TIMEOUT = 180.0
"""Seconds to wait for the other ranks where no configuration says so."""
LOCK_TIMEOUT = 120.0
"""Seconds to wait for a rank of a killed launch to be gone before refusing to train."""


def train_rank(values: dict[str, Any], watch: Watch | None = None) -> Outcome:
    """Train as one rank; ``values`` is :meth:`TrainJob.to_json`.

    Joins the process group that the launcher set up, finds the newest complete checkpoint
    itself, and leaves its result in the job's folder.

    Args:
        values: the job.
        watch: called on rank 0 after each step with the steps done and numbers to show.

    Returns:
        ``done``, or ``stopped`` once the state is saved.
    """
    job = TrainJob.from_json(values)
    return run_rank(job, partial(MemoryTrainee, job), watch)


def run_rank(job: RankJob, load: Callable[[Ranks], Trainee], watch: Watch | None) -> Outcome:
    """Join the other ranks and train, as the only launch that writes into the job's folder.

    Args:
        job: the training's.
        load: makes what is trained, for this rank's place.
        watch: called on rank 0 after each step.

    Raises:
        RunError: ranks of another launch still train here after ``LOCK_TIMEOUT``.
    """
    join_ranks()
    ranks = Ranks.from_environment()
    noted = failure_noted(job.path) if ranks.is_first else nullcontext()
    with _sole_writer(job.path, ranks), noted:
        return TrainingLoop(job, ranks, load, watch).run()


def join_ranks(seconds: float = START_TIMEOUT) -> Store | None:
    """Join the other ranks' process group; does nothing where it is joined.

    Args:
        seconds: how long to wait for them.

    Returns:
        The store in which they met; None where they had joined before.

    Raises:
        RunError: ranks did not come; says have and want.
        StoppedError: a stop was requested meanwhile.
    """
    quiet_libraries()
    return init_distributed("nccl" if torch.cuda.is_available() else "gloo", seconds)


@contextmanager
def _sole_writer(folder: Path, ranks: Ranks) -> Iterator[None]:
    """Rank 0 holds a lock while it writes: after a driver's death an old rank may still live.

    Raises:
        RunError: the lock was not free within ``LOCK_TIMEOUT``.
    """
    if not ranks.is_first:
        yield
        return

    def busy(other: str) -> RunError:
        return RunError(
            f"process {other or 'unknown'} still trains in {folder} after {LOCK_TIMEOUT:.0f} s:"
            " end it, or use another --run"
        )

    with file_lock(folder / ".lock", LOCK_TIMEOUT, busy) as stream:
        stream.truncate(0)
        stream.write(f"{holder()}\n")
        stream.flush()
        yield


def _main() -> None:
    STOP.install()
    if train_rank(atomic.read_json(Path(sys.argv[1]))) == "stopped":
        sys.exit(EXIT_STOPPED)


if __name__ == "__main__":
    _main()
