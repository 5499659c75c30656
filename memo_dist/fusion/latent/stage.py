"""``memo-dist fuse RUN --mode latent``: train the connector of a run's memory and a backbone.

Ranks are started as for memories (:mod:`memo_dist.training.direct`): by Ray Train, or this
process is one already (torchrun, deepspeed, srun, ``cluster.launcher=process``).
"""

from __future__ import annotations

import logging
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from memo_dist.cluster.placement import Placement, plan_placement
from memo_dist.cluster.ranks import Ranks
from memo_dist.cluster.ray_local import ray_session
from memo_dist.cluster.rendezvous import adopt_ranks
from memo_dist.cluster.resources import Resources
from memo_dist.cluster.stop import STOP
from memo_dist.config.schema import Config
from memo_dist.fusion.backbone import find_backbone
from memo_dist.fusion.latent.examples import read_examples
from memo_dist.fusion.latent.job import TRAINED, ConnectorJob, micro_batches, total_steps
from memo_dist.fusion.latent.prepare import connector_job, prepare_examples
from memo_dist.fusion.latent.store import CARD
from memo_dist.io import atomic
from memo_dist.io.runfolder import RunFolder
from memo_dist.observability.progress import progress
from memo_dist.runs import open_run
from memo_dist.training import checkpoint
from memo_dist.training.bank_driver import train_bank
from memo_dist.training.direct import rank_resources, starts_here, told_jobs
from memo_dist.training.prepare import check_training
from memo_dist.training.saver import find_checkpoint

_LABEL = "train connector"


def fuse_latent(root: Path, config: Config) -> tuple[Path, dict[str, Any]] | None:
    """Train the connector, or find it trained.

    Returns:
        Its folder and card; None on ranks other than the first.

    Raises:
        StoppedError, InterruptedRunError: a stop was requested; the state is saved.
        UsageError, RunError: what the run, the configuration or the training refuses.
    """
    check_training(config)
    if starts_here(config):
        if not torch.cuda.is_available():
            os.environ.setdefault("DS_ACCELERATOR", "cpu")
        return _as_rank(root, config)
    STOP.install()
    with open_run(root, config, "must") as run:
        job = _prepared(run, config, 1)
        if not _is_done(job):
            with ray_session(config.cluster) as resources:
                STOP.install()  # Ray has replaced the handler of SIGTERM
                placement = _place(config, resources)
                job = replace(job, threads=placement.threads)
                train_bank({0: job}, config, placement, _LABEL, _ray_rank)
        return job.final, atomic.read_json(job.final / CARD)


def _as_rank(root: Path, config: Config) -> tuple[Path, dict[str, Any]] | None:
    adopt_ranks(root / "train", config.cluster.start_timeout)
    ranks = Ranks.from_environment()
    if not ranks.is_first:
        logging.disable(logging.WARNING)
        _train_here(told_jobs(None), None)
        return None
    micro_batches(config.fusion.latent, ranks.world)
    STOP.install()
    with open_run(root, config, "must") as run:
        have = rank_resources(ranks)
        job = _prepared(run, config, max(1, have.cores // ranks.world))
        _train_here(told_jobs([] if _is_done(job) else [job]), job)
        return job.final, atomic.read_json(job.final / CARD)


def _prepared(run: RunFolder, config: Config, threads: int) -> ConnectorJob:
    base = find_backbone(config, run.memory)
    job = connector_job(run, config, base, config.cluster.threads or threads)
    if _is_done(job):
        return job
    job.path.mkdir(parents=True, exist_ok=True)
    job = prepare_examples(run, config, base, job)
    find_checkpoint(job)  # refuses another job's before a rank holds a GPU
    return job


def _is_done(job: ConnectorJob) -> bool:
    done = checkpoint.is_complete(job.final)
    return done and checkpoint.read_state(job.final).job in (job.identity, job.earlier)


def _place(config: Config, resources: Resources) -> Placement:
    alone = replace(config, corpus=replace(config.corpus, shards=1))
    placement = plan_placement(alone, resources)
    micro_batches(config.fusion.latent, placement.ranks)
    return placement


def _train_here(jobs: list[dict[str, Any]], first: ConnectorJob | None) -> None:
    from memo_dist.fusion.latent.worker import connector_rank

    STOP.install()  # libraries may have replaced the handlers
    for values in jobs:
        if first is None:
            outcome = connector_rank(values)
        else:
            steps = total_steps(first.latent, len(read_examples(first.path / TRAINED)))
            with progress(steps, _LABEL, unit="steps") as bar:
                outcome = connector_rank(
                    values, lambda step, numbers: bar.advance(step - bar.done, **numbers)
                )
        if outcome == "stopped":
            raise STOP.error(f"{_LABEL} is saved; run the same command again to continue")


def _ray_rank(values: dict[str, Any]) -> None:
    """Import inside the rank: the driver itself never imports DeepSpeed."""
    from memo_dist.fusion.latent.worker import connector_rank

    connector_rank(values)
