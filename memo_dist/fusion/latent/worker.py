"""What runs on every rank of a connector's training, however the rank was started."""

from __future__ import annotations

from typing import Any

from memo_dist.cluster.ranks import Ranks
from memo_dist.fusion.latent.job import ConnectorJob
from memo_dist.fusion.latent.training import ConnectorTrainer, Outcome, Watch
from memo_dist.observability.logs import quiet_libraries
from memo_dist.training.worker import join_ranks, sole_writer


def connector_rank(values: dict[str, Any], watch: Watch | None = None) -> Outcome:
    """Train as one rank; ``values`` is :meth:`ConnectorJob.to_json`.

    Args:
        values: the job.
        watch: called on rank 0 after each step with the steps done and numbers to show.

    Returns:
        ``done``, or ``stopped`` once the state is saved.
    """
    job = ConnectorJob.from_json(values)
    quiet_libraries()
    join_ranks()
    ranks = Ranks.from_environment()
    with sole_writer(job.path, ranks):
        return ConnectorTrainer(job, ranks, watch).run()
