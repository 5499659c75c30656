"""Export: from trained weights to a verified Hugging Face folder in the bank.

The folder is built beside its place, tensor by tensor, then reloaded and compared (names, shapes,
ties, dtype, logits of the trainer's probes), calibrated on held-out wordings, and only then
renamed into place. A LoRA training is folded into its base, or kept as a PEFT adapter.
"""

from __future__ import annotations

import logging
import shutil
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoTokenizer

from memo_dist.config.schema import Config
from memo_dist.config.stages import stage_hash
from memo_dist.errors import DamagedFileError
from memo_dist.io import atomic
from memo_dist.io.hashing import hash_file
from memo_dist.io.marker import damage
from memo_dist.io.runfolder import RunFolder
from memo_dist.memory.answering import ShardMemory
from memo_dist.memory.calibration import Calibration
from memo_dist.memory.card import MemoryCard, render_card
from memo_dist.memory.loading import AdapterShards, LoadedShard, Memories
from memo_dist.memory.manifest import ShardEntry, shard_documents
from memo_dist.models.chat_format import ChatFormat
from memo_dist.models.identity import BaseModel, hash_weights
from memo_dist.models.loading import greedy_generation
from memo_dist.models.weight_files import NamedTensor, StoredWeights, WeightWriter
from memo_dist.training import checkpoint
from memo_dist.training.calibrating import calibrate
from memo_dist.training.lora import ADAPTER_CONFIG, ADAPTER_WEIGHTS, folded_weights, is_adapter
from memo_dist.training.prepare import (
    HELD_OUT,
    resolved_recipe,
    trained_job,
)
from memo_dist.training.trained_on import EXPORT_RECORD as EXPORT_RECORD
from memo_dist.training.trained_on import FILE as TRAINED_ON
from memo_dist.training.trained_on import READ_HELD_OUT, TrainedOn
from memo_dist.training.verify import verify_adapter, verify_model
from memo_dist.version import VERSION

logger = logging.getLogger(__name__)


def export_shard(  # noqa: PLR0913
    run: RunFolder, config: Config, shard: int, base: BaseModel, record: TrainedOn, target: Path
) -> None:
    """Verify, calibrate and write one shard's memory.

    Args:
        run: the run.
        config: its configuration.
        shard: which shard.
        base: what it was trained from.
        record: what it was trained on.
        target: the folder, which must not be of a bank that holds.

    Raises:
        RunError: the reloaded weights are not the trained ones.
    """
    building = target.with_name(f".building-{target.name}")
    shutil.rmtree(building, ignore_errors=True)
    build_folder(run.train(shard) / "final", building, config, base)
    _describe(run, config, shard, base, record, building)
    atomic.write_json(building / EXPORT_RECORD, made_from(run, config, shard))
    checkpoint.mark_complete(building)
    shutil.rmtree(target, ignore_errors=True)
    building.replace(target)
    atomic.fsync_folder(target.parent)


def build_folder(trained: Path, target: Path, config: Config, base: BaseModel) -> None:
    """Write weights, tokenizer and settings into ``target``, and verify them by a reload.

    Args:
        trained: ``final/``: a model, or a PEFT adapter, with tokenizer and probes.
        target: a new folder.
        config: ``export.dtype`` and ``export.adapter`` decide.
        base: what an adapter was trained on.

    Raises:
        RunError: what was written is not what was trained.
    """
    tokenizer = AutoTokenizer.from_pretrained(trained)
    tokenizer.save_pretrained(target)
    if is_adapter(trained) and config.export.adapter == "kept":
        _copy_adapter(trained, target, base)
        verify_adapter(trained, base.path, target)
        return
    source = base.path if is_adapter(trained) else trained
    _write_weights(_trained_weights(trained, base), target, config.export.dtype)
    model_config = AutoConfig.from_pretrained(source)
    if config.export.dtype != "auto":
        model_config.dtype = config.export.dtype
    model_config.save_pretrained(target)
    chat = ChatFormat.from_tokenizer(tokenizer)
    greedy_generation(chat, config.memory.max_answer_tokens).save_pretrained(target)
    verify_model(trained, _trained_weights(trained, base), target)


def _trained_weights(trained: Path, base: BaseModel) -> Iterable[NamedTensor]:
    """The weights that the memory should have, one at a time."""
    if is_adapter(trained):
        return folded_weights(base.path, trained)
    return StoredWeights(trained)


def _write_weights(weights: Iterable[NamedTensor], target: Path, dtype: str) -> None:
    writer = WeightWriter(target)
    for name, tensor in weights:
        cast = dtype != "auto" and tensor.is_floating_point()
        writer.add(name, tensor.to(getattr(torch, dtype)) if cast else tensor)
    writer.close()


def _copy_adapter(trained: Path, target: Path, base: BaseModel) -> None:
    """Copy a PEFT adapter; it names its base by id, not by this machine's path."""
    shutil.copyfile(trained / ADAPTER_WEIGHTS, target / ADAPTER_WEIGHTS)
    settings = atomic.read_json(trained / ADAPTER_CONFIG)
    atomic.write_json(target / ADAPTER_CONFIG, {**settings, "base_model_name_or_path": base.name})


def shard_memory(folder: Path, shard: int, base: BaseModel, max_answer_tokens: int) -> Memories:
    """The memory in a shard's folder, trained or exported, loaded to answer.

    Raises:
        UsageError: it cannot be loaded.
    """
    if is_adapter(folder):
        return AdapterShards.load(base.path, {shard: folder}, max_answer_tokens)
    return LoadedShard(shard, ShardMemory.load(folder, max_answer_tokens))


def _describe(  # noqa: PLR0913
    run: RunFolder,
    config: Config,
    shard: int,
    base: BaseModel,
    record: TrainedOn,
    folder: Path,
) -> None:
    """Calibrate on held-out questions and write the card."""
    memory = shard_memory(folder, shard, base, config.memory.max_answer_tokens)
    calibration, familiarity = calibrate(run, config, shard, record, memory)
    calibration.save(folder)
    if familiarity is not None:
        familiarity.save(folder)
    card = _card(run, config, shard, base, record, folder, calibration)
    atomic.write_text(folder / "README.md", render_card(card))


def _card(  # noqa: PLR0913
    run: RunFolder,
    config: Config,
    shard: int,
    base: BaseModel,
    record: TrainedOn,
    folder: Path,
    calibration: Calibration,
) -> MemoryCard:
    return MemoryCard(
        base=base,
        shard=shard,
        shards=config.corpus.shards,
        corpus_fingerprint=record.corpus,
        documents=len(record.documents),
        reflections=sum(record.kinds.values()),
        kinds=Counter(record.kinds),
        generator=record.generator,
        generator_limits=record.generator_limits,
        hyperparameters=_hyperparameters(run, config, shard, base) | _continued(record),
        calibration=calibration,
        parameters=StoredWeights(folder).parameters(),
        adapter=is_adapter(folder),
        final_loss=_final_loss(run, shard),
        weights_hash=hash_weights(folder),
        version=VERSION,
    )


def _hyperparameters(
    run: RunFolder, config: Config, shard: int, base: BaseModel
) -> dict[str, object]:
    state = checkpoint.read_state(run.train(shard) / "final")
    train = resolved_recipe(config.train, base)
    return {
        "trained on": train.source,
        "loss on questions": trained_job(run, shard).train.question_loss,
        "epochs planned": train.epochs,
        "optimizer steps": state.step,
        "tokens read": state.consumed_tokens,
        "trained tokens": state.trained_tokens,
        "minutes of stepping": round(state.seconds / 60, 1),
        "learning rate": f"{train.lr:g} ({train.schedule}, {train.warmup_fraction:.0%} warm-up)",
        "tokens a step": train.batch_tokens,
        "trained layers": train.trained_layers or "all",
        "weight decay": train.weight_decay,
        "ZeRO stage": state.zero_stage,
        "ranks": state.world_size,
        "seed": state.seed,
        **dict(sorted(state.versions.items())),
    }


def _continued(record: TrainedOn) -> dict[str, object]:
    """The card's remark on weights that are not those of one training from the base."""
    if not record.continued:
        return {}
    remark = f"weights {record.continued[:16]}, on new and replayed reflections; **not exact**"
    return {"continued from": f"{remark}: removed or replaced facts may still be answered"}


def _final_loss(run: RunFolder, shard: int) -> float | None:
    """Loss of the last optimizer step, in nats per trained token."""
    metrics = run.train(shard) / "metrics.jsonl"
    losses = [row["loss"] for row in atomic.read_jsonl(metrics) if "loss" in row]
    return losses[-1] if losses else None


def shard_entry(shard: int, folder: Path, record: TrainedOn, recipe: str) -> ShardEntry:
    """The bank's entry of an exported shard."""
    return ShardEntry(
        id=shard,
        path=folder.name,
        kind="adapter" if is_adapter(folder) else "full",
        documents=shard_documents(list(record.documents.items())),
        reflections_hash=record.reflections,
        weights_hash=hash_weights(folder),
        recipe_hash=recipe,
    )


def made_from(run: RunFolder, config: Config, shard: int) -> dict[str, Any]:
    """What identifies a shard's export: configuration, weights, held-out set, and their record."""
    folder = run.train(shard)
    read = {
        "trained weights": hash_weights(folder / "final"),
        READ_HELD_OUT: hash_file(folder / HELD_OUT),
        "trained on": hash_file(folder / TRAINED_ON),
    }
    return {"recipe": stage_hash(config, "export"), "read": read}


def is_export_of(folder: Path, wanted: dict[str, Any]) -> bool:
    """Whether a folder is the complete and undamaged export of what :func:`made_from` gives."""
    path = folder / EXPORT_RECORD
    try:
        if not (checkpoint.is_complete(folder) and path.exists()):
            return False
        lines = damage(folder / checkpoint.COMPLETE)
        same = not lines and bool(atomic.read_json(path) == wanted)
    except DamagedFileError as error:
        lines, same = [str(error)], False
    if lines:
        logger.warning("%s; it is exported again", "; ".join(lines))
    return same
