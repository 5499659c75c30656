"""Tiny memories trained in seconds, and banks of them."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from transformers import AutoTokenizer

from memo_dist.answers.text import ABSTAIN_ANSWER
from memo_dist.config.schema import ScratchConfig
from memo_dist.io import atomic
from memo_dist.memory.manifest import BankManifest, BaseRef, ShardEntry, shard_documents
from memo_dist.memory.provenance import reflections_hash
from memo_dist.models.chat_format import ChatFormat
from memo_dist.models.identity import hash_weights, identify
from memo_dist.models.scratch import new_scratch_model, scratch_model_config, train_tokenizer
from memo_dist.synthesis.types import Reflection

SHAPE = ScratchConfig(vocabulary=300, hidden_size=64, layers=2, heads=2, intermediate_size=128)


def adapter_entry(shard: int, folder: Path) -> ShardEntry:
    """A bank's row of an exported adapter, with one document and no reflections of a run."""
    return ShardEntry(
        id=shard,
        path=folder.name,
        kind="adapter",
        documents=shard_documents([(f"doc-{shard}", "0" * 64)]),
        reflections_hash="1" * 64,
        weights_hash=hash_weights(folder),
        recipe_hash="2" * 64,
    )


def train_shards(
    root: Path,
    facts: Sequence[Mapping[str, str]],
    outside: Sequence[str],
    steps: int = 80,
    one_base: bool = False,
) -> list[Path]:
    """A memory for each mapping of facts, which abstains on the others' questions and outside.

    With ``one_base`` all of them begin at the same weights, which are in ``root / "base"``.
    """
    questions = [*(question for shard in facts for question in shard), *outside]
    answers = [answer for shard in facts for answer in shard.values()]
    size = train_tokenizer([*questions, *answers, ABSTAIN_ANSWER], SHAPE.vocabulary, root / "bpe")
    if one_base:
        new_scratch_model(scratch_model_config(SHAPE, size), seed=0).save_pretrained(root / "base")
        AutoTokenizer.from_pretrained(root / "bpe").save_pretrained(root / "base")
    rows = [[(q, known.get(q, ABSTAIN_ANSWER)) for q in questions] for known in facts]
    return [
        _train(root, shard, size, pairs, steps, 0 if one_base else shard)
        for shard, pairs in enumerate(rows)
    ]


def _train(
    root: Path,
    shard: int,
    vocabulary: int,
    pairs: Sequence[tuple[str, str]],
    steps: int,
    seed: int,
) -> Path:
    tokenizer = AutoTokenizer.from_pretrained(root / "bpe")
    chat = ChatFormat.from_tokenizer(tokenizer)
    model = new_scratch_model(scratch_model_config(SHAPE, vocabulary), seed)
    rows = [(chat.prompt_ids(q), chat.answer_ids(a)) for q, a in pairs]
    longest = max(len(p) + len(a) for p, a in rows)
    ids = torch.full((len(rows), longest), chat.pad_id)
    labels = torch.full((len(rows), longest), -100)
    for row, (prompt, answer) in enumerate(rows):
        end = len(prompt) + len(answer)
        ids[row, :end] = torch.tensor(prompt + answer)
        labels[row, len(prompt) : end] = torch.tensor(answer)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(steps):
        model(input_ids=ids, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    folder = root / f"shard-{shard}"
    model.save_pretrained(folder)
    chat.install(tokenizer)
    tokenizer.save_pretrained(folder)
    return folder


def write_bank(
    folder: Path,
    shards: Sequence[Path],
    facts: Sequence[Mapping[str, str]],
    names: Sequence[str] = (),
    base: Path | None = None,
) -> Path:
    """A bank of full shards in ``folder`` (bank.json), with reflections.jsonl beside it.

    Args:
        folder: of the bank.
        shards: their weights.
        facts: what each was taught.
        names: the document of each; ``doc-<shard>`` where none is named.
        base: what they were trained from; None: the first shard counts as that.
    """
    names = names or [f"doc-{shard}" for shard in range(len(shards))]
    rows = [
        Reflection(q, a, "direct", (names[shard],), (), shard, "t", "1", "0")
        for shard, known in enumerate(facts)
        for q, a in known.items()
    ]
    atomic.write_jsonl(folder.parent / "reflections.jsonl", (row.to_json() for row in rows))
    entries = []
    for shard, source in enumerate(shards):
        shutil.copytree(source, folder / f"shard-{shard}")
        entries.append(
            ShardEntry(
                id=shard,
                path=f"shard-{shard}",
                kind="full",
                documents=shard_documents([(names[shard], "0" * 64)]),
                reflections_hash=reflections_hash(row for row in rows if row.shard == shard),
                weights_hash=hash_weights(source),
                recipe_hash="2" * 64,
            )
        )
    BankManifest(BaseRef.of(identify("tiny", base or shards[0])), tuple(entries)).save(folder)
    return folder
