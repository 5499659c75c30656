"""The work of one partition of one step, as a Ray worker does it; and what its files are.

The journal is the truth, the part files are derived from it: a worker that is started again
after a kill at any moment does the missing units, and writes the same part files.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from memo_dist.config.steps import StepName
from memo_dist.errors import RunError
from memo_dist.io.atomic import read_jsonl, row_at, write_jsonl
from memo_dist.io.hashing import hash_file, short_hash
from memo_dist.io.runfolder import RunFolder
from memo_dist.llm.requests import OpenRequest
from memo_dist.synthesis.journal import Journal, Record
from memo_dist.synthesis.plan import UnitReader, UnitSpec
from memo_dist.synthesis.types import AnyStep, Generator, Reflection, Step, StepResult, Unit

GeneratorFactory = Callable[[], Generator]
"""Builds the generator inside a worker; importable there (``functools.partial`` of a class)."""

REQUEST_JOURNALS = "journal/requests-*.jsonl"
"""The request journals of all partitions of a step, as :func:`requests_path` names them."""
FAILED = "failed"
"""Reason under which units that raised an exception are counted."""


@dataclass(frozen=True, slots=True)
class PartResult:
    """A partition's part files: what the step's manifest records.

    Attributes:
        rows: reflections of each unit, in unit order: tells a later step where a unit ends.
        reflections_sha256, quarantine_sha256: hashes of the two files.
        failed: units whose step raised an exception.
    """

    rows: tuple[int, ...]
    reflections_sha256: str
    quarantine_sha256: str
    failed: int


@dataclass(frozen=True, slots=True)
class Unfinished:
    """A partition some of whose units wait for replies.

    Attributes:
        requests: what they wait for, each once, in unit order.
    """

    requests: tuple[OpenRequest, ...]


@dataclass(frozen=True, slots=True)
class PartitionJob:
    """One partition of one step.

    Attributes:
        root: the run folder.
        step, version: the step; a worker whose generator has another version is refused.
        partition: index.
        units: the partition's units, in order.
        earlier: (step name, reflections of each unit) of the steps before that have the same
            units, in order.
        recipe: the plan's recipe: what decides results beside unit and inputs.
        seed: run.seed.
        owners: requests of first rounds (their keys' first 32 digits) that a lower partition
            asks, with its index.
        ask_only: ask what this partition owns, and leave units that need others' requests.
    """

    root: Path
    step: StepName
    version: str
    partition: int
    units: tuple[UnitSpec, ...]
    earlier: tuple[tuple[StepName, tuple[int, ...]], ...]
    recipe: str
    seed: int
    owners: Mapping[str, int] = field(default_factory=dict)
    ask_only: bool = False


def part_path(run: RunFolder, step: str, partition: int) -> Path:
    """The reflections of one partition of one step."""
    return run.step(step) / f"part-{partition}.jsonl"


def quarantine_path(run: RunFolder, step: str, partition: int) -> Path:
    """The rejected candidates and failed units of one partition of one step."""
    return run.step(step) / "quarantine" / f"part-{partition}.jsonl"


def journal_path(run: RunFolder, step: str, partition: int) -> Path:
    """The journal of one partition of one step."""
    return run.step(step) / "journal" / f"part-{partition}.jsonl"


def requests_path(run: RunFolder, step: str, partition: int) -> Path:
    """The request journal of one partition of one step."""
    return run.step(step) / "journal" / f"requests-{partition}.jsonl"


def store_path(run: RunFolder, step: str) -> Path:
    """The answers of a step that earlier revisions and partitions asked for."""
    return run.synth / "requests" / f"{step}.jsonl"


def _nothing() -> None:
    """The default of ``before_unit``."""


def run_partition(
    job: PartitionJob, step: Step, before_unit: Callable[[], None] = _nothing
) -> PartResult:
    """Do the units that the journal lacks (failed ones once more), then write the part files.

    Args:
        job: the partition.
        step: the step.
        before_unit: called before each unit that is to be done; what it raises ends the work.

    Raises:
        RunError: a reflection rests on documents outside its unit.
        OSError: the run folder cannot be written.
    """
    run = RunFolder(job.root)
    keys: list[str] = []
    path = journal_path(run, job.step, job.partition)
    with UnitReader(run.corpus, job.seed) as reader, Journal(path) as journal:
        for spec, inputs in zip(job.units, unit_inputs(run, job), strict=True):
            keys.append(unit_key(job, inputs))
            if not journal.has_result(spec.id, keys[-1]):
                before_unit()
                journal.append(_run_unit(step, reader.read(spec), inputs, keys[-1]))
        return write_parts(run, job, keys, journal)


def unit_key(job: PartitionJob, inputs: Sequence[Reflection]) -> str:
    """What a unit's record is kept under: everything the unit's result depends on."""
    return short_hash([job.recipe, job.step, job.version, [row.to_json() for row in inputs]])


def _run_unit(step: Step, unit: Unit, inputs: Sequence[Reflection], key: str) -> Record:
    try:
        result = step.run(unit, inputs)
    except Exception as error:
        return failure_record(unit, key, error)
    return result_record(unit, key, result)


def result_record(
    unit: Unit, key: str, result: StepResult, quarantine: Sequence[dict[str, Any]] = ()
) -> Record:
    """The record of a unit that was done.

    Args:
        unit: the unit.
        key: see :func:`unit_key`.
        result: what the step yielded.
        quarantine: further rows of the quarantine file, beside the rejected candidates.

    Raises:
        RunError: a reflection rests on documents outside its unit.
    """
    for reflection in result.reflections:
        _check_shard(reflection, unit)
    return Record(
        unit=unit.id,
        key=key,
        failed=False,
        reflections=[reflection.to_json() for reflection in result.reflections],
        rejected=[*quarantine, *(rejected.to_json() for rejected in result.rejected)],
    )


def failure_record(unit: Unit, key: str, error: Exception) -> Record:
    """The record of a unit whose step raised ``error``."""
    row = {
        "reason": f"{FAILED}: {type(error).__name__}: {error}",
        "raw": "".join(traceback.format_exception(error)),
        "sources": [document.id for document in unit.documents],
    }
    return Record(unit.id, key, True, [], [row])


def _check_shard(reflection: Reflection, unit: Unit) -> None:
    """A shard must be retrainable and deletable alone, so nothing may leak into it."""
    foreign = set(reflection.sources) - {document.id for document in unit.documents}
    if foreign or reflection.shard != unit.shard:
        raise RunError(
            f"generator {reflection.generator} wrote a reflection of shard {reflection.shard} with "
            f"sources {sorted(reflection.sources)} in unit {unit.id} of shard {unit.shard}, "
            f"outside the unit: {sorted(foreign)}; question: {reflection.question!r}"
        )


def write_parts(
    run: RunFolder, job: PartitionJob, keys: Sequence[str], journal: Journal
) -> PartResult:
    """Write the part files from the journal; ``keys`` are those of the job's units."""

    def records() -> Iterator[Record]:
        for spec, key in zip(job.units, keys, strict=True):
            record = journal.get(spec.id, key)
            if record is None:
                raise RunError(f"{journal_path(run, job.step, job.partition)} lost unit {spec.id}")
            yield record

    part = part_path(run, job.step, job.partition)
    quarantine = quarantine_path(run, job.step, job.partition)
    write_jsonl(part, (row for record in records() for row in record.reflections))
    write_jsonl(quarantine, (row for record in records() for row in record.rejected))
    return PartResult(
        rows=tuple(len(record.reflections) for record in records()),
        reflections_sha256=hash_file(part),
        quarantine_sha256=hash_file(quarantine),
        failed=sum(record.failed for record in records()),
    )


def unit_inputs(run: RunFolder, job: PartitionJob) -> Iterator[list[Reflection]]:
    """For each unit of the job its inputs: those of its group, or all of the earlier steps."""
    with ExitStack() as stack:
        files: dict[Path, BinaryIO] = {}
        parts = [
            (read_jsonl(part_path(run, step, job.partition)), iter(rows))
            for step, rows in job.earlier
        ]
        for spec in job.units:
            if spec.inputs is not None:
                yield [_at(run, place, files, stack) for place in spec.inputs]
                continue
            inputs: list[Reflection] = []
            for lines, rows in parts:
                inputs += [Reflection.from_json(row) for row in islice(lines, next(rows))]
            yield inputs


def _at(
    run: RunFolder, place: tuple[str, int, int], files: dict[Path, BinaryIO], stack: ExitStack
) -> Reflection:
    step, partition, offset = place
    path = part_path(run, step, partition)
    if path not in files:
        files[path] = stack.enter_context(path.open("rb"))
    return Reflection.from_json(row_at(files[path], offset, path))


def planned_step(job: PartitionJob, generator: Generator) -> AnyStep:
    """The job's step.

    Raises:
        RunError: the generator here has another version of it than the plan.
    """
    step = generator.steps()[job.step]
    if step.version != job.version:
        raise RunError(
            f"step {job.step} was planned with version {job.version}, but a worker has "
            f"{step.version}: install the same memo-dist on all machines"
        )
    return step
