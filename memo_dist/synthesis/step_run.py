"""One step of a synthesis as its driver sees it: partitions, worker deaths, progress, gates."""

from __future__ import annotations

import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import ray

from memo_dist.config.schema import Config
from memo_dist.config.steps import StepName
from memo_dist.errors import MemoDistError, RunError, StoppedError
from memo_dist.io.runfolder import RunFolder
from memo_dist.llm.spending import Spending, exhausted
from memo_dist.observability.progress import ProgressReport, progress
from memo_dist.observability.status import StatusWriter
from memo_dist.synthesis.plan import Plan, StepUnits
from memo_dist.synthesis.pool import WorkerPool
from memo_dist.synthesis.tally import RequestTally, Tally
from memo_dist.synthesis.types import in_force
from memo_dist.synthesis.unanswered import leave_open, settle
from memo_dist.synthesis.worker import (
    PartitionJob,
    PartResult,
    Unfinished,
    journal_path,
    requests_path,
)

logger = logging.getLogger(__name__)

MAX_DEATHS = 3
"""Worker deaths in a row, with nothing journaled between them, that a partition survives."""
STATUS_SECONDS = 5.0
TROUBLE_SECONDS = 30.0
PARTITIONS_AT_ONCE = 2
"""Partitions of a step that asks, in one worker: the next one begins while the last answers of
one are awaited."""
LEAST_REQUESTS = 50
"""Settled requests before their failures can end a step that is not done."""


@dataclass(frozen=True)
class Driver:
    """What all steps of one launch share."""

    run: RunFolder
    config: Config
    plan: Plan
    should_stop: Callable[[], bool]
    status: StatusWriter


@dataclass(frozen=True)
class StepTask:
    """One step of one launch.

    Attributes:
        name, version: the step.
        units: its units.
        earlier: (step, its parts) of the complete steps before that have the same units.
        asks: whether it asks a language model.
        before: what the earlier steps have cost.
    """

    name: StepName
    version: str
    units: StepUnits
    earlier: list[tuple[StepName, list[PartResult]]]
    asks: bool
    before: Spending


class StepRun:
    """One step: partitions that wait, run and are done, and the numbers to show.

    A step that asks goes through up to three rounds over its partitions: ``first_keys`` finds
    requests that several partitions would ask, partitions that need another one's requests first
    ask their own, and then everything runs.
    """

    def __init__(self, driver: Driver, pool: WorkerPool, task: StepTask) -> None:
        self._driver = driver
        self._pool = pool
        self._task = task
        count = driver.plan.partitions
        self._waiting: deque[int] = deque()
        self._running: dict[Any, int] = {}
        self._results: dict[int, Any] = {}
        self._ended: set[int] = set()
        """Partitions that ended since the journals were read last."""
        self._owners: dict[int, dict[str, int]] = {index: {} for index in range(count)}
        self._deaths: dict[int, list[str]] = {index: [] for index in range(count)}
        self._journaled: dict[int, int] = {}
        units = [unit.id for unit in task.units.units]
        self._tally = Tally(driver.run, task.name, count, units)
        self._requests = RequestTally(driver.run, task.name, count, task.before)
        self._next_status = self._next_trouble = 0.0
        self._first_tokens = 0
        self._start = time.monotonic()

    def run(self) -> list[PartResult]:
        """Run all partitions; returns their results in partition order.

        Raises:
            AwaitingRepliesError, RunError: requests have no reply; all that could be asked were.
            StoppedError: a stop was requested, or the budget is used up.
        """
        total = len(self._task.units.units)
        self._read_journals()
        self._tally.forget_failed()
        self._first_tokens = self._requests.step.tokens
        name = self._task.name
        with progress(total, f"synthesize {name}", done=self._tally.units) as report:
            everything = list(range(self._driver.plan.partitions))
            if self._task.asks:
                self._check_budget()
                self._find_owners(report, everything)
                dependent = [index for index in everything if self._owners[index]]
                free = [index for index in everything if not self._owners[index]]
                done = self._round(report, free, dependent)
                parts = {**done, **self._round(report, dependent)}
            else:
                parts = self._round(report, everything)
            self._next_status = 0.0
            self._read_journals()
            self._watch(report)
        self._check_replies([parts[index] for index in everything])
        return [parts[index] for index in everything]

    @property
    def spent(self) -> Spending:
        """Of this step, earlier launches and revisions of the corpus included."""
        return self._requests.whole_step

    def _find_owners(self, report: ProgressReport, partitions: list[int]) -> None:
        """A request of several first rounds belongs to the lowest partition that holds it."""
        if len(partitions) < 2:
            return
        keys = self._round(report, partitions, method="first_keys")
        count = Counter(key for index in partitions for key in keys[index])
        owner: dict[str, int] = {}
        for index in partitions:
            for key in keys[index]:
                if count[key] > 1 and owner.setdefault(key, index) != index:
                    self._owners[index][key] = owner[key]

    def _round(
        self,
        report: ProgressReport,
        partitions: list[int],
        ask_only: list[int] | None = None,
        method: str = "run",
    ) -> dict[int, Any]:
        """One method over partitions; ``ask_only`` ones only ask what they own."""
        self._results = {}
        self._waiting = deque(sorted([*partitions, *(ask_only or [])]))
        asking = frozenset(ask_only or [])
        while self._waiting or self._running:
            self._fill(method, asking)
            for reference in self._pool.wait():
                self._collect(reference)
            self._watch(report)
        return {index: self._results[index] for index in partitions}

    def _fill(self, method: str, asking: frozenset[int]) -> None:
        at_once = PARTITIONS_AT_ONCE if self._task.asks else 1
        while self._waiting and self._pool.has_room(at_once):
            partition = self._waiting.popleft()
            job = self._job(partition, partition in asking)
            self._running[self._pool.submit(job, method)] = partition

    def _job(self, partition: int, ask_only: bool) -> PartitionJob:
        earlier = self._task.earlier
        return PartitionJob(
            root=self._driver.run.root.absolute(),
            step=self._task.name,
            version=self._task.version,
            partition=partition,
            units=self._task.units.partition(partition),
            earlier=tuple(
                (name, parts[partition].rows)
                for name, parts in in_force(earlier, lambda step: step[0])
            ),
            recipe=self._driver.plan.recipe,
            seed=self._driver.config.run.seed,
            owners=self._owners[partition],
            ask_only=ask_only,
        )

    def _collect(self, reference: Any) -> None:
        partition = self._running.pop(reference)
        self._ended.add(partition)
        try:
            self._results[partition] = self._pool.result(reference)
        except ray.exceptions.RayTaskError as error:
            cause = error.cause
            if isinstance(cause, MemoDistError):
                raise cause from None
            detail = repr(cause)
            if isinstance(cause, OSError):
                folder = self._driver.run.step(self._task.name)
                detail = f"cannot read or write {folder}: {cause.strerror or cause}"
            raise RunError(f"step {self._task.name}, partition {partition}: {detail}") from error
        except ray.exceptions.RayError as error:
            self._died(partition, error)

    def _died(self, partition: int, error: Exception) -> None:
        """A worker is gone (killed, out of memory, lost node): the partition goes on elsewhere."""
        self._check_stop()  # a signal to the whole process group ends Ray before the driver
        deaths = self._deaths[partition]
        if self._has_advanced(partition):
            deaths.clear()
        deaths.append(f"{type(error).__name__}: {error}")
        self._read_journals()
        units = self._task.units.partition(partition)
        unit = next((unit for unit in units if unit.id not in self._tally), None)
        names = ", ".join(name for name, _ in unit.documents) if unit else "none"
        where = f"step {self._task.name}, partition {partition}, next documents {names}"
        if len(deaths) > MAX_DEATHS:
            raise RunError(f"{where}: its worker died {len(deaths)} times; first: {deaths[0]}")
        logger.warning("%s: its worker died, starting another: %s", where, deaths[-1])
        self._waiting.appendleft(partition)

    def _has_advanced(self, partition: int) -> bool:
        """Whether a partition's journals have grown since its worker died last: a document that
        ends every worker makes no progress, a partition on machines that come and go does."""
        run, name = self._driver.run, self._task.name
        paths = (journal_path(run, name, partition), requests_path(run, name, partition))
        size = sum(path.stat().st_size for path in paths if path.exists())
        before = self._journaled.get(partition, size)
        self._journaled[partition] = size
        return size > before

    def _watch(self, report: ProgressReport) -> None:
        # Only where somebody writes: several times a second, and partitions may be hundreds.
        self._read_journals({*self._running.values(), *self._ended})
        self._ended.clear()
        numbers = self._numbers(report)
        report.advance(self._tally.units - report.done, **numbers)
        if time.monotonic() >= self._next_status:
            self._next_status = time.monotonic() + STATUS_SECONDS
            values: dict[str, Any] = {"stage": "synthesize", "step": self._task.name, **numbers}
            values |= {"done": report.done, "total": report.total}
            values["units_per_second"] = round(report.rate, 4)
            if self._task.asks:
                self._tell_trouble()
            self._driver.status.status("running", **values)
            self._driver.status.metric(**values)
        self._check_failures()
        self._check_stop()
        if self._task.asks and (self._waiting or self._running):
            self._check_budget()

    def _tell_trouble(self) -> None:
        """Say while endpoints cannot be reached: a misspelt host never heals."""
        trouble = self._pool.trouble()
        if trouble and time.monotonic() >= self._next_trouble:
            self._next_trouble = time.monotonic() + TROUBLE_SECONDS
            patience = self._driver.config.generator.patience
            logger.warning(
                "cannot reach %s; trying for generator.patience=%g s (see generator.urls)",
                trouble,
                patience,
            )

    def _numbers(self, report: ProgressReport) -> dict[str, float | int]:
        numbers: dict[str, float | int] = dict(self._tally.numbers())
        if self._task.asks and self._driver.config.generator.kind == "recorded":
            requests = self._requests.step
            numbers |= {"replies": requests.answered, "given_up": requests.failed}
        elif self._task.asks:
            fraction = self._tally.units / max(1, report.total)
            numbers |= self._requests.numbers(self._driver.config.generator, fraction)
            tokens = self._requests.step.tokens - self._first_tokens
            seconds = max(time.monotonic() - self._start, 1e-9)
            numbers["tokens_per_second"] = round(tokens / seconds, 1)
        return numbers

    def _check_failures(self) -> None:
        """End as soon as the step cannot pass any more."""
        config, name = self._driver.config, self._task.name
        limit = config.synthesis.max_rejected_fraction
        total, failures = len(self._task.units.units), self._tally.failures
        folder = journal_path(self._driver.run, name, 0).parent
        if len(failures) > limit * total:
            raise RunError(
                f"step {name}: {len(failures)} of {total} units failed, more than "
                f"synthesis.max_rejected_fraction={limit}; the first: {failures[0]}; tracebacks "
                f"in {folder}"
            )
        asked = self._requests.step
        limit = config.generator.max_failed_fraction
        if asked.requests >= LEAST_REQUESTS and asked.failed > limit * asked.requests:
            raise RunError(
                f"step {name}: {asked.failed} of {asked.requests} requests got no valid answer, "
                f"more than generator.max_failed_fraction={limit}; the first: "
                f"{self._requests.first_failure}; all answers in {folder}"
            )

    def _check_replies(self, parts: list[Any]) -> None:
        """End where units wait for replies."""
        left = [item for part in parts if isinstance(part, Unfinished) for item in part.requests]
        settings, task = self._driver.config.generator, self._task
        if left:
            leave_open(settings, task.name, task.version, left, self._requests.step.requests)
        settle(settings)

    def _check_stop(self) -> None:
        if self._driver.should_stop():
            self._stop("stopped")

    def _check_budget(self) -> None:
        used_up = exhausted(self._requests.spent, self._driver.config.generator)
        if used_up:
            self._stop(f"stopped by the budget: {used_up}; raise it to go on")

    def _stop(self, why: str) -> None:
        self._drain()
        raise StoppedError(
            f"{why}, in step {self._task.name} with {self._tally.units} of "
            f"{len(self._task.units.units)} units done: run the same command again"
        )

    def _drain(self) -> None:
        """Let the requests in flight be answered: they are paid for."""
        if not self._task.asks:
            return
        deadline = time.monotonic() + self._driver.config.generator.drain_seconds
        self._pool.stop()
        while self._running and time.monotonic() < deadline:
            for reference in self._pool.wait():
                self._running.pop(reference, None)
                try:
                    self._pool.result(reference)
                except ray.exceptions.RayError as error:  # the run ends anyway
                    logger.warning("while stopping: %s", error)
        self._read_journals()

    def _read_journals(self, partitions: Iterable[int] | None = None) -> None:
        """Count what is new in the journals of some partitions; None: of all."""
        chosen = range(self._driver.plan.partitions) if partitions is None else partitions
        self._tally.read(chosen)
        if self._task.asks:
            self._requests.read(chosen)
