"""What a connector learns from: questions, what to write, and what a teacher reads.

Inside: facts that the memory was trained on; the target is their answer, the teacher is the same
backbone with the fact's passage before the question (context distillation). Outside: questions
that the memory has nothing to say to; the target is the backbone's own text, the teacher the
backbone alone. Everything is token ids, so that ranks need no tokenizer.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from memo_dist.fusion.latent.slots import MemoryText
from memo_dist.io import atomic


@dataclass(frozen=True, slots=True)
class ConnectorExample:
    """One question.

    Attributes:
        prompt: the backbone's tokens up to where the answer begins.
        target: its answer's tokens, the end token included.
        taught: what the teacher reads up to where the answer begins.
        memories: for each shard, what it reads; nothing where it is silent.
        inside: the target is a fact's answer; else the backbone's own text.
    """

    prompt: tuple[int, ...]
    target: tuple[int, ...]
    taught: tuple[int, ...]
    memories: tuple[MemoryText, ...]
    inside: bool

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> ConnectorExample:
        """The inverse of ``asdict``."""
        ids = {name: tuple(row[name]) for name in ("prompt", "target", "taught")}
        memories = tuple(map(MemoryText.from_json, row["memories"]))
        return cls(**ids, memories=memories, inside=row["inside"])


def write_examples(path: Path, examples: Iterable[ConnectorExample]) -> None:
    """Write them as JSON lines, atomically."""
    atomic.write_jsonl(path, [asdict(example) for example in examples])


def read_examples(path: Path) -> list[ConnectorExample]:
    """Read what :func:`write_examples` wrote."""
    return [ConnectorExample.from_json(row) for row in atomic.read_jsonl(path)]


@dataclass(frozen=True, slots=True)
class Padded:
    """Prompts with their targets, padded on the left so that all targets end together.

    Attributes:
        ids, mask, positions: int64 [B, N].
    """

    ids: Tensor
    mask: Tensor
    positions: Tensor

    @classmethod
    def of(cls, rows: Sequence[Sequence[int]], pad_id: int, device: torch.device) -> Padded:
        """Pad rows of tokens."""
        longest = max(len(row) for row in rows)
        ids = torch.tensor([[pad_id] * (longest - len(row)) + [*row] for row in rows])
        mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
        positions = (mask.cumsum(dim=-1) - 1).clamp_min(0)
        return cls(ids.to(device), mask.to(device), positions.to(device))


@dataclass(frozen=True, slots=True)
class ConnectorBatch:
    """Some examples, ready for the models.

    Attributes:
        student, teacher: what the backbone reads, with the targets at the end.
        memories: for each shard, what it reads.
        targets: int64 [B, A], at the end of each row; 0 before.
        counted: float32 [B, A], 1 / tokens of the target where there is one, else 0.
        inside: bool [B].
        noises: seed of the noise on each example's slots; empty: none.
    """

    student: Padded
    teacher: Padded
    memories: list[list[MemoryText]]
    targets: Tensor
    counted: Tensor
    inside: Tensor
    noises: tuple[int, ...] = ()

    @classmethod
    def of(
        cls,
        examples: Sequence[ConnectorExample],
        pad_id: int,
        device: torch.device,
        noises: Sequence[int] = (),
    ) -> ConnectorBatch:
        """Collate examples."""
        longest = max(len(example.target) for example in examples)
        targets = [[0] * (longest - len(e.target)) + [*e.target] for e in examples]
        counted = [
            [0.0] * (longest - len(e.target)) + [1.0 / len(e.target)] * len(e.target)
            for e in examples
        ]
        shards = range(len(examples[0].memories))
        return cls(
            Padded.of([e.prompt + e.target for e in examples], pad_id, device),
            Padded.of([e.taught + e.target for e in examples], pad_id, device),
            [[example.memories[shard] for example in examples] for shard in shards],
            torch.tensor(targets, device=device),
            torch.tensor(counted, device=device),
            torch.tensor([example.inside for example in examples], device=device),
            tuple(noises),
        )
