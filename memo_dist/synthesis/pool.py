"""The Ray actors that work on partitions."""

from __future__ import annotations

from contextlib import suppress
from typing import Any, NamedTuple

import ray

from memo_dist.cluster.resources import Resources
from memo_dist.config.model_schema import GeneratorConfig
from memo_dist.llm.backends.make import LOCAL_KINDS, MODEL_KINDS
from memo_dist.synthesis.actor import PartitionWorker
from memo_dist.synthesis.worker import GeneratorFactory, PartitionJob

POLL_SECONDS = 0.25
CORES_A_WAITING_WORKER = 0.25
"""Workers that ask a service mostly wait: four of them share a core."""


class Share(NamedTuple):
    """Cores and GPUs of one worker."""

    cores: float
    gpus: float


def worker_share(kind: str, offered: Resources) -> tuple[Share, int]:
    """What a worker of a kind of generator needs, and how many fit.

    One that computes with a model has a GPU of its own where there are GPUs: a copy of the model a
    core would fill the first of them.

    Args:
        kind: ``generator.kind``.
        offered: what Ray has.
    """
    if kind in MODEL_KINDS and offered.gpus:
        return Share(1.0, 1.0), min(offered.cores, offered.gpus)
    cores = 1.0 if kind in LOCAL_KINDS else CORES_A_WAITING_WORKER
    return Share(cores, 0.0), int(offered.cores / cores)


class WorkerPool:
    """Ray actors that wait for a partition; a dead one is replaced by a new one.

    Args of the constructor:
        factory: builds the generator inside a worker.
        config: group ``generator``.
        workers: actors.
        share: what Ray sets aside for each.
    """

    def __init__(
        self, factory: GeneratorFactory, config: GeneratorConfig, workers: int, share: Share
    ) -> None:
        self._arguments = (factory, config, workers)
        self._actor = ray.remote(num_cpus=share.cores, num_gpus=share.gpus, max_restarts=0)(
            PartitionWorker
        )
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
