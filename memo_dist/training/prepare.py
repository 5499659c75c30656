"""What happens once, in one process, before any rank starts: base model, split, tokens.

Everything is written under ``RUN/train``; a second call with the same inputs finds it done.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from transformers import AutoTokenizer

from memo_dist.cluster.placement import Placement, plan_placement
from memo_dist.cluster.resources import Resources, detect_resources
from memo_dist.config.schema import Config, TrainConfig
from memo_dist.config.stages import stage_hash, trains_questions
from memo_dist.corpus.manifest import DOCUMENTS, iter_documents, located_documents
from memo_dist.corpus.types import Document
from memo_dist.errors import UsageError
from memo_dist.io import atomic
from memo_dist.io.hashing import hash_file, hash_value
from memo_dist.io.marker import require_whole
from memo_dist.io.runfolder import RunFolder
from memo_dist.models.base import SCRATCH_NAME, BaseModel, resolve_base
from memo_dist.models.chat_format import ChatFormat
from memo_dist.models.identity import identify
from memo_dist.models.scratch import (
    general_hash,
    general_texts,
    new_scratch_model,
    scratch_model_config,
    train_tokenizer,
)
from memo_dist.models.weight_files import StoredWeights
from memo_dist.synthesis import shard_files
from memo_dist.synthesis.types import Reflection
from memo_dist.training import checkpoint
from memo_dist.training.continued import load_start, replayed
from memo_dist.training.deepspeed_seam import read_deepspeed_file, zero_stage
from memo_dist.training.documents import tokenize_documents
from memo_dist.training.enriched import enriched
from memo_dist.training.examples import Examples, split_held_out, tokenize
from memo_dist.training.job import TrainJob, rows_per_step
from memo_dist.training.memory_check import planned_need, shards_in_memory
from memo_dist.training.memory_need import MemoryNeed
from memo_dist.training.model import use_bf16
from memo_dist.training.recall import HELD_OUT as HELD_OUT
from memo_dist.training.schedule import passes, peak_lr
from memo_dist.training.trained_on import TrainedOn, current_inputs

PROBES = 4
EXAMPLES = "examples.safetensors"
JOB = "job.json"
TOO_LONG = "too-long.jsonl"
BUILT_FROM = "built-from.json"
"""Beside a scratch base: hashes of the texts that its vocabulary was learned from."""


class ShardExamples(NamedTuple):
    """A shard's reflections, split and tokenised.

    Attributes:
        trained: what is trained on.
        held: reflections held out for the calibration.
        too_long: reflections that are left out.
        probe: token ids of some questions, see ``TrainJob``.
        reflections: those that ``trained`` is made of, with train.source=reflections.
    """

    trained: Examples
    held: list[Reflection]
    too_long: list[Reflection]
    probe: tuple[tuple[int, ...], ...]
    reflections: list[Reflection]


def memory_base(run: RunFolder, config: Config) -> BaseModel:
    """The base model of the run's memories; builds the scratch one in ``RUN/train/base``."""
    if config.memory.base != SCRATCH_NAME:
        return resolve_base(config.memory.base)
    folder = run.root / "train" / "base"
    _require_base(folder)
    if not _has_scratch(run, config, folder):
        shutil.rmtree(folder, ignore_errors=True)
        _build_scratch(run, config, folder)
    return identify(SCRATCH_NAME, folder)


def trained_base(run: RunFolder, config: Config) -> BaseModel:
    """The base that the run's shards were trained from, as it is now; builds nothing.

    Raises:
        UsageError: it is missing.
    """
    if config.memory.base != SCRATCH_NAME:
        return resolve_base(config.memory.base)
    folder = run.root / "train" / "base"
    if not checkpoint.is_complete(folder):
        raise UsageError(f"the base of the memories in {run.root} is missing: {folder}")
    _require_base(folder)
    return identify(SCRATCH_NAME, folder)


def _require_base(folder: Path) -> None:
    advice = f"bring it back from a copy, or remove {folder.parent} to train anew"
    require_whole([folder / checkpoint.COMPLETE], advice)


def scratch_is_current(run: RunFolder, config: Config) -> bool | None:
    """Whether the run's scratch base is of the texts that the run holds now.

    Returns:
        None where there is no complete base, or one of an earlier version, which does not say.
    """
    folder = run.root / "train" / "base"
    if not checkpoint.is_complete(folder) or not (folder / BUILT_FROM).exists():
        return None
    return bool(atomic.read_json(folder / BUILT_FROM) == _scratch_texts(run, config))


def _has_scratch(run: RunFolder, config: Config, folder: Path) -> bool:
    """Whether the scratch base is there and of the run's texts.

    Raises:
        UsageError: it is of other texts, and a shard has been trained from it.
    """
    if not checkpoint.is_complete(folder):
        return False
    begun = [*folder.parent.glob("shard-*/final"), *folder.parent.glob("shard-*/checkpoints/*")]
    current = scratch_is_current(run, config)
    if current is None:  # an earlier version's: the shards' own records are checked
        return bool(begun)
    if begun and not current:
        raise UsageError(
            f"{folder} was built from other documents or reflections than {run.root} holds now,"
            f" and {begun[0].parent} was trained from it: bring them back, encode into a new"
            f" --run, remove {folder.parent} to train anew, or run `memo-dist update`"
        )
    return current


def _scratch_texts(run: RunFolder, config: Config) -> dict[str, str]:
    """Hashes of what the vocabulary of a scratch base is learned from."""
    if config.memory.scratch.tokenizer == "general":
        return {"words": general_hash()}
    return {
        "documents": hash_file(run.corpus / DOCUMENTS),
        "reflections": hash_file(run.reflections),
    }


def _build_scratch(run: RunFolder, config: Config, folder: Path) -> None:
    general = config.memory.scratch.tokenizer == "general"
    texts = general_texts() if general else _corpus_texts(run)
    size = train_tokenizer(texts, config.memory.scratch.vocabulary, folder)
    shape = scratch_model_config(config.memory.scratch, size)
    new_scratch_model(shape, config.run.seed).save_pretrained(folder)
    atomic.write_json(folder / BUILT_FROM, _scratch_texts(run, config))
    checkpoint.mark_complete(folder)


def _corpus_texts(run: RunFolder) -> Iterator[str]:
    yield from (document.text for document in iter_documents(run.corpus))
    for row in atomic.read_jsonl(run.reflections):
        yield f"{row['question']} {row['answer']}"


def shard_reflections(run: RunFolder, shard: int) -> list[Reflection]:
    """The reflections that one shard trains on, in file order.

    Raises:
        UsageError: there are none (fewer documents than shards, or nothing was synthesised).
    """
    found = list(shard_files.shard_reflections(run, shard))
    if not found:
        raise UsageError(
            f"shard {shard} has no reflections in {run.reflections}: use fewer corpus.shards"
        )
    return found


def shard_documents(run: RunFolder, shard: int) -> list[Document]:
    """The documents of one shard, in the corpus' order."""
    return [row.document for row in located_documents(run.corpus) if row.shard == shard]


def prepare_job(  # noqa: PLR0913
    run: RunFolder,
    config: Config,
    shard: int,
    base: BaseModel,
    resources: Resources,
    inputs: TrainedOn | None = None,
) -> TrainJob:
    """Split, tokenise and describe one shard's training.

    Args:
        run: the run folder.
        config: its configuration.
        shard: which shard.
        base: of the memories.
        resources: where it will be trained.
        inputs: what it will be trained on, where that is known; None: read from the run.
    """
    folder = run.train(shard)
    made = shard_examples(run, config, shard, base)
    start = load_start(folder)
    begins = base.path if start is None else run.root / start.folder
    weights = base.weights_hash if start is None else start.weights
    given = enriched(run, config, shard, base, (begins, weights), made.trained, made.reflections)
    given.examples.save(folder / EXAMPLES)
    atomic.write_jsonl(folder / HELD_OUT, (row.to_json() for row in made.held))
    atomic.write_jsonl(folder / TOO_LONG, (row.to_json() for row in made.too_long))
    recipe = replace(
        resolved_recipe(config.train, base),
        question_loss="yes" if trains_questions(config) else "no",
    )
    job = TrainJob(
        folder=str(folder.absolute()),
        base=str(begins.absolute()),
        examples=str((folder / EXAMPLES).absolute()),
        probe=made.probe,
        train=_with_own_file(recipe, folder),
        seed=config.run.seed,
        identity=training_identity(config, weights, folder / EXAMPLES, given.hashes),
        threads=plan_placement(config, resources).threads,
        replayed=given.replayed,
        soft="" if given.soft is None else str(given.soft.absolute()),
    )
    record = inputs or current_inputs(run, config, base)[shard]
    replace(record, continued=start.weights if start else "").save(folder, job.identity)
    atomic.write_json(folder / JOB, job.to_json())
    return job


def shard_examples(run: RunFolder, config: Config, shard: int, base: BaseModel) -> ShardExamples:
    """Split and tokenise one shard's reflections: the same inputs give the same bytes.

    Raises:
        UsageError: it has none, or none that can be trained on.
    """
    reflections = shard_reflections(run, shard)
    facts, seed = config.memory.calibration_facts, config.run.seed
    start = load_start(run.train(shard))
    known = set[str]() if start is None else start.known(run, shard)
    trained, held = split_held_out(reflections, facts, seed, known)
    if start is not None:
        trained = replayed(trained, known, start.replay, seed)
    tokenizer = AutoTokenizer.from_pretrained(base.path)
    chat = ChatFormat.from_tokenizer(tokenizer)
    examples, too_long = tokenize(
        trained, chat, config.train.micro_batch_tokens, trains_questions(config)
    )
    probe = _probe(examples)
    if config.train.source == "documents":
        documents = shard_documents(run, shard)
        examples = tokenize_documents(documents, tokenizer, config.train.micro_batch_tokens)
    left_out = {row.id for row in too_long}
    used = [row for row in trained if row.id not in left_out]
    return ShardExamples(examples, held, too_long, probe, used)


def trained_job(run: RunFolder, shard: int) -> TrainJob:
    """How a shard was trained, whatever the configuration says by now."""
    path = run.train(shard) / JOB
    return atomic.as_record({"values": atomic.read_json(path)}, path, TrainJob.from_json)


def training_identity(
    config: Config, weights: str, examples: Path, further: Sequence[str] = ()
) -> str:
    """Hash of everything that decides the trained weights, the cluster's shape aside.

    Args:
        config: the configuration.
        weights: hash of those that the training begins with.
        examples: the file of tokenised examples.
        further: hashes of what the examples have beside their tokens.
    """
    return hash_value([stage_hash(config, "train"), weights, hash_file(examples), *further])


def resolved_recipe(train: TrainConfig, base: BaseModel) -> TrainConfig:
    """The settings with what they leave to the base: the learning rate and the epochs."""
    peak = peak_lr(train, StoredWeights(base.path).parameters())
    return replace(train, lr=peak, epochs=passes(train, base.name == SCRATCH_NAME))


def _with_own_file(train: TrainConfig, folder: Path) -> TrainConfig:
    """Point the ranks at a copy of the DeepSpeed file inside the run.

    Ray gives ranks another working directory, and on other machines only the run is shared.
    """
    if not train.deepspeed:
        return train
    copy = folder.absolute() / "deepspeed.json"
    atomic.write_json(copy, read_deepspeed_file(train.deepspeed))
    return replace(train, deepspeed=str(copy))


def check_training(config: Config) -> None:
    """What can be refused before anything is spent: the DeepSpeed file and its stage."""
    zero_stage(config.train)


def check_machine(config: Config) -> MemoryNeed | None:
    """What this machine cannot do: more ranks or memory than it has, bf16 without a GPU.

    Returns:
        What one rank needs, where the base is here.
    """
    have = detect_resources()
    placement = plan_placement(config, have)
    rows_per_step(config.train, placement.ranks)
    use_bf16(config.train.precision)
    need = planned_need(config, placement.ranks, placement.gpu)
    if need is not None:
        shards_in_memory(config, need, placement, have)
    return need


def place_bank(config: Config, have: Resources) -> Placement:
    """Ranks and room of the bank's shards on a cluster, within this machine's memory."""
    placement = plan_placement(config, have)
    rows_per_step(config.train, placement.ranks)
    need = planned_need(config, placement.ranks, placement.gpu)
    if need is None or config.cluster.address:
        return placement
    fit = shards_in_memory(config, need, placement, have)
    return replace(placement, at_once=min(placement.at_once, fit))


def _probe(examples: Examples) -> tuple[tuple[int, ...], ...]:
    count = min(PROBES, len(examples))
    prompts = (examples.tokens(i)[: int(examples.prompts[i])] for i in range(count))
    return tuple(tuple(int(token) for token in ids) for ids in prompts)
