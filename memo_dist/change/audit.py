"""``forget --audit``: what the new weights know of forgotten documents, beside a run without them.

The questions are taken before the forgetting, from reflections of the documents and from a file of
the user's; they stay in this process's memory, so that no file keeps them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from memo_dist.answers.text import contains
from memo_dist.change.forget import chosen, forget, known_documents
from memo_dist.change.measures import deletion_rate, interval, membership
from memo_dist.change.receipt import FOLDER, Receipt
from memo_dist.change.verify import never_saw_run
from memo_dist.config.schema import Config
from memo_dist.corpus.manifest import iter_documents
from memo_dist.errors import UsageError
from memo_dist.evaluation.questions import load_questions
from memo_dist.io import atomic
from memo_dist.io.hashing import stable_modulo
from memo_dist.io.runfolder import RunFolder
from memo_dist.memory.answering import ShardMemory
from memo_dist.memory.likelihood import Known, known_answers, known_sentences
from memo_dist.memory.manifest import load_manifest
from memo_dist.models.identity import BaseModel, hash_weights
from memo_dist.synthesis.types import Reflection
from memo_dist.training import checkpoint
from memo_dist.training.export import shard_memory
from memo_dist.training.prepare import trained_base

MOST = 200
"""Questions of a shard, and sentences, that are measured."""
_BUCKETS = 1 << 32
_SENTENCE_WORDS = 6


@dataclass(frozen=True)
class Asked:
    """What is measured on one shard.

    Attributes:
        pairs: questions about the forgotten documents, with gold answers.
        sentences: of these documents.
        stays: questions about other documents of the shard, with the taught answers.
    """

    pairs: Sequence[tuple[str, str]]
    sentences: Sequence[str]
    stays: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Numbers:
    """What a shard's weights know.

    Attributes:
        right: 1 or 0 for each question, whether the greedy answer contains the gold one.
        pairs, sentences: likelihoods of gold answers, and of the documents' sentences.
        stays: as ``right``, for other documents of the shard.
    """

    right: Sequence[float]
    pairs: Sequence[Known]
    sentences: Sequence[Known]
    stays: Sequence[float]


def collect(run: RunFolder, ids: Collection[str], questions: Path | None) -> dict[int, Asked]:
    """What to ask each shard that holds the documents ``ids``, before they are forgotten.

    Raises:
        UsageError: the file of questions cannot be read, or nothing is known to ask.
    """
    run = run.pin()
    own = load_questions(questions) if questions else []
    taught = [Reflection.from_json(row) for row in atomic.read_jsonl(run.trained_reflections)]
    texts = {one.id: one.text for one in iter_documents(run.corpus) if one.id in ids}
    found = {}
    for entry in load_manifest(run.memory).shards:
        gone = {row.id for row in entry.documents} & set(ids)
        if not gone:
            continue
        facts = [row for row in taught if row.shard == entry.id and row.kind != "abstain"]
        pairs = [(q.question, q.answer) for q in own if q.answer and gone & set(q.supporting_ids)]
        pairs += _sample(row for row in facts if gone & set(row.sources))
        sentences = [s for name in sorted(gone & texts.keys()) for s in _sentences(texts[name])]
        stays = _sample(row for row in facts if not gone & set(row.sources))
        found[entry.id] = Asked(pairs[:MOST], sentences[:MOST], stays)
    if not any(asked.pairs for asked in found.values()):
        raise UsageError(
            "--audit has nothing to ask: the memory has no reflections of these documents any"
            " more; give --questions FILE with questions about them"
        )
    return found


def _sample(rows: Iterator[Reflection]) -> list[tuple[str, str]]:
    ordered = sorted(rows, key=lambda row: stable_modulo(f"audit:{row.id}", _BUCKETS))
    return [(row.question, row.answer) for row in ordered[:MOST]]


def _sentences(text: str) -> list[str]:
    import pysbd

    found = pysbd.Segmenter(language="en", clean=False).segment(text)
    return [one.strip() for one in found if len(one.split()) >= _SENTENCE_WORDS]


def measure(memory: ShardMemory, asked: Asked) -> Numbers:
    """What a loaded shard knows."""
    return Numbers(
        right=_right(memory, asked.pairs),
        pairs=known_answers(memory, asked.pairs),
        sentences=known_sentences(memory, asked.sentences),
        stays=_right(memory, asked.stays),
    )


def _right(memory: ShardMemory, pairs: Sequence[tuple[str, str]]) -> list[float]:
    raws = memory.answer([question for question, _ in pairs]) if pairs else []
    return [contains(raw.text, [gold]) for raw, (_, gold) in zip(raws, pairs, strict=True)]


def measured_now(run: RunFolder, config: Config, asked: Mapping[int, Asked]) -> dict[int, Numbers]:
    """Measure the run's trained shards; those that are not there are left out."""
    base = trained_base(run, config)
    ready = {k: run.train(k) / "final" for k in asked}
    return {
        k: measure(_load(folder, k, base, config), asked[k])
        for k, folder in ready.items()
        if checkpoint.is_complete(folder)
    }


def _load(folder: Path, shard: int, base: BaseModel, config: Config) -> ShardMemory:
    loaded = shard_memory(folder, shard, base, config.memory.max_answer_tokens)
    return loaded.voices()[shard].memory


def audit(
    run: RunFolder,
    config: Config,
    receipt: Receipt,
    asked: Mapping[int, Asked],
    before: Mapping[int, Numbers],
) -> dict[str, Any]:
    """The audit of a forgetting that has ended; trains the run that never saw the documents.

    Args:
        run: the run.
        config: its configuration.
        receipt: of the forgetting.
        asked: see :func:`collect`.
        before: what the old weights knew.

    Raises:
        UsageError, RunError: the comparison cannot be trained.
    """
    shards = sorted(asked)
    now = measured_now(run, config, asked)
    with never_saw_run(run, config, shards) as other:
        hashes = {k: [hash_weights(one.train(k) / "final") for one in (run, other)] for k in shards}
        never = measured_now(other, config, asked)
    states = [checkpoint.read_state(run.train(k) / "final") for k in range(config.corpus.shards)]
    tokens = [state.consumed_tokens for state in states]
    again = sum(tokens[int(k)] for k in receipt.shards)
    return {
        "bytes equal": {str(k): one == two for k, (one, two) in hashes.items()},
        "before": _row(before.values(), never.values(), asked),
        "now": _row(now.values(), never.values(), asked),
        "never saw": _row(never.values(), never.values(), asked),
        "share of tokens trained again": again / max(1, sum(tokens)),
        "seconds": dict(receipt.seconds),
        "deletions until all shards were trained again": deletion_rate(config.corpus.shards),
        "files that hold the texts": list(receipt.found),
    }


def _row(ours: Any, never: Any, asked: Mapping[int, Asked]) -> dict[str, Any]:
    """Numbers of all shards together, beside those of the run that never saw the documents."""
    ours, never = list(ours), list(never)
    if not ours:
        return {}
    right = [hit for one in ours for hit in one.right]
    pairs = [known for one in ours for known in one.pairs]
    theirs = [known for one in never for known in one.pairs]
    texts = [answer for one in asked.values() for _, answer in one.pairs]
    stays = [hit for one in ours for hit in one.stays]
    sentences = [known for one in ours for known in one.sentences]
    gaps = [abs(a.logprob - b.logprob) for a, b in zip(pairs, theirs, strict=True)]
    found: dict[str, Any] = {
        "questions": len(right),
        "contains": interval(right),
        "log-probability of gold answers": float(np.mean([known.logprob for known in pairs])),
        "largest difference from never saw": max(gaps),
        "membership AUC against never saw": membership(
            list(zip(pairs, texts, strict=True)), list(zip(theirs, texts, strict=True))
        ),
    }
    if sentences:
        found["sentences"] = len(sentences)
        found["exact memorisation"] = float(np.mean([one.memorised for one in sentences]))
        found["extraction strength"] = float(np.mean([one.extractable for one in sentences]))
    if stays:
        found["contains, documents that stay"] = interval(stays)
    return found


def audited_forget(
    run: RunFolder, config: Config, patterns: Sequence[str], why: str, questions: Path | None
) -> tuple[Receipt, list[str]]:
    """Forget documents of an open run, and audit that.

    Args:
        run, config, patterns, why: see ``memo_dist.change.forget.forget``.
        questions: a file of questions about them; None: reflections only.

    Returns:
        The receipt, with the audit, and lines for people.

    Raises:
        UsageError, RunError: see ``forget``, :func:`collect` and :func:`audit`.
    """
    asked = collect(run, chosen(patterns, known_documents(run)), questions)
    before = measured_now(run, config, asked)
    receipt = forget(run, config, patterns, why)
    result = audit(run, config, receipt, asked, before)
    receipt = replace(receipt, audit=result)
    receipt.save(run.generations / FOLDER)
    return receipt, list(lines(result))


def lines(result: Mapping[str, Any]) -> Iterator[str]:
    """For people."""
    equal = ", ".join(f"shard {k} {'yes' if v else 'NO'}" for k, v in result["bytes equal"].items())
    yield f"bytes equal to a run that never saw it: {equal}"
    for name in ("before", "now", "never saw"):
        row = result[name]
        if not row:
            yield f"{name:<10} not measured: a training of the old weights is not there"
            continue
        share, low, high = row["contains"]
        yield (
            f"{name:<10} {row['questions']} questions: contains {share:.1%} ({low:.1%} to"
            f" {high:.1%}), log-probability {row['log-probability of gold answers']:.3f},"
            f" extraction strength {row.get('extraction strength', 0.0):.3f}, loss AUC"
            f" {row['membership AUC against never saw']['loss'][0]:.3f}"
        )
    yield f"share of tokens trained again: {result['share of tokens trained again']:.1%}"
