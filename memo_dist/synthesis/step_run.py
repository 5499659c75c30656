"""One step of a synthesis as its driver sees it: partitions, worker deaths, progress, gates."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ray

from memo_dist.config.schema import Config
from memo_dist.errors import MemoDistError, RunError, StoppedError
from memo_dist.io.runfolder import RunFolder
from memo_dist.observability.progress import ProgressReport, progress
from memo_dist.observability.status import StatusWriter
from memo_dist.synthesis.journal import JournalTail, Record
from memo_dist.synthesis.plan import Plan
from memo_dist.synthesis.pool import WorkerPool
from memo_dist.synthesis.types import StepName, in_force
from memo_dist.synthesis.worker import PartitionJob, PartResult, journal_path

logger = logging.getLogger(__name__)

MAX_DEATHS = 3
"""Worker deaths that one partition of one step survives in one launch."""
STATUS_SECONDS = 5.0


@dataclass(frozen=True)
class Driver:
    """What all steps of one launch share."""

    run: RunFolder
    config: Config
    plan: Plan
    should_stop: Callable[[], bool]
    status: StatusWriter


class Tally:
    """Counts over the latest record of each unit."""

    def __init__(self) -> None:
        self._records: dict[str, tuple[int, int, str]] = {}
        self._reflections = 0
        self._rejected = 0

    def __contains__(self, unit: str) -> bool:
        return unit in self._records

    @property
    def units(self) -> int:
        """Units that are done, failed ones included."""
        return len(self._records)

    @property
    def failures(self) -> list[str]:
        """The exceptions of the failed units."""
        return [failure for _, _, failure in self._records.values() if failure]

    def numbers(self) -> dict[str, int]:
        """The numbers to show."""
        return {
            "reflections": self._reflections,
            "rejected": self._rejected,
            "failed": len(self.failures),
        }

    def add(self, record: Record) -> None:
        """Count a record instead of the unit's earlier one, if any."""
        self._remove(record.unit)
        failure = record.rejected[0]["reason"] if record.failed else ""
        row = len(record.reflections), 0 if failure else len(record.rejected), failure
        self._records[record.unit] = row
        self._reflections += row[0]
        self._rejected += row[1]

    def forget_failed(self) -> None:
        """Take out the failed units: a new launch tries them again."""
        for unit in [unit for unit, row in self._records.items() if row[2]]:
            self._remove(unit)

    def _remove(self, unit: str) -> None:
        reflections, rejected, _ = self._records.pop(unit, (0, 0, ""))
        self._reflections -= reflections
        self._rejected -= rejected


class StepRun:
    """One step: partitions that wait, run and are done, and the numbers to show."""

    def __init__(
        self,
        driver: Driver,
        pool: WorkerPool,
        name: StepName,
        version: str,
        earlier: list[tuple[StepName, list[PartResult]]],
    ) -> None:
        self._driver = driver
        self._pool = pool
        self._name = name
        self._version = version
        self._earlier = earlier
        partitions = range(driver.plan.partitions)
        self._waiting = deque(partitions)
        self._running: dict[Any, int] = {}
        self._parts: dict[int, PartResult] = {}
        self._deaths: dict[int, list[str]] = {index: [] for index in partitions}
        self._tails = [JournalTail(journal_path(driver.run, name, p)) for p in partitions]
        self._tally = Tally()
        self._next_status = 0.0

    def run(self) -> list[PartResult]:
        """Run all partitions; returns their results in partition order."""
        total = len(self._driver.plan.units)
        self._read_journals()
        self._tally.forget_failed()
        with progress(total, f"synthesize {self._name}", done=self._tally.units) as report:
            while self._waiting or self._running:
                self._fill()
                for reference in self._pool.wait():
                    self._collect(reference)
                self._watch(report)
            self._next_status = 0.0
            self._watch(report)
        return [self._parts[index] for index in sorted(self._parts)]

    def _fill(self) -> None:
        while self._waiting and self._pool.has_room:
            partition = self._waiting.popleft()
            self._running[self._pool.submit(self._job(partition))] = partition

    def _job(self, partition: int) -> PartitionJob:
        return PartitionJob(
            root=self._driver.run.root.absolute(),
            step=self._name,
            version=self._version,
            partition=partition,
            units=self._driver.plan.partition(partition),
            earlier=tuple(
                (name, parts[partition].rows)
                for name, parts in in_force(self._earlier, lambda step: step[0])
            ),
            plan=self._driver.plan.hash,
            seed=self._driver.config.run.seed,
        )

    def _collect(self, reference: Any) -> None:
        partition = self._running.pop(reference)
        try:
            self._parts[partition] = self._pool.result(reference)
        except ray.exceptions.RayTaskError as error:
            cause = error.cause
            if isinstance(cause, MemoDistError):
                raise cause from None
            detail = repr(cause)
            if isinstance(cause, OSError):
                folder = self._driver.run.step(self._name)
                detail = f"cannot read or write {folder}: {cause.strerror or cause}"
            raise RunError(f"step {self._name}, partition {partition}: {detail}") from error
        except ray.exceptions.RayError as error:
            self._died(partition, error)

    def _died(self, partition: int, error: Exception) -> None:
        """A worker is gone (killed, out of memory, lost node): the partition goes on elsewhere."""
        self._check_stop()  # a signal to the whole process group ends Ray before the driver
        deaths = self._deaths[partition]
        deaths.append(f"{type(error).__name__}: {error}")
        self._read_journals()
        units = self._driver.plan.partition(partition)
        unit = next((unit for unit in units if unit.id not in self._tally), None)
        names = ", ".join(name for name, _ in unit.documents) if unit else "none"
        where = f"step {self._name}, partition {partition}, next documents {names}"
        if len(deaths) > MAX_DEATHS:
            raise RunError(f"{where}: its worker died {len(deaths)} times; first: {deaths[0]}")
        logger.warning("%s: its worker died, starting another: %s", where, deaths[-1])
        self._waiting.appendleft(partition)

    def _watch(self, report: ProgressReport) -> None:
        self._read_journals()
        numbers = self._tally.numbers()
        report.advance(self._tally.units - report.done, **numbers)
        if time.monotonic() >= self._next_status:
            self._next_status = time.monotonic() + STATUS_SECONDS
            values: dict[str, Any] = {"stage": "synthesize", "step": self._name, **numbers}
            values |= {"done": report.done, "total": report.total}
            values["units_per_second"] = round(report.rate, 4)
            self._driver.status.status("running", **values)
            self._driver.status.metric(**values)
        self._check_failures()
        self._check_stop()

    def _check_failures(self) -> None:
        """End as soon as the step cannot pass any more."""
        limit = self._driver.config.synthesis.max_rejected_fraction
        total, failures = len(self._driver.plan.units), self._tally.failures
        if len(failures) > limit * total:
            raise RunError(
                f"step {self._name}: {len(failures)} of {total} units failed, more than "
                f"synthesis.max_rejected_fraction={limit}; the first: {failures[0]}; tracebacks "
                f"in {journal_path(self._driver.run, self._name, 0).parent}"
            )

    def _check_stop(self) -> None:
        if self._driver.should_stop():
            raise StoppedError(
                f"stopped in step {self._name} with {self._tally.units} of "
                f"{len(self._driver.plan.units)} units done: run the same command again"
            )

    def _read_journals(self) -> None:
        for tail in self._tails:
            for record in tail.new_records():
                self._tally.add(record)
