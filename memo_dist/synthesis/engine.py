"""The driver of a synthesis: one step after another, its partitions over Ray workers.

Only the driver writes manifests, STATUS.json and metrics.jsonl; only a worker writes a journal
and a part file. Whatever is killed, running the same command again yields the same bytes: the
journals hold what was done, everything else is derived.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import reduce
from pathlib import Path
from typing import Any

from memo_dist.cluster.ray_local import await_workers, ray_session
from memo_dist.cluster.resources import Resources
from memo_dist.config.model_schema import GeneratorConfig
from memo_dist.config.schema import Config
from memo_dist.config.steps import StepName
from memo_dist.errors import InterruptedRunError, RunError, StoppedError, UsageError
from memo_dist.io.atomic import write_json
from memo_dist.io.runfolder import RunFolder
from memo_dist.llm.backends.make import check_key
from memo_dist.llm.spending import Spending
from memo_dist.observability.status import StatusWriter, read_status
from memo_dist.synthesis.finish import SynthesisSummary, finish, finished_summary
from memo_dist.synthesis.finish_remote import finish_remotely
from memo_dist.synthesis.group_units import grouped_units
from memo_dist.synthesis.plan import StepUnits, make_plan
from memo_dist.synthesis.pool import WorkerPool, worker_share
from memo_dist.synthesis.stages import (
    complete_parts,
    write_complete,
    write_grouped,
    write_planned,
)
from memo_dist.synthesis.step_run import Driver, StepRun, StepTask
from memo_dist.synthesis.tally import spending_row, step_spending
from memo_dist.synthesis.types import AnyStep, Generator, asks, groups_documents, in_force
from memo_dist.synthesis.worker import GeneratorFactory, PartResult

logger = logging.getLogger(__name__)


def never() -> bool:
    """The stop request of a run that is never stopped."""
    return False


def synthesize(
    run: RunFolder,
    config: Config,
    generator_factory: GeneratorFactory,
    should_stop: Callable[[], bool] = never,
) -> SynthesisSummary:
    """Turn ``RUN/corpus`` into ``RUN/reflections.jsonl``; resumes what an earlier call began.

    Args:
        run: the run folder; on a cluster it must be on a file system that all nodes share.
        config: groups run, corpus, generator, synthesis and cluster are read.
        generator_factory: builds the generator, here and in each worker; it travels by
            reference, so it must be importable there.
        should_stop: polled several times a second.

    Raises:
        UsageError: no corpus, unknown steps, or a synthesis with other settings is there.
        RunError: too many units failed, a worker kept dying, a reflection left its shard.
        StoppedError: ``should_stop`` said so; what is journaled is kept.
        AwaitingRepliesError: replies that come as files are missing; their prompts are written.
    """
    generator = generator_factory()
    plan = make_plan(run.corpus, config, generator)
    finished = finished_summary(run, plan)
    if finished is not None:
        return finished
    with _ending(run):
        check_key(config.generator)
        steps = generator.steps()
        write_planned(run, plan, [name for name in steps if groups_documents(steps[name])])
        status = StatusWriter(run.synth)
        driver = Driver(run, config, plan, should_stop, status)
        state = _Progress(driver, generator)
        remaining = state.skip_complete()
        if remaining:
            with ray_session(config.cluster) as offered:
                await_workers(config.cluster)
                _run_steps(state, remaining, generator_factory, offered)
                summary = finish_remotely(run, plan, config.synthesis)
        else:  # a launch was killed at its end, or damaged reflections are written anew: no Ray
            summary = finish(run, plan, config.synthesis)
        _report(status, summary)
    return summary


@contextmanager
def _ending(run: RunFolder) -> Iterator[None]:
    """Leave a status that says how the work ended, whatever ended it."""
    try:
        yield
    except BaseException as error:
        before = read_status(run.synth) or {}
        if isinstance(error, UsageError) and before.get("state") != "running":
            raise  # nothing was started: the status of the work before stays true
        stopped = isinstance(error, (StoppedError, InterruptedRunError, KeyboardInterrupt))
        with suppress(OSError):  # on a full disk the first error is the one to show
            message = f"{type(error).__name__}: {error}"
            state = "stopped" if stopped else "failed"
            StatusWriter(run.synth).status(state, stage="synthesize", message=message)
        if isinstance(error, OSError):
            raise RunError(f"cannot write {run.synth}: {error.strerror or error}") from error
        raise


def _report(status: StatusWriter, summary: SynthesisSummary) -> None:
    numbers: dict[str, Any] = {
        "reflections": summary.reflections,
        "documents": len(summary.documents),
        "documents_without_reflections": len(summary.without_reflections),
        "failed_units": summary.failed_units,
        "rejected": sum(summary.rejected.values()) - summary.failed_units,
        "dropped": sum(summary.dropped.values()),
    }
    status.status("done", stage="synthesize", **numbers)
    logger.info("synthesis complete: %s", ", ".join(f"{k} {v}" for k, v in numbers.items()))
    for note in summary.notes:
        logger.warning(note)


def _run_steps(
    state: _Progress,
    remaining: Sequence[tuple[StepName, str]],
    factory: GeneratorFactory,
    offered: Resources,
) -> None:
    """Run the steps that are not complete, on at most what Ray ``offered``."""
    config, plan = state.driver.config, state.driver.plan
    settings = _placed(config.generator)
    share, most = worker_share(settings.kind, offered)
    target = config.cluster.synthesis_workers or offered.cores
    workers = max(1, min(target, most, plan.partitions))
    with WorkerPool(factory, settings, workers, share) as pool:
        for name, _ in remaining:
            state.run(pool, name)


def _placed(settings: GeneratorConfig) -> GeneratorConfig:
    """The settings for workers, whose working folder may be another."""
    recording = settings.recording and str(Path(settings.recording).absolute())
    return replace(settings, recording=recording)


class _Progress:
    """The steps of one launch: which are complete, with what, and what they have cost."""

    def __init__(self, driver: Driver, generator: Generator) -> None:
        self.driver = driver
        self._steps = generator.steps()
        self._done: list[tuple[StepName, list[PartResult]]] = []
        self._costs: dict[str, Spending] = {}

    def skip_complete(self) -> list[tuple[StepName, str]]:
        """Take the complete steps at the beginning as they are; returns the others."""
        plan = self.driver.plan
        for name, _ in plan.steps:
            parts = complete_parts(self.driver.run, plan, name)
            if parts is None:
                break
            self._finish(name, parts, step_spending(self.driver.run, name, plan.partitions))
        return list(plan.steps[len(self._done) :])

    def run(self, pool: WorkerPool, name: StepName) -> None:
        """Run one step to its end and mark it complete."""
        driver, step = self.driver, self._steps[name]
        units = self._units(step)
        task = StepTask(
            name=name,
            version=step.version,
            units=units,
            earlier=[] if units.grouped else self._with_plan_units(),
            asks=asks(step),
            before=self._total(),
        )
        work = StepRun(driver, pool, task)
        try:
            parts = work.run()
        finally:
            self._write_costs({**self._costs, name: work.spent})
        write_complete(driver.run, driver.plan, name, units, parts)
        self._finish(name, parts, work.spent)

    def _units(self, step: AnyStep) -> StepUnits:
        """The plan's units, or those of the step's groups."""
        plan, run = self.driver.plan, self.driver.run
        if not groups_documents(step):
            return StepUnits(plan.units, plan.partitions)
        earlier = in_force([name for name, _ in self._done], str)
        units = grouped_units(run, plan, step, earlier)
        write_grouped(run, plan, step.name, units)
        return units

    def _with_plan_units(self) -> list[tuple[StepName, list[PartResult]]]:
        """The complete steps whose reflections belong to the plan's units."""
        return [row for row in self._done if not groups_documents(self._steps[row[0]])]

    def _finish(self, name: StepName, parts: list[PartResult], spent: Spending) -> None:
        self._done.append((name, parts))
        self._costs[name] = spent

    def _total(self) -> Spending:
        return reduce(Spending.plus, self._costs.values(), Spending())

    def _write_costs(self, costs: dict[str, Spending]) -> None:
        prices = self.driver.config.generator
        rows = {
            name: spending_row(spent, prices) for name, spent in costs.items() if spent.attempts
        }
        if rows:
            write_json(self.driver.run.synth / "cost.json", rows)
