"""Shards of a bank whose weights become one: merged, calibrated and described, without training."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from memo_dist.config.schema import Config
from memo_dist.io.atomic import write_text
from memo_dist.io.hashing import hash_value
from memo_dist.io.runfolder import RunFolder
from memo_dist.memory.answering import ShardMemory
from memo_dist.memory.card import MemoryCard, render_card
from memo_dist.memory.loading import LoadedShard
from memo_dist.memory.manifest import ShardDocument, ShardEntry
from memo_dist.memory.provenance import reflections_hash
from memo_dist.models.chat_format import ChatFormat
from memo_dist.models.identity import BaseModel, hash_weights
from memo_dist.models.loading import load_tokenizer
from memo_dist.models.merging import Merging, merge_weights
from memo_dist.models.weight_files import StoredWeights
from memo_dist.synthesis.types import Reflection
from memo_dist.training import checkpoint
from memo_dist.training.calibrating import calibrate
from memo_dist.training.export import shard_entry
from memo_dist.training.trained_on import TrainedOn
from memo_dist.version import VERSION

_KEPT = (
    "config.json",
    "generation_config.json",
    "tokenizer*",
    "*.jinja",
    "special_tokens_map.json",
)
_TEXTS = 256
"""Most reflections of a shard over which RegMean's Gram matrices are summed."""


@dataclass(frozen=True)
class Fold:
    """Shards that become one.

    Attributes:
        merging: how.
        base: what all of them were trained from.
        models: their folders.
        documents: of all of them.
        reflections: of each of them.
    """

    merging: Merging
    base: BaseModel
    models: Sequence[Path]
    documents: Sequence[ShardDocument]
    reflections: Sequence[Sequence[Reflection]]


def fold_shard(run: RunFolder, config: Config, shard: int, shards: int, fold: Fold) -> ShardEntry:
    """Write one merged shard into ``run``'s memory.

    Args:
        run: holds the reflections with their new shards, and the questions held out of them.
        config: as for an export.
        shard, shards: number of the shard, and how many there are.
        fold: what is merged.

    Raises:
        UsageError: see ``memo_dist.models.merging.merge_weights``.
    """
    target = run.memory_shard(shard)
    target.mkdir(parents=True)
    for path in (found for name in _KEPT for found in fold.models[0].glob(name)):
        shutil.copyfile(path, target / path.name)
    texts = [_texts(*pair) for pair in zip(fold.models, fold.reflections, strict=True)]
    merge_weights(fold.merging, fold.base.path, fold.models, texts, target)
    record = _record(run, shard, fold)
    memory = LoadedShard(shard, ShardMemory.load(target, config.memory.max_answer_tokens))
    calibration, familiarity = calibrate(run, config, shard, record, memory)
    calibration.save(target)
    if familiarity is not None:
        familiarity.save(target)
    card = MemoryCard(
        base=fold.base,
        shard=shard,
        shards=shards,
        corpus_fingerprint=record.corpus,
        documents=len(record.documents),
        reflections=sum(record.kinds.values()),
        kinds=record.kinds,
        generator=record.generator,
        generator_limits=record.generator_limits,
        hyperparameters={
            **asdict(fold.merging),
            "merged from": ", ".join(hash_weights(model)[:16] for model in fold.models),
        },
        calibration=calibration,
        parameters=StoredWeights(target).parameters(),
        adapter=False,
        final_loss=None,
        weights_hash=hash_weights(target),
        version=VERSION,
    )
    write_text(target / "README.md", render_card(card))
    checkpoint.mark_complete(target)
    return shard_entry(shard, target, record, hash_value(record.settings))


def _record(run: RunFolder, shard: int, fold: Fold) -> TrainedOn:
    rows = sorted((row for part in fold.reflections for row in part), key=lambda row: row.id)
    documents = {row.id: row.hash for row in fold.documents}
    return TrainedOn(
        settings=asdict(fold.merging),
        base=fold.base.weights_hash,
        documents=documents,
        reflections=reflections_hash(rows),
        kinds=dict(Counter(row.kind for row in rows)),
        corpus=hash_value(sorted(documents.items())),
        generator=", ".join(sorted({row.generator for row in rows})),
        generator_limits=[
            f"Its weights were merged from {len(fold.models)} memories by"
            f" {fold.merging.method}, not trained: it recalls less than they do."
        ],
    )


def _texts(model: Path, reflections: Sequence[Reflection]) -> list[list[int]]:
    chat = ChatFormat.from_tokenizer(load_tokenizer(model))
    rows = reflections[:: max(1, len(reflections) // _TEXTS)][:_TEXTS]
    return [chat.prompt_ids(row.question) + chat.answer_ids(row.answer) for row in rows]
