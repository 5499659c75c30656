"""What a shard's memory is trained on: recorded before training, compared whenever it is used.

The run folder may hold other documents and reflections by then. So the bank lists what stands in
the record, and a training counts as done only for what the record names.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from memo_dist.config.schema import Config
from memo_dist.config.stages import stage_keys
from memo_dist.corpus.diff import diff_hashes
from memo_dist.corpus.manifest import load_manifest, located_documents
from memo_dist.io import atomic
from memo_dist.io.hashing import hash_value
from memo_dist.io.runfolder import RunFolder
from memo_dist.models.identity import BaseModel
from memo_dist.synthesis.shard_files import marker_path, shard_files

FILE = "trained-on.json"
EXPORT_RECORD = "export.json"
"""In a shard's memory: what it was made from."""
READ_HELD_OUT = "held-out questions"
"""What the export read of the training's folder, by its name in that record."""
SCHEMA_VERSION = 1
_SHOWN = 16


@dataclass(frozen=True)
class TrainedOn:
    """The inputs of one shard's training.

    Attributes:
        settings: keys that identify the stage, as ``memo_dist.config.stages.stage_keys`` has them.
        base: hash of the base's weights.
        documents: {id: content hash} of the shard's documents.
        reflections: hash over the ids of the shard's reflections (an id is a hash of its content).
        kinds: number of reflections by kind.
        corpus: fingerprint of the whole corpus.
        generator: name and version of what wrote the reflections.
        generator_limits: what it says it cannot do.
        continued: hash of the old weights that it continued; empty: it began at the base.
    """

    settings: dict[str, Any]
    base: str
    documents: dict[str, str]
    reflections: str
    kinds: dict[str, int]
    corpus: str
    generator: str
    generator_limits: list[str]
    continued: str = ""

    def changes(self, now: TrainedOn) -> list[str]:
        """What differs between the training and ``now``, a line each; empty: nothing that counts.

        A key that only one version of memo_dist knows is no difference, as for the configuration.
        """
        both = sorted(self.settings.keys() & now.settings.keys())
        lines = [
            f"{key}: {self.settings[key]!r} then, {now.settings[key]!r} now"
            for key in both
            if self.settings[key] != now.settings[key]
        ]
        if self.base != now.base:
            lines.append(
                f"weights of memory.base: {self.base[:_SHOWN]} then, {now.base[:_SHOWN]} now"
            )
        lines += _document_changes(self.documents, now.documents)
        if self.reflections != now.reflections:
            lines.append(
                f"reflections: {self.reflections[:_SHOWN]} then, {now.reflections[:_SHOWN]} now"
            )
        return lines

    def save(self, folder: Path, job: str) -> None:
        """Write the record of the training ``job`` (its identity) into the shard's folder."""
        values = {"schema_version": SCHEMA_VERSION, "job": job, **asdict(self)}
        atomic.write_json(folder / FILE, values)


def load_record(folder: Path) -> tuple[str, TrainedOn] | None:
    """(identity of the job, its inputs) in a shard's folder; None: an earlier version trained."""
    path = folder / FILE
    if not path.exists():
        return None
    values: dict[str, Any] = atomic.read_json(path)
    del values["schema_version"]
    job = values.pop("job")
    return job, atomic.as_record(values, path, TrainedOn)


def current_inputs(run: RunFolder, config: Config, base: BaseModel) -> list[TrainedOn]:
    """What each shard would be trained on now; the documents are read once.

    The reflections are where the synthesis has not noted what is needed of them.
    """
    manifest = load_manifest(run.corpus)
    documents: list[dict[str, str]] = [{} for _ in range(manifest.shards)]
    for row in located_documents(run.corpus):
        documents[row.shard][row.document.id] = row.document.content_hash
    reflections = _reflections(run, manifest.shards)
    synthesis = atomic.read_json(marker_path(run))
    settings = stage_keys(config, "train")
    return [
        TrainedOn(
            settings=settings,
            base=base.weights_hash,
            documents=documents[shard],
            reflections=reflections[shard][0],
            kinds=reflections[shard][1],
            corpus=manifest.fingerprint,
            generator=synthesis["generator"],
            generator_limits=list(synthesis["limits"]),
        )
        for shard in range(manifest.shards)
    ]


def _reflections(run: RunFolder, shards: int) -> list[tuple[str, dict[str, int]]]:
    """Hash over the ids and numbers by kind of each shard's reflections."""
    noted = shard_files(run)
    if noted is not None:
        empty = hash_value([]), dict[str, int]()
        found = {shard: (file.ids, file.kinds) for shard, file in noted.items()}
        return [found.get(shard, empty) for shard in range(shards)]
    ids: list[list[str]] = [[] for _ in range(shards)]
    kinds = [Counter[str]() for _ in range(shards)]
    for line in atomic.read_jsonl(run.reflections):
        ids[line["shard"]].append(line["id"])
        kinds[line["shard"]][line["kind"]] += 1
    return [(hash_value(ids[shard]), dict(kinds[shard])) for shard in range(shards)]


def _document_changes(then: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    changes = diff_hashes(dict(then), dict(now))
    first = [*changes.added, *changes.changed, *changes.removed]
    if not first:
        return []
    return [
        f"documents: {len(changes.added)} added, {len(changes.changed)} changed,"
        f" {len(changes.removed)} removed (the first: {first[0]})"
    ]
