"""``memo-dist fuse RUN --mode latent``: train the connector of a run's memory and a backbone.

Ranks are started as for memories (:mod:`memo_dist.training.start`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from memo_dist.cluster.placement import Placement, plan_placement
from memo_dist.cluster.resources import Resources
from memo_dist.cluster.stop import STOP
from memo_dist.config.schema import Config
from memo_dist.fusion.backbone import find_backbone
from memo_dist.fusion.latent.examples import read_examples
from memo_dist.fusion.latent.job import TRAINED, ConnectorJob, micro_batches, total_steps
from memo_dist.fusion.latent.prepare import connector_job, prepare_examples
from memo_dist.fusion.latent.store import CARD
from memo_dist.fusion.latent.worker import connector_rank
from memo_dist.io import atomic
from memo_dist.io.runfolder import RunFolder
from memo_dist.runs import open_run
from memo_dist.training import checkpoint
from memo_dist.training.prepare import check_training
from memo_dist.training.saver import find_checkpoint
from memo_dist.training.start import starts_here, train_by_ray, train_here


def fuse_latent(root: Path, config: Config) -> tuple[Path, dict[str, Any]] | None:
    """Train the connector, or find it trained.

    Returns:
        Its folder and card; None on ranks other than the first.

    Raises:
        StoppedError, InterruptedRunError: a stop was requested; the state is saved.
        UsageError, RunError: what the run, the configuration or the training refuses.
    """
    check_training(config)
    work = ConnectorWork()
    if starts_here(config):
        if not train_here(work, root, config, "must"):
            return None
    else:
        STOP.install()
        with open_run(root, config, "must") as run:
            train_by_ray(work, run, config)
    return work.final, atomic.read_json(work.final / CARD)


class ConnectorWork:
    """The training of one connector; see :class:`memo_dist.training.start.RankedWork`.

    Attributes:
        final: the connector's folder, once :meth:`pending` has looked for it.
    """

    entry = staticmethod(connector_rank)
    final: Path

    def label(self, number: int) -> str:
        """There is one training."""
        return "train connector"

    def check(self, config: Config, world: int) -> None:
        """The examples of a step."""
        micro_batches(config.fusion.latent, world)

    def pending(self, run: RunFolder, config: Config) -> list[int]:
        """The one training, with its examples written, unless there is its connector."""
        base = find_backbone(config, run.memory)
        job = connector_job(run, config, base, 1)
        self.final = job.final
        if _is_done(job):
            return []
        job.path.mkdir(parents=True, exist_ok=True)
        self._job = prepare_examples(run, config, base, job)
        find_checkpoint(job)  # refuses another job's before a rank holds a GPU
        return [0]

    def place(self, config: Config, resources: Resources) -> Placement:
        """Ranks and room of one training."""
        alone = replace(config, corpus=replace(config.corpus, shards=1))
        placement = plan_placement(alone, resources)
        micro_batches(config.fusion.latent, placement.ranks)
        return placement

    def job(
        self, run: RunFolder, config: Config, number: int, resources: Resources
    ) -> ConnectorJob:
        """The job whose examples are written, with the threads of a rank."""
        threads = config.cluster.threads or self.place(config, resources).threads
        return replace(self._job, threads=threads)

    def jobs(
        self, run: RunFolder, config: Config, numbers: Sequence[int], resources: Resources
    ) -> dict[int, ConnectorJob]:
        """:meth:`job` of each number."""
        return {number: self.job(run, config, number, resources) for number in numbers}

    def steps(self, job: ConnectorJob, world: int) -> int:
        """Steps of all epochs."""
        return total_steps(job.latent, len(read_examples(job.path / TRAINED)))


def _is_done(job: ConnectorJob) -> bool:
    done = checkpoint.is_complete(job.final)
    return done and checkpoint.read_state(job.final).job in (job.identity, job.earlier)
