"""What benchmarks share: how much of its reflections a bank recalls, and who answers."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from memo_dist.answers.text import contains, exact_match
from memo_dist.io import atomic
from memo_dist.io.runfolder import RunFolder
from memo_dist.memory.bank import Bank, Vote
from memo_dist.synthesis.types import Reflection
from memo_dist.training.prepare import HELD_OUT


@dataclass(frozen=True)
class Recall:
    """Fractions of ``n`` questions.

    Attributes:
        n: questions.
        bank: the heard shard's answer is right and it does not abstain (as served).
        spoken: the same, abstentions by threshold counted as the answers they hold back.
        own: the question's own shard is right, whoever else speaks.
        routed: the heard shard is the question's own.
    """

    n: int
    bank: float
    spoken: float
    own: float
    routed: float


def recall(bank: Bank, rows: Sequence[Reflection]) -> Recall:
    """Ask every row's question."""
    votes = bank.votes([row.question for row in rows], 64, all_write=True)
    pairs = list(zip(rows, votes, strict=True))
    n = max(1, len(rows))
    return Recall(
        n=len(rows),
        bank=sum(_right(v[0], r) and not v[0].verdict.abstained for r, v in pairs) / n,
        spoken=sum(_right(v[0], r) for r, v in pairs) / n,
        own=sum(any(_right(vote, r) for vote in v if vote.shard.id == r.shard) for r, v in pairs)
        / n,
        routed=sum(v[0].shard.id == r.shard for r, v in pairs) / n,
    )


def refused(bank: Bank, rows: Sequence[Reflection]) -> float:
    """Fraction of abstain questions that the bank does not answer."""
    answers = bank.answer([row.question for row in rows], 64)
    return sum(answer.abstained for answer in answers) / max(1, len(rows))


def split(run: RunFolder, shards: int) -> tuple[list[Reflection], list[Reflection]]:
    """(trained, held out) reflections of a run, all shards together."""
    held = [
        Reflection.from_json(row)
        for shard in range(shards)
        for row in atomic.read_jsonl(run.train(shard) / HELD_OUT)
    ]
    out = {row.id for row in held}
    rows = (Reflection.from_json(row) for row in atomic.read_jsonl(run.reflections))
    return [row for row in rows if row.id not in out], held


def sample(rows: Sequence[Reflection], most: int, seed: int) -> list[Reflection]:
    """At most ``most`` rows, the same for the same seed."""
    return list(rows) if len(rows) <= most else random.Random(seed).sample(list(rows), most)


def facts(rows: Sequence[Reflection]) -> list[Reflection]:
    """Rows that state something."""
    return [row for row in rows if row.kind != "abstain"]


def abstentions(rows: Sequence[Reflection]) -> list[Reflection]:
    """Rows whose right answer is to abstain."""
    return [row for row in rows if row.kind == "abstain"]


def load(run: Path) -> Bank:
    """The bank of a run."""
    folder = RunFolder(run)
    return Bank.load(folder.memory, folder.reflections)


def _right(vote: Vote, row: Reflection) -> bool:
    text = vote.raw.text
    return bool(contains(text, [row.answer]) or exact_match(text, [row.answer]))
