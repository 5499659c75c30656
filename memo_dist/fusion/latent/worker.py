"""What runs on every rank of a connector's training, however the rank was started.

Those who start ranks import this; DeepSpeed is imported inside the rank.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from memo_dist import process
from memo_dist.fusion.latent.job import ConnectorJob
from memo_dist.training.job import Outcome, Watch


def connector_rank(values: dict[str, Any], watch: Watch | None = None) -> Outcome:
    """Train as one rank; ``values`` is :meth:`ConnectorJob.to_json`.

    Args:
        values: the job.
        watch: called on rank 0 after each step with the steps done and numbers to show.

    Returns:
        ``done``, or ``stopped`` once the state is saved.
    """
    with process.imports():
        from memo_dist.fusion.latent.trainee import ConnectorTrainee
        from memo_dist.training.worker import run_rank

    job = ConnectorJob.from_json(values)
    return run_rank(job, partial(ConnectorTrainee, job), watch)
