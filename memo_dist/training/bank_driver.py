"""A bank's trainings side by side on one Ray cluster; no shard's failure stops the others."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from memo_dist.cluster.placement import Placement
from memo_dist.cluster.stop import STOP
from memo_dist.config.schema import Config
from memo_dist.errors import MemoDistError, RunError
from memo_dist.observability.progress import progress_board
from memo_dist.training.job import RankEntry, RankJob
from memo_dist.training.ray_driver import ShardTraining, start_environment

POLL_SECONDS = 0.5


def train_bank(
    jobs: Mapping[int, RankJob],
    config: Config,
    placement: Placement,
    label: Callable[[int], str],
    entry: RankEntry,
) -> None:
    """Train shards as independent jobs, ``placement.at_once`` of them side by side.

    Runs inside a Ray session (memo_dist.cluster.ray_local). Every shard runs to its own end;
    the same command again continues those that have none yet.

    Args:
        jobs: what is to be trained, by shard.
        config: the resolved configuration.
        placement: ranks and room of each shard.
        label: a shard's training, for people.
        entry: what ranks run.

    Raises:
        StoppedError, InterruptedRunError: a stop was requested; the states are saved.
        RunError: at least one shard failed; names each, after the others have finished.
        UsageError: the only shard failed by a user's error.
    """
    for name, value in start_environment(config.cluster.start_timeout).items():
        os.environ.setdefault(name, value)
    queue = _Queue(deque(sorted(jobs.items())))
    with progress_board() as board:
        while queue.waiting or queue.running:
            while queue.waiting and len(queue.running) < placement.at_once and not STOP():
                shard, job = queue.waiting.popleft()
                queue.running[shard] = ShardTraining(
                    job, config, placement, label(shard), board, entry
                )
            queue.poll()
            if STOP() and not queue.running:
                break
            time.sleep(POLL_SECONDS if queue.running else 0.0)
    _conclude(queue, len(jobs))


@dataclass
class _Queue:
    """Shards that wait, run, and failed; a shard that is done leaves no trace here."""

    waiting: deque[tuple[int, RankJob]]
    running: dict[int, ShardTraining] = field(default_factory=dict)
    failed: dict[int, MemoDistError] = field(default_factory=dict)
    unfinished: int = 0

    def poll(self) -> None:
        """Look at every running shard and take out those that have ended."""
        ended = [shard for shard, training in self.running.items() if training.poll()]
        for shard in ended:
            training = self.running.pop(shard)
            if training.error is not None:
                self.failed[shard] = training.error
            elif not training.done:
                self.unfinished += 1


def _conclude(queue: _Queue, total: int) -> None:
    """Raise what the verb ends with, if not every shard is trained."""
    left = queue.unfinished + len(queue.waiting)
    if left and STOP():
        raise STOP.error(
            f"training is saved, {left} of {total} shard(s) not finished; run the same command"
            " again to continue"
        )
    if not queue.failed:
        return
    if total == 1:
        raise next(iter(queue.failed.values()))
    lines = [f"shard {shard}: {error}" for shard, error in sorted(queue.failed.items())]
    raise RunError(
        f"{len(lines)} of {total} shard(s) failed, the others are trained:\n  "
        + "\n  ".join(lines)
        + "\nrun the same command again to continue only these"
    )
