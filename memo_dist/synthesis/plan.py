"""The plan of a synthesis: which documents form a unit, which units a partition, and for what.

The plan is a pure function of the corpus, the generator and the configuration. It stands in
each step's manifest before the first unit runs; a run that has started with one plan is never
continued with another.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any

from memo_dist.config.load import RENAMED_VALUES
from memo_dist.config.schema import Config
from memo_dist.config.stages import stage_keys
from memo_dist.config.steps import StepName
from memo_dist.corpus.manifest import CHUNKS, DOCUMENTS, CorpusManifest, load_manifest, shard_of
from memo_dist.corpus.types import Chunk, Document
from memo_dist.errors import RunError, UsageError
from memo_dist.io.hashing import hash_file, hash_value, short_hash
from memo_dist.synthesis.types import Generator, Unit


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
        partitions: number of partitions; unit i belongs to partition ``i % partitions``.
        units: ordered by shard, then by document id.
        generator: name and version.
        limits: what the generator says it cannot do.
    """

    steps: tuple[tuple[StepName, str], ...]
    settings: dict[str, Any]
    partitions: int
    units: tuple[UnitSpec, ...]
    generator: str
    limits: tuple[str, ...]

    @cached_property
    def hash(self) -> str:
        """Identity of the plan: 64 hexadecimal digits."""
        return hash_value([self.settings, [unit.id for unit in self.units]])


def make_plan(corpus: Path, config: Config, generator: Generator) -> Plan:
    """Plan the synthesis of the corpus in folder ``corpus`` (its three files are read).

    Raises:
        UsageError: no corpus, or a step that the generator does not have.
    """
    manifest = load_manifest(corpus)
    steps = _steps(config, generator)
    settings = _settings(corpus, manifest, config, generator, steps)
    return Plan(
        steps=steps,
        settings=settings,
        partitions=config.synthesis.partitions,
        units=tuple(_units(corpus, manifest.shards, config.synthesis.documents_per_unit)),
        generator=f"{generator.name} {generator.version}",
        limits=tuple(generator.limits()),
    )


def check_settings(found: Mapping[str, Any], now: Mapping[str, Any], where: Path) -> None:
    """Refuse to continue ``found`` (settings of a manifest at ``where``) with other settings.

    Raises:
        UsageError: names each key with both values.
    """
    found = _in_todays_words(found)
    differing = [
        f"{key} was {json.dumps(found.get(key))}, is now {json.dumps(now.get(key))}"
        for key in sorted(found.keys() | now.keys())
        if found.get(key) != now.get(key)
    ]
    if differing:
        raise UsageError(
            f"the synthesis in {where} was planned with other settings: {'; '.join(differing)}. "
            "Set them back, or use another --run folder"
        )


def _in_todays_words(found: Mapping[str, Any]) -> Mapping[str, Any]:
    """Settings of an earlier version, which had another name for a generator."""
    kind = found.get("generator.kind", "")
    new = RENAMED_VALUES["generator.kind"].get(kind)
    if new is None:
        return found
    generator = str(found.get("generator", "")).replace(kind, new, 1)
    return {**found, "generator.kind": new, "generator": generator}


@dataclass(frozen=True)
class StepUnits:
    """The units of one step: the plan's, or those of its groups.

    Attributes:
        units: in order; unit i belongs to partition ``i % partitions``.
        partitions: number of partitions.
        grouped: whether the units are groups.
    """

    units: tuple[UnitSpec, ...]
    partitions: int
    grouped: bool = False

    def partition(self, index: int) -> tuple[UnitSpec, ...]:
        """The units of one partition, in order."""
        return self.units[index :: self.partitions]


class UnitReader:
    """Reads the documents and chunks of units from the corpus files, by byte offset."""

    def __init__(self, corpus: Path, seed: int) -> None:
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
        documents = []
        for _, offset in spec.documents:
            self._documents.seek(offset)
            documents.append(Document.from_json(json.loads(self._documents.readline())))
        chunks = []
        for offset in spec.chunks:
            self._chunks.seek(offset)
            chunks.append(Chunk.from_json(json.loads(self._chunks.readline())))
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
        "fingerprint of the corpus": manifest.fingerprint,
        "hash of the documents": hash_file(corpus / DOCUMENTS),
        "hash of the chunks": hash_file(corpus / CHUNKS),
        "generator": f"{generator.name} {generator.version}",
        **{f"version of step {name}": version for name, version in steps},
    }


def _units(corpus: Path, shards: int, size: int) -> Iterator[UnitSpec]:
    documents = sorted(_document_index(corpus / DOCUMENTS, shards))
    chunks = chunk_index(corpus / CHUNKS)
    for shard, group in groupby(documents, key=lambda row: row[0]):
        rows = list(group)
        for start in range(0, len(rows), size):
            batch = rows[start : start + size]
            yield UnitSpec(
                id=short_hash([shard, [row[1:3] for row in batch]]),
                shard=shard,
                documents=tuple((row[1], row[3]) for row in batch),
                chunks=tuple(offset for row in batch for offset in chunks.pop(row[1], [])),
            )
    if chunks:
        raise RunError(f"{corpus / CHUNKS} has chunks of unknown documents: {sorted(chunks)[:3]}")


def _document_index(path: Path, shards: int) -> Iterator[tuple[int, str, str, int]]:
    """(shard, id, content hash, byte offset) of each document."""
    for offset, row in _lines_with_offsets(path):
        document = Document.from_json(row)
        yield shard_of(document.id, shards), document.id, document.content_hash, offset


def chunk_index(path: Path) -> dict[str, list[int]]:
    """Byte offsets of each document's chunks."""
    index: dict[str, list[int]] = {}
    for offset, row in _lines_with_offsets(path):
        index.setdefault(row["document"], []).append(offset)
    return index


def _lines_with_offsets(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    offset = 0
    with path.open("rb") as stream:
        for line in stream:
            yield offset, json.loads(line)
            offset += len(line)
