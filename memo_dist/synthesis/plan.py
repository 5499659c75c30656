"""The plan of a synthesis: which documents form a unit, which units a partition, and for what.

The plan is a pure function of the corpus, the generator and the configuration. It stands in
each step's manifest before the first unit runs; a run that has started with one plan is continued
with another only where its corpus was revised.

Units and partitions stay: a unit is a bucket of the hashes of document ids, a partition one of the
hashes of unit ids. A document that comes, goes or changes affects the units of its own bucket.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import attrgetter
from pathlib import Path
from typing import Any

from memo_dist.config.load import RENAMED_VALUES
from memo_dist.config.schema import Config
from memo_dist.config.stages import stage_keys
from memo_dist.config.steps import StepName
from memo_dist.corpus.manifest import (
    CHUNKS,
    DOCUMENTS,
    CorpusManifest,
    load_manifest,
    located_documents,
    require_corpus,
)
from memo_dist.corpus.types import Chunk, Document
from memo_dist.errors import RunError, UsageError
from memo_dist.io.atomic import jsonl_offsets, row_at
from memo_dist.io.hashing import hash_file, hash_value, short_hash
from memo_dist.synthesis.buckets import hash_buckets
from memo_dist.synthesis.types import Generator, Unit

PARTITIONS = "synthesis.partitions"
SHARDS = "corpus.shards"
UNITS = "units"
UNITS_ARE = "hash buckets"
"""Setting that plans of older versions lack: their units were windows over the sorted documents."""
CORPUS_SETTINGS = ("fingerprint of the corpus", "hash of the documents", "hash of the chunks")
"""Settings that change with a revision of the corpus."""


@dataclass(frozen=True, slots=True)
class UnitSpec:
    """A unit by reference: the workers read its documents and chunks from the corpus files.

    Attributes:
        id: 16 hexadecimal digits over the shard and the documents' ids and content hashes.
        shard: the bank shard of its documents.
        documents: (document id, byte offset of its line in documents.jsonl).
        chunks: byte offsets of the chunks' lines in chunks.jsonl, in document order.
        inputs: of a group's unit: (step, partition, byte offset) of each reflection it looks at.
    """

    id: str
    shard: int
    documents: tuple[tuple[str, int], ...]
    chunks: tuple[int, ...]
    inputs: tuple[tuple[StepName, int, int], ...] | None = None


@dataclass(frozen=True)
class Plan:
    """Units, their partitions, and the settings that they hold for.

    Attributes:
        steps: (name, version) in the order they run.
        settings: flat ``group.key -> value``; equal settings give equal reflections.
        partitions: number of partitions.
        units: ordered by shard, then by the hash prefixes of their buckets.
        generator: name and version.
        limits: what the generator says it cannot do.
        revision: of the corpus.
    """

    steps: tuple[tuple[StepName, str], ...]
    settings: dict[str, Any]
    partitions: int
    units: tuple[UnitSpec, ...]
    generator: str
    limits: tuple[str, ...]
    revision: int = 0

    @cached_property
    def hash(self) -> str:
        """Identity of the plan: 64 hexadecimal digits."""
        return hash_value([self.settings, [unit.id for unit in self.units]])

    @cached_property
    def recipe(self) -> str:
        """Identity of what decides a unit's result beside the unit itself: 64 digits.

        A revision of the corpus and another number of partitions leave it as it is.
        """
        left_out = (*CORPUS_SETTINGS, PARTITIONS)
        return hash_value({k: v for k, v in self.settings.items() if k not in left_out})


def make_plan(corpus: Path, config: Config, generator: Generator) -> Plan:
    """Plan the synthesis of the corpus in folder ``corpus`` (its three files are read).

    Raises:
        UsageError: no corpus, or a step that the generator does not have.
    """
    manifest = load_manifest(corpus)
    require_corpus(corpus)
    steps = _steps(config, generator)
    settings = _settings(corpus, manifest, config, generator, steps)
    return Plan(
        steps=steps,
        settings=settings,
        partitions=config.synthesis.partitions,
        units=tuple(_units(corpus, config.synthesis.documents_per_unit)),
        generator=f"{generator.name} {generator.version}",
        limits=tuple(generator.limits()),
        revision=manifest.revision,
    )


def check_settings(found: Mapping[str, Any], now: Mapping[str, Any], where: Path) -> None:
    """Refuse to continue ``found`` (settings of a manifest at ``where``) with other settings.

    Raises:
        UsageError: names each key with both values; or an older memo-dist planned it.
    """
    check_units(found, where)
    differing = [
        f"{key} was {json.dumps(found.get(key))}, is now {json.dumps(now.get(key))}"
        for key in changed_settings(found, now)
    ]
    if differing:
        raise UsageError(
            f"the synthesis in {where} was planned with other settings: {'; '.join(differing)}. "
            "Set them back, or use another --run folder"
        )


def check_units(found: Mapping[str, Any], where: Path) -> None:
    """Refuse ``found`` (settings of a manifest at ``where``) with units of an older memo-dist.

    Raises:
        UsageError: says what to do.
    """
    if UNITS not in found:
        raise UsageError(
            f"the synthesis in {where} was planned by an older memo-dist, which cut the corpus "
            "into other units: finish it with that version, or start again in another --run folder"
        )


def is_outdated(found: Mapping[str, Any], plan: Plan) -> bool:
    """Whether ``found`` (settings of a manifest) hold for an earlier revision of the corpus.

    The numbers of partitions and of shards may have changed with it, everything else may not.
    """
    changed = set(changed_settings(found, plan.settings))
    revised = plan.revision > 0 and not changed.isdisjoint(CORPUS_SETTINGS)
    return revised and changed <= {*CORPUS_SETTINGS, PARTITIONS, SHARDS}


def is_older_result(found: Mapping[str, Any], plan: Plan) -> bool:
    """Whether ``found`` are an older memo-dist's settings for the same corpus and configuration.

    Its generators and keys may have had other names and versions: what both know has to agree.
    """
    if UNITS in found:
        return False
    names = RENAMED_VALUES["generator.kind"]
    then = {**found, "generator.kind": names.get(found["generator.kind"], found["generator.kind"])}
    keys = [key for key in plan.settings if key in CORPUS_SETTINGS or "." in key]
    return all(then[key] == plan.settings[key] for key in keys if key in then)


def changed_settings(found: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The settings that two plans have different values of, sorted."""
    return [key for key in sorted(found.keys() | now.keys()) if found.get(key) != now.get(key)]


@dataclass(frozen=True)
class StepUnits:
    """The units of one step: the plan's, or those of its groups.

    Attributes:
        units: in order; a unit's id decides its partition, which may have none.
        partitions: number of partitions.
        grouped: whether the units are groups.
    """

    units: tuple[UnitSpec, ...]
    partitions: int
    grouped: bool = False

    def partition(self, index: int) -> tuple[UnitSpec, ...]:
        """The units of one partition, in order."""
        return self._dealt[index]

    @cached_property
    def _dealt(self) -> tuple[tuple[UnitSpec, ...], ...]:
        dealt: list[list[UnitSpec]] = [[] for _ in range(self.partitions)]
        for unit in self.units:
            dealt[int(unit.id, 16) % self.partitions].append(unit)
        return tuple(map(tuple, dealt))


class UnitReader:
    """Reads the documents and chunks of units from the corpus files, by byte offset."""

    def __init__(self, corpus: Path, seed: int) -> None:
        self._corpus = corpus
        self._documents = (corpus / DOCUMENTS).open("rb")
        self._chunks = (corpus / CHUNKS).open("rb")
        self._seed = seed

    def __enter__(self) -> UnitReader:
        return self

    def __exit__(self, *_: object) -> None:
        self._documents.close()
        self._chunks.close()

    def read(self, spec: UnitSpec) -> Unit:
        """The unit of ``spec``, its seed derived from run.seed and the unit's content."""
        documents = [
            Document.from_json(row_at(self._documents, offset, self._corpus / DOCUMENTS))
            for _, offset in spec.documents
        ]
        chunks = [
            Chunk.from_json(row_at(self._chunks, offset, self._corpus / CHUNKS))
            for offset in spec.chunks
        ]
        seed = int(short_hash([self._seed, spec.id]), 16) >> 1  # fits a signed 64-bit integer
        return Unit(spec.id, spec.shard, tuple(documents), tuple(chunks), seed)


def _steps(config: Config, generator: Generator) -> tuple[tuple[StepName, str], ...]:
    available = {str(name): step for name, step in generator.steps().items()}
    missing = [name for name in config.synthesis.steps if name not in available]
    if missing:
        raise UsageError(
            f"synthesis.steps={config.synthesis.steps} names {', '.join(missing)}, which generator "
            f"{generator.name} does not have; it has {', '.join(available)}"
        )
    chosen = [available[name] for name in config.synthesis.steps]
    return tuple((step.name, step.version) for step in chosen)


def _settings(
    corpus: Path,
    manifest: CorpusManifest,
    config: Config,
    generator: Generator,
    steps: Sequence[tuple[StepName, str]],
) -> dict[str, Any]:
    """Everything that changes a reflection: configuration, corpus files, generator, versions."""
    return {
        **stage_keys(config, "synthesis"),
        UNITS: UNITS_ARE,
        "fingerprint of the corpus": manifest.fingerprint,
        "hash of the documents": hash_file(corpus / DOCUMENTS),
        "hash of the chunks": hash_file(corpus / CHUNKS),
        "generator": f"{generator.name} {generator.version}",
        **{f"version of step {name}": version for name, version in steps},
    }


@dataclass(frozen=True, slots=True)
class DocumentPlace:
    """A document by reference.

    Attributes:
        id: of the document.
        content_hash: of title, text and date.
        shard: the bank shard that it belongs to.
        offset: byte offset of its line in documents.jsonl.
    """

    id: str
    content_hash: str
    shard: int
    offset: int


def document_places(corpus: Path) -> Iterator[DocumentPlace]:
    """Where the documents of a corpus folder stand, in id order."""
    for row in located_documents(corpus):
        document = row.document
        yield DocumentPlace(document.id, document.content_hash, row.shard, row.offset)


def _units(corpus: Path, most: int) -> Iterator[UnitSpec]:
    """Hash buckets of at most ``most`` documents of one shard each."""
    shards: dict[int, list[DocumentPlace]] = {}
    for place in document_places(corpus):
        shards.setdefault(place.shard, []).append(place)
    chunks = chunk_index(corpus / CHUNKS)
    for shard, places in sorted(shards.items()):
        for bucket in hash_buckets(places, attrgetter("id"), lambda some: len(some) <= most):
            yield UnitSpec(
                id=short_hash([shard, [[place.id, place.content_hash] for place in bucket]]),
                shard=shard,
                documents=tuple((place.id, place.offset) for place in bucket),
                chunks=tuple(at for place in bucket for at in chunks.pop(place.id, [])),
            )
    if chunks:
        raise RunError(f"{corpus / CHUNKS} has chunks of unknown documents: {sorted(chunks)[:3]}")


def chunk_index(path: Path) -> dict[str, list[int]]:
    """Byte offsets of each document's chunks."""
    index: dict[str, list[int]] = {}
    for offset, row in jsonl_offsets(path):
        index.setdefault(row["document"], []).append(offset)
    return index
