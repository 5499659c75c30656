"""A partition of a step that asks a language model: many dialogues at once in one event loop.

Every attempt is in the request journal before its reply reaches the step, so that a partition
that starts again after a kill sends only what was in flight.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

from memo_dist.config.model_schema import GeneratorConfig
from memo_dist.io.runfolder import RunFolder
from memo_dist.llm.asker import Asker, Unanswered
from memo_dist.llm.records import Attempt, RequestJournal
from memo_dist.llm.request_store import RequestStore
from memo_dist.llm.requests import Failure, OpenRequest, Reply, Request
from memo_dist.llm.router import Router
from memo_dist.synthesis.journal import Journal, Record
from memo_dist.synthesis.plan import UnitReader, UnitSpec
from memo_dist.synthesis.types import Dialogue, Reflection, RequestStep, StepResult, Unit
from memo_dist.synthesis.worker import (
    PartitionJob,
    PartResult,
    Unfinished,
    failure_record,
    journal_path,
    requests_path,
    result_record,
    store_path,
    unit_inputs,
    unit_key,
    write_parts,
)

KEY_DIGITS = 32
"""Digits of a request's key by which owners are told apart."""
SYNC_SECONDS = 2.0


def first_keys(job: PartitionJob, step: RequestStep) -> list[str]:
    """The beginnings of the keys of all requests in the first rounds of a partition's units."""
    run = RunFolder(job.root)
    found: dict[str, None] = {}
    with UnitReader(run.corpus, job.seed) as reader:
        for spec, inputs in zip(job.units, unit_inputs(run, job), strict=True):
            for request in first_round(step, reader.read(spec), inputs):
                found[request.key[:KEY_DIGITS]] = None
    return list(found)


def first_round(step: RequestStep, unit: Unit, inputs: Sequence[Reflection]) -> Sequence[Request]:
    """The first requests of a unit; none where the step raises (the run itself reports that)."""
    dialogue = step.dialogue(unit, inputs)
    try:
        return next(dialogue, ())
    except Exception:
        return ()
    finally:
        dialogue.close()


async def run_dialogues(
    job: PartitionJob, step: RequestStep, router: Router, config: GeneratorConfig
) -> PartResult | Unfinished | None:
    """Do the units that the journal lacks, then write the part files; None with ``ask_only``.

    Units whose replies are still to come stay as they are, and no part file is written.

    Raises:
        RunError: the endpoints are of no use, or a reflection left its unit.
        Stopping: the run stops; what was in flight was waited for and journaled.
        OSError: the run folder cannot be written.
    """
    run = RunFolder(job.root)
    journal_file = journal_path(run, job.step, job.partition)
    with UnitReader(run.corpus, job.seed) as reader, Journal(journal_file) as journal:
        async with _asker(job, run, router, config) as asker:
            work = _Partition(job, step, reader, journal, asker)
            await work.run(config.max_in_flight)
        if job.ask_only:
            return None
        return work.unfinished() or write_parts(run, job, work.keys, journal)


@contextlib.asynccontextmanager
async def _asker(
    job: PartitionJob, run: RunFolder, router: Router, config: GeneratorConfig
) -> AsyncIterator[Asker]:
    """An asker on the partition's request journal; at the end nothing is in flight any more."""
    journal = RequestJournal(requests_path(run, job.step, job.partition))
    others = _Others(run, job)
    asker = Asker(config, router, journal, others.history)
    syncing = asyncio.create_task(_sync_now_and_then(journal))
    try:
        yield asker
    finally:
        await asker.drain()
        syncing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await syncing
        journal.sync()
        journal.close()
        others.close()


async def _sync_now_and_then(journal: RequestJournal) -> None:
    while True:
        await asyncio.sleep(SYNC_SECONDS)
        await asyncio.shield(asyncio.to_thread(journal.sync))


class _Others:
    """Replies to requests that were not asked here: from the store of closed journals, and of
    those that lower partitions own from their journals."""

    def __init__(self, run: RunFolder, job: PartitionJob) -> None:
        self._run = run
        self._job = job
        self._store = RequestStore(store_path(run, job.step))
        self._journals: dict[int, RequestJournal] = {}

    def history(self, key: str) -> list[Attempt]:
        """The attempts of a request that is settled elsewhere; else none."""
        stored = self._store.history(key)
        owner = self._job.owners.get(key[:KEY_DIGITS])
        if stored or owner is None:
            return stored
        if owner not in self._journals:
            path = requests_path(self._run, self._job.step, owner)
            self._journals[owner] = RequestJournal(path)
        history = self._journals[owner].history(key)
        return history if history and history[-1].final else []

    def close(self) -> None:
        """Close the journals."""
        self._store.close()
        for journal in self._journals.values():
            journal.close()


class _Partition:
    """The units of one partition, taken from one iterator by as many tasks as may be in flight."""

    def __init__(
        self,
        job: PartitionJob,
        step: RequestStep,
        reader: UnitReader,
        journal: Journal,
        asker: Asker,
    ) -> None:
        self.keys: list[str] = []
        self._open: dict[str, Sequence[OpenRequest]] = {}
        self._job = job
        self._step = step
        self._reader = reader
        self._journal = journal
        self._asker = asker

    async def run(self, tasks: int) -> None:
        """Do all units; the first error ends the others, whose requests are waited for."""
        work = self._units()
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(tasks, len(self._job.units))):
                    group.create_task(self._take(work))
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None

    def unfinished(self) -> Unfinished | None:
        """What units still wait for; None where all are done."""
        requests = {
            item.request.key: item
            for unit in self._job.units
            for item in self._open.get(unit.id, ())
        }
        return Unfinished(tuple(requests.values())) if requests else None

    def _units(self) -> Iterator[tuple[UnitSpec, list[Reflection], str]]:
        """The units that are not done; notes the keys of all."""
        inputs = unit_inputs(RunFolder(self._job.root), self._job)
        for spec, rows in zip(self._job.units, inputs, strict=True):
            key = unit_key(self._job, rows)
            self.keys.append(key)
            if not self._journal.has_result(spec.id, key):
                yield spec, rows, key

    async def _take(self, work: Iterator[tuple[UnitSpec, list[Reflection], str]]) -> None:
        for spec, inputs, key in work:
            unit = self._reader.read(spec)
            try:
                if self._job.ask_only:
                    asked = first_round(self._step, unit, inputs)
                    owned = [r for r in asked if r.key[:KEY_DIGITS] not in self._job.owners]
                    if len(owned) < len(asked):
                        await self._asker.ask_all(owned)
                        continue
                record = await self._unit(unit, inputs, key)
            except Unanswered as left:
                self._open[spec.id] = left.requests
                continue
            self._journal.append(record, sync=False)

    async def _unit(self, unit: Unit, inputs: Sequence[Reflection], key: str) -> Record:
        quarantine: list[dict[str, Any]] = []
        replies: list[Reply] | None = None
        dialogue = self._step.dialogue(unit, inputs)
        while True:
            try:
                requests = _advance(dialogue, replies)
            except Exception as error:
                return failure_record(unit, key, error)
            if isinstance(requests, StepResult):
                return result_record(unit, key, requests, quarantine)
            replies = await self._asker.ask_all(requests)
            quarantine += [_quarantined(r, unit) for r in replies if isinstance(r, Failure)]


def _advance(dialogue: Dialogue, replies: Sequence[Reply] | None) -> Sequence[Request] | StepResult:
    """The next round of a dialogue, or its result."""
    try:
        return next(dialogue) if replies is None else dialogue.send(replies)
    except StopIteration as end:
        result: StepResult = end.value
        return result


def _quarantined(failure: Failure, unit: Unit) -> dict[str, Any]:
    return {
        "reason": f"request: {failure.reason}",
        "raw": failure.raw,
        "sources": [document.id for document in unit.documents],
        "request": failure.key,
        "attempts": failure.attempts,
    }
