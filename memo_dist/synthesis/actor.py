"""The Ray actor that works on partitions."""

from __future__ import annotations

import asyncio
from typing import cast

from memo_dist.config.model_schema import GeneratorConfig
from memo_dist.llm.backends.make import make_backends
from memo_dist.llm.router import Router, Stopping
from memo_dist.synthesis.dialogues import first_keys, run_dialogues
from memo_dist.synthesis.types import Step, asks
from memo_dist.synthesis.worker import (
    GeneratorFactory,
    PartitionJob,
    PartResult,
    Unfinished,
    planned_step,
    run_partition,
)


class PartitionWorker:
    """Builds its generator once, then works on one or several partitions at a time.

    Args of the constructor:
        factory: builds the generator.
        config: the endpoints and how to ask them.
        workers: workers that share the endpoints' limits.
    """

    def __init__(self, factory: GeneratorFactory, config: GeneratorConfig, workers: int) -> None:
        self._generator = factory()
        self._config = config
        self._workers = workers
        self._router: Router | None = None
        self._stopped = False

    async def first_keys(self, job: PartitionJob) -> list[str]:
        """See :func:`memo_dist.synthesis.dialogues.first_keys`."""
        step = planned_step(job, self._generator)
        return await asyncio.to_thread(first_keys, job, step) if asks(step) else []

    async def run(self, job: PartitionJob) -> PartResult | Unfinished | None:
        """Work on a partition; None where it only had to ask, or was stopped."""
        step = planned_step(job, self._generator)
        if not asks(step):
            return await asyncio.to_thread(run_partition, job, cast(Step, step))
        if self._stopped:
            return None
        if self._router is None:
            self._router = Router(make_backends(self._config), self._config, self._workers)
        try:
            return await run_dialogues(job, step, self._router, self._config)
        except Stopping:
            return None

    async def trouble(self) -> str:
        """Why no endpoint can be reached; empty while one can."""
        return self._router.trouble if self._router is not None else ""

    async def stop(self) -> None:
        """Send nothing more; partitions at work end once their requests in flight are answered."""
        self._stopped = True
        if self._router is not None:
            self._router.stop()
