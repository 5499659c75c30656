"""Units of a step that works on groups: found by the step, located in the earlier part files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass

from memo_dist.config.steps import StepName
from memo_dist.corpus.manifest import CHUNKS
from memo_dist.errors import RunError
from memo_dist.io.atomic import jsonl_offsets
from memo_dist.io.hashing import short_hash
from memo_dist.io.runfolder import RunFolder
from memo_dist.synthesis.plan import (
    DocumentPlace,
    Plan,
    StepUnits,
    UnitSpec,
    chunk_index,
    document_places,
)
from memo_dist.synthesis.shard_clean import shard_rows
from memo_dist.synthesis.types import Group, GroupingStep, Reflection
from memo_dist.synthesis.worker import part_path


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a reflection stands: step, partition and byte offset of its line."""

    step: StepName
    partition: int
    offset: int


def grouped_units(
    run: RunFolder, plan: Plan, step: GroupingStep, earlier: Sequence[StepName]
) -> StepUnits:
    """The units of a grouping step, from the part files of the complete steps before it.

    Memory: a place for each reflection (about 200 bytes), and whatever the step itself keeps.

    Raises:
        RunError: the step named a document or reflection that its shard does not have.
        DamagedFileError: a part file does not have its shards in order.
    """
    places = _places(run, plan, earlier)
    documents = {place.id: place for place in document_places(run.corpus)}
    chunks = chunk_index(run.corpus / CHUNKS)
    units: list[UnitSpec] = []
    for shard in sorted({unit.shard for unit in plan.units}):
        for group in step.groups(shard, _rows(run, plan, earlier, shard)):
            _check(group, shard, documents, places, step.name)
            members = [documents[name] for name in group.documents]
            contents = [[place.id, place.content_hash] for place in members]
            units.append(
                UnitSpec(
                    id=short_hash([shard, contents, group.reflections]),
                    shard=shard,
                    documents=tuple((place.id, place.offset) for place in members),
                    chunks=tuple(at for name in group.documents for at in chunks.get(name, ())),
                    inputs=tuple(astuple(places[shard, key]) for key in group.reflections),
                )
            )
    return StepUnits(tuple(units), plan.partitions, grouped=True)


def _places(
    run: RunFolder, plan: Plan, earlier: Sequence[StepName]
) -> dict[tuple[int, str], _Place]:
    """By shard and id; of equal ids the last: a later step's reflection replaces an earlier one."""
    return {(row.shard, row.id): place for place, row in _located(run, plan, earlier)}


def _located(
    run: RunFolder, plan: Plan, earlier: Sequence[StepName]
) -> Iterator[tuple[_Place, Reflection]]:
    for name in earlier:
        for partition in range(plan.partitions):
            for offset, row in jsonl_offsets(part_path(run, name, partition)):
                yield _Place(name, partition, offset), Reflection.from_json(row)


def _rows(
    run: RunFolder, plan: Plan, earlier: Sequence[StepName], shard: int
) -> Iterator[Reflection]:
    """A shard's reflections; those of other shards are not read."""
    for name in earlier:
        for partition in range(plan.partitions):
            yield from shard_rows(part_path(run, name, partition), shard)


def _check(
    group: Group,
    shard: int,
    documents: dict[str, DocumentPlace],
    places: dict[tuple[int, str], _Place],
    step: str,
) -> None:
    foreign = [
        name for name in group.documents if name not in documents or documents[name].shard != shard
    ]
    lost = [key for key in group.reflections if (shard, key) not in places]
    if foreign or lost:
        raise RunError(
            f"step {step} formed a group of shard {shard} with documents {foreign[:3]} and "
            f"reflections {lost[:3]} that the shard does not have"
        )
