"""A function of each of some jobs, in Ray workers of one core each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import ray

from memo_dist.errors import RunError

Job = TypeVar("Job")
Done = TypeVar("Done")


def on_workers(function: Callable[[Job], Done], jobs: Sequence[Job], doing: str) -> list[Done]:
    """The results in the order of the jobs; inside a Ray session.

    After an error the other tasks end with the session. They are not cancelled: ``ray.cancel`` of
    a task that ends at that moment can abort this process (Ray 2.60, a check in
    ``TaskManager::CompletePendingTask``).

    Args:
        function: importable in the workers. A job is done again where its worker died once.
        jobs: one a task.
        doing: what is done, for the message of an error ("merging the reflections").

    Raises:
        RunError: a worker died (out of memory, a lost node).
        Exception: what the function raises.
    """
    task = ray.remote(num_cpus=1, max_retries=1)(function)
    waiting = [task.remote(job) for job in jobs]
    try:
        return [ray.get(reference) for reference in waiting]
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
    except ray.exceptions.RayError as error:
        raise RunError(f"{doing} ended early ({type(error).__name__}: {error})") from error
