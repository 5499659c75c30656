"""One way to start the ranks of trainings: by Ray, by another launcher, or in this process.

    memo-dist train RUN                                   by Ray Train
    memo-dist train RUN cluster.launcher=process          one rank, in this process
    torchrun --nproc-per-node 8 -m memo_dist train RUN    this process is a rank, as with
    deepspeed --num_gpus 8 --module memo_dist train RUN   these two
    srun --ntasks 16 memo-dist train RUN

What the ranks train is a :class:`RankedWork`: the memories of a bank
(:mod:`memo_dist.training.bank_work`), or, with ``fuse RUN --mode latent``, a connector
(:mod:`memo_dist.fusion.latent.stage`). Under a launcher every rank runs the same command. Rank 0
holds the run folder's lock, prepares the jobs and sends them to the others; the launcher ends the
rest when one rank fails.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from torch._C._distributed_c10d import Store

from memo_dist.cluster.placement import Placement
from memo_dist.cluster.ranks import Ranks
from memo_dist.cluster.ray_local import ray_session
from memo_dist.cluster.rendezvous import adopt_ranks, ranks_on_cores, started_as_rank
from memo_dist.cluster.resources import Resources, detect_resources
from memo_dist.cluster.stop import STOP
from memo_dist.cluster.store import announce, await_event
from memo_dist.config.schema import Config
from memo_dist.errors import UsageError
from memo_dist.io import permissions
from memo_dist.io.runfolder import RunFolder
from memo_dist.observability.logs import quiet_libraries
from memo_dist.observability.progress import progress
from memo_dist.runs import open_run
from memo_dist.training.bank_driver import train_bank
from memo_dist.training.job import RankEntry, RankJob, Watch
from memo_dist.training.saver import find_checkpoint

_JOBS = "the jobs are prepared"
NumberedJob = tuple[int, dict[str, Any]]
"""A training's number, and its job as plain data."""


class RankedWork(Protocol):
    """Trainings whose ranks are started here; each has a number, for a memory that of its shard."""

    @property
    def entry(self) -> RankEntry:
        """What every rank runs."""
        ...

    def label(self, number: int) -> str:
        """One of the trainings, for people."""
        ...

    def check(self, config: Config, world: int) -> None:
        """Refuse what can be refused before anything is written.

        Raises:
            UsageError: ``world`` ranks cannot train this.
        """
        ...

    def pending(self, run: RunFolder, config: Config) -> list[int]:
        """The trainings that have no result yet."""
        ...

    def place(self, config: Config, resources: Resources) -> Placement:
        """Ranks and room of each training under Ray.

        Raises:
            UsageError: they do not fit.
        """
        ...

    def job(self, run: RunFolder, config: Config, number: int, resources: Resources) -> RankJob:
        """Prepare one of the trainings, checkpoint to continue from included."""
        ...

    def jobs(
        self, run: RunFolder, config: Config, numbers: Sequence[int], resources: Resources
    ) -> Mapping[int, RankJob]:
        """:meth:`job` of several trainings, by number; inside a Ray session."""
        ...

    def steps(self, job: Any, world: int) -> int:
        """Optimizer steps of one of the trainings, for a progress bar."""
        ...


def starts_here(config: Config) -> bool:
    """Whether this process trains itself, rather than through Ray.

    Raises:
        UsageError: ``cluster.launcher=ranks`` in a process that nothing started as a rank.
    """
    launcher = config.cluster.launcher
    if launcher == "ranks" and not started_as_rank():
        raise UsageError(
            "cluster.launcher=ranks, but no launcher has set RANK and WORLD_SIZE: start with"
            " `torchrun -m memo_dist train RUN`, deepspeed or srun, or use cluster.launcher=process"
        )
    return launcher in ("ranks", "process") or (launcher == "auto" and started_as_rank())


def train_by_ray(work: RankedWork, run: RunFolder, config: Config) -> None:
    """Train what is pending under Ray, side by side where it fits; the run is open.

    Raises:
        StoppedError, InterruptedRunError: a stop was requested; the state is saved.
        UsageError, RunError: what the run, the configuration or the training refuses.
    """
    pending = work.pending(run, config)
    if not pending:
        return
    with ray_session(config.cluster) as resources:
        STOP.install()  # Ray has replaced the handler of SIGTERM
        placement = work.place(config, resources)
        jobs = work.jobs(run, config, pending, resources)
        train_bank(jobs, config, placement, work.label, work.entry)


def train_here(work: RankedWork, root: Path, config: Config, resume: str) -> bool:
    """Train what is pending as one of the ranks, one training after the other.

    Returns:
        Whether this is rank 0.

    Raises:
        StoppedError, InterruptedRunError: a stop was requested; the state is saved.
        UsageError, RunError: what the run, the configuration or the training refuses.
    """
    from memo_dist.training.worker import join_ranks

    quiet_libraries()
    STOP.install()
    adopt_ranks(root / "train", config.cluster.start_timeout)
    ranks = Ranks.from_environment()
    config = replace(config, cluster=replace(config.cluster, workers=ranks.world))
    if ranks.is_first:
        work.check(config, ranks.world)
    store = join_ranks(config.cluster.start_timeout)
    STOP.install()  # libraries may have replaced the handlers
    if not ranks.is_first:
        logging.disable(logging.WARNING)
        with permissions.creating(config.run.group_readable):
            for number, values in _shared(store, []):
                _train(work, number, values, None)
        return False
    with open_run(root, config, resume) as run:
        have = _rank_resources(ranks)
        pending = work.pending(run, config)
        jobs = {number: work.job(run, config, number, have) for number in pending}
        for number, values in _shared(store, [(k, job.to_json()) for k, job in jobs.items()]):
            with _shown(work, number, jobs[number], ranks.world) as watch:
                _train(work, number, values, watch)
    return True


def _rank_resources(ranks: Ranks) -> Resources:
    """As if all ranks' machines were one, each with this rank's share of its cores."""
    here = detect_resources()
    cores = max(1, here.cores // ranks_on_cores(ranks.world)) * ranks.world
    return Resources(cores, ranks.world if here.gpus else 0, here.memory_bytes)


def _shared(store: Store | None, jobs: Sequence[NumberedJob]) -> Sequence[NumberedJob]:
    """Rank 0's jobs, on every rank; the others wait here while it prepares them."""
    ranks = Ranks.from_environment()
    if store is not None:
        announce(store, _JOBS) if ranks.is_first else await_event(store, _JOBS)
    text = ranks.text_of_first(json.dumps(jobs))
    return [(number, values) for number, values in json.loads(text)]


def _train(work: RankedWork, number: int, values: dict[str, Any], watch: Watch | None) -> None:
    if work.entry(values, watch) == "stopped":
        raise STOP.error(f"{work.label(number)} is saved; run the same command again to continue")


@contextmanager
def _shown(work: RankedWork, number: int, job: RankJob, world: int) -> Iterator[Watch]:
    """A progress bar that rank 0's steps move."""
    found = find_checkpoint(job)
    done = found[1].step if found else 0
    with progress(work.steps(job, world), work.label(number), done=done, unit="steps") as bar:

        def watch(step: int, numbers: dict[str, float]) -> None:
            bar.advance(step - bar.done, **numbers)

        yield watch
