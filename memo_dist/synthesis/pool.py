"""The Ray actors that work on partitions."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import ray

from memo_dist.config.model_schema import GeneratorConfig
from memo_dist.synthesis.actor import PartitionWorker
from memo_dist.synthesis.worker import GeneratorFactory, PartitionJob

POLL_SECONDS = 0.25


class WorkerPool:
    """Ray actors that wait for a partition; a dead one is replaced by a new one.

    Args of the constructor:
        factory: builds the generator inside a worker.
        config: group ``generator``.
        workers: actors.
        cores: cores that Ray sets aside for each.
    """

    def __init__(
        self, factory: GeneratorFactory, config: GeneratorConfig, workers: int, cores: float = 1.0
    ) -> None:
        self._arguments = (factory, config, workers)
        self._actor = ray.remote(num_cpus=cores, max_restarts=0)(PartitionWorker)
        self._room = workers
        self._actors: dict[Any, int] = {}
        self._busy: dict[Any, Any] = {}
        self._homes: dict[int, Any] = {}
        """Partition -> the actor that did it last: it may know the documents already."""

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(self, *_: object) -> None:
        """End the workers; one that is at work loses at most its present unit."""
        for actor in self._actors:
            with suppress(ray.exceptions.RayError):  # Ray itself may have gone
                ray.kill(actor)

    def has_room(self, at_once: int = 1) -> bool:
        """Whether another partition would start at once, ``at_once`` of them in a worker."""
        return len(self._busy) < self._room * at_once

    def submit(self, job: PartitionJob, method: str = "run") -> Any:
        """Start a method of an actor on a partition; returns the reference of its result."""
        actor = self._least_busy(self._homes.get(job.partition))
        self._homes[job.partition] = actor
        self._actors[actor] += 1
        reference = getattr(actor, method).remote(job)
        self._busy[reference] = actor
        return reference

    def wait(self) -> list[Any]:
        """References that are ready, after at most the polling interval."""
        ready, _ = ray.wait(list(self._busy), num_returns=len(self._busy), timeout=POLL_SECONDS)
        return list(ready)

    def result(self, reference: Any) -> Any:
        """The result of a ready reference.

        Raises:
            ray.exceptions.RayTaskError: the partition raised an exception.
            ray.exceptions.RayError: the worker died.
        """
        actor = self._busy.pop(reference)
        try:
            result = ray.get(reference)
        except ray.exceptions.RayTaskError:
            raise
        except ray.exceptions.RayError:
            self._actors.pop(actor, None)
            raise
        self._actors[actor] -= 1
        return result

    def trouble(self) -> str:
        """Why a worker can reach no endpoint; empty where all can, or do not say in time."""
        asked = [actor.trouble.remote() for actor in self._actors]
        ready, _ = ray.wait(asked, num_returns=len(asked), timeout=1.0) if asked else ([], [])
        with suppress(ray.exceptions.RayError):
            return next((told for told in ray.get(ready) if told), "")
        return ""

    def stop(self) -> None:
        """Tell the workers to send nothing more and to end their partitions."""
        for actor in self._actors:
            with suppress(ray.exceptions.RayError):
                actor.stop.remote()

    def _least_busy(self, home: Any) -> Any:
        """The least busy actor; of equally busy ones ``home``, where it still lives."""
        if len(self._actors) < self._room:
            self._actors[self._actor.remote(*self._arguments)] = 0
        return min(self._actors, key=lambda actor: (self._actors[actor], actor is not home))
