"""Where a rank that trains a memory begins.

Those who start ranks import this: what trains, DeepSpeed included, is imported inside the rank.
"""

from __future__ import annotations

from typing import Any

from memo_dist import process
from memo_dist.training.job import Outcome, Watch


def memory_rank(values: dict[str, Any], watch: Watch | None = None) -> Outcome:
    """Train a memory as one rank; see :func:`memo_dist.training.worker.train_rank`."""
    with process.imports():
        from memo_dist.training.worker import train_rank

    return train_rank(values, watch)
