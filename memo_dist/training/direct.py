"""Training without Ray: this process is a rank itself.

    memo-dist train RUN cluster.launcher=process          one rank, in this process
    torchrun --nproc-per-node 8 -m memo_dist train RUN
    deepspeed --num_gpus 8 --module memo_dist train RUN
    srun --ntasks 16 memo-dist train RUN

Every rank runs the same command. Rank 0 holds the run folder's lock, prepares the jobs and
tells the others; the launcher ends the rest when one rank fails.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from memo_dist.cluster.ranks import Ranks
from memo_dist.cluster.rendezvous import adopt_ranks, started_as_rank
from memo_dist.cluster.resources import Resources, detect_resources
from memo_dist.cluster.stop import STOP
from memo_dist.config.schema import Config
from memo_dist.errors import UsageError
from memo_dist.models.base import SCRATCH_NAME, resolve_base
from memo_dist.observability.logs import quiet_libraries
from memo_dist.observability.progress import progress
from memo_dist.runs import open_run
from memo_dist.stages.records import SYNTHESIS
from memo_dist.stages.state import require
from memo_dist.training.done import pending_shards
from memo_dist.training.examples import Examples
from memo_dist.training.job import RankJob, TrainJob, make_plan, rows_per_step, total_steps
from memo_dist.training.model import use_bf16
from memo_dist.training.prepare import check_training, memory_base, prepare_job
from memo_dist.training.saver import find_checkpoint, with_resume


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


def train_here(root: Path, config: Config, resume: str) -> None:
    """Train every shard of a run that is not trained yet, as one of the ranks.

    Raises:
        StoppedError, InterruptedRunError: a stop was requested; the state is saved.
        UsageError, RunError: what the run, the configuration or the training refuses.
    """
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    adopt_ranks(root / "train", config.cluster.start_timeout)
    ranks = Ranks.from_environment()
    config = replace(config, cluster=replace(config.cluster, workers=ranks.world))
    if not ranks.is_first:
        logging.disable(logging.WARNING)
        _train(told_jobs(None), ranks)
        return
    _check(config, ranks.world)
    STOP.install()
    with open_run(root, config, resume) as run:
        require(run, SYNTHESIS)
        base = memory_base(run, config)
        jobs = [
            with_resume(prepare_job(run, config, k, base, rank_resources(ranks)), resume)
            for k in pending_shards(run, config, base)
        ]
        _train(told_jobs(jobs), ranks)


def _check(config: Config, world: int) -> None:
    """What can be refused before anything is written; the ranks are there already."""
    quiet_libraries()
    if config.memory.base != SCRATCH_NAME:
        resolve_base(config.memory.base)
    check_training(config)
    rows_per_step(config.train, world)
    use_bf16(config.train.precision)


def rank_resources(ranks: Ranks) -> Resources:
    """As if all ranks' machines were one, each with this one's cores a rank."""
    here = detect_resources()
    local = int(os.environ.get("LOCAL_WORLD_SIZE") or ranks.world)
    cores = max(1, here.cores // local) * ranks.world
    return Resources(cores, ranks.world if here.gpus else 0, here.memory_bytes)


def told_jobs(jobs: Sequence[RankJob] | None) -> list[dict[str, Any]]:
    """Rank 0's jobs, on every rank; the others (None) wait here while it prepares them."""
    from memo_dist.training.worker import join_ranks

    join_ranks()
    text = [json.dumps([job.to_json() for job in jobs]) if jobs is not None else ""]
    torch.distributed.broadcast_object_list(text, src=0)
    told: list[dict[str, Any]] = json.loads(text[0])
    return told


def _train(jobs: list[dict[str, Any]], ranks: Ranks) -> None:
    from memo_dist.training.worker import train_rank

    STOP.install()  # libraries may have replaced the handlers
    for values in jobs:
        job = TrainJob.from_json(values)
        label = f"train {job.path.name}"
        with _shown(job, label, ranks) as watch:
            outcome = train_rank(values, watch)
        if outcome == "stopped":
            raise STOP.error(f"{label} is saved; run the same command again to continue")


@contextmanager
def _shown(job: TrainJob, label: str, ranks: Ranks) -> Iterator[Any]:
    """A progress bar that a rank's steps move; none on ranks other than the first."""
    if not ranks.is_first:
        yield None
        return
    plan = make_plan(job, Examples.load(Path(job.examples)).lengths, ranks.world)
    found = find_checkpoint(job)
    done = found[1].step if found else 0
    with progress(total_steps(job.train, plan), label, done=done, unit="steps") as bar:

        def watch(step: int, numbers: dict[str, float]) -> None:
            bar.advance(step - bar.done, **numbers)

        yield watch
