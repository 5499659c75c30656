"""The seam between a study and what its memories are taught."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch

IGNORE = -100
"""Target of a position that nothing is predicted at."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows that are read together, padded on the right.

    Attributes:
        tokens: int64 [rows, length], what is read.
        targets: int64 [rows, length], the next token, or :data:`IGNORE`.
        read: tokens without padding.
    """

    tokens: torch.Tensor
    targets: torch.Tensor
    read: int


Score = Callable[[Batch], tuple[torch.Tensor, torch.Tensor]]
"""A memory on a batch: nats of each target and whether it is the likeliest token, float64 and
bool [rows, length]; 0 and True where there is no target."""


class Knowledge(Protocol):
    """One draw of knowledge: how it is read, and how much of it a memory holds."""

    @property
    def vocabulary(self) -> int:
        """Tokens of a memory that reads it."""

    @property
    def length(self) -> int:
        """Tokens of the longest row of knowledge; a question about it may be longer."""

    @property
    def items(self) -> int:
        """Pieces of knowledge: sequences, people, reflections."""

    @property
    def bits(self) -> float:
        """Knowledge offered, in bits; NaN where only a trained memory can tell."""

    def batches(self, tokens: int) -> int:
        """Batches of about ``tokens`` in one pass."""

    def batch(self, epoch: int, index: int, tokens: int) -> Batch:
        """One batch of one pass: a function of its arguments and the seed alone."""

    def prepare(self, score: Score) -> None:
        """Called once with the memory before training (relative bits need it)."""

    def held_bits(self, score: Score) -> float:
        """Bits that a memory holds: the ``bits`` of :meth:`measure`, for looks on the way."""

    def measure(self, score: Score) -> dict[str, float]:
        """What a memory holds: ``bits`` and ``recall`` at least, recalls as fractions."""


def pad_rows(rows: list[list[int]], starts: list[int] | None = None) -> Batch:
    """Rows of token ids, each predicting its own next token.

    Args:
        rows: token ids, the first one is given.
        starts: index in each row of the first token that is predicted; 1 without.
    """
    longest = max(len(row) for row in rows)
    tokens = torch.zeros(len(rows), longest - 1, dtype=torch.int64)
    targets = torch.full((len(rows), longest - 1), IGNORE, dtype=torch.int64)
    for index, row in enumerate(rows):
        start = starts[index] if starts else 1
        tokens[index, : len(row) - 1] = torch.tensor(row[:-1])
        targets[index, start - 1 : len(row) - 1] = torch.tensor(row[start:])
    return Batch(tokens, targets, sum(len(row) - 1 for row in rows))


@functools.lru_cache(maxsize=16)
def shuffled(count: int, *seed: int) -> torch.Tensor:
    """A permutation of ``count``, int64: the same for the same seed, kept, not to be written to."""
    return torch.randperm(count, generator=generator(*seed))


def generator(*seed: int) -> torch.Generator:
    """A torch generator whose stream is a function of all numbers of ``seed``."""
    return torch.Generator().manual_seed(_mixed(seed))


def _mixed(seed: tuple[int, ...]) -> int:
    mixed = 0
    for number in seed:
        mixed = (mixed * 1_000_003 + number + 1) % (1 << 63)
    return mixed
