"""Uniform random sequences: nothing to understand, so every bit must be stored.

N sequences of S symbols, each uniform over V, hold N S log2 V bits. What a memory has of them is
that minus its own code length: N S log2 V - sum of NLL / ln 2 (Morris et al., arXiv 2505.24832).
A uniform memory has 0 bits, one that gives every symbol probability 1 all of them.
"""

from __future__ import annotations

import math

import torch

from memo_dist.scaling.sources.types import Batch, Score, generator, shuffled

_MEASURED_ROWS = 256


class RandomSequences:
    """Sequences after one start token.

    Args:
        bits: knowledge wanted; the number of sequences is rounded to the nearest, at least 1.
        vocabulary: symbols V.
        length: symbols of a sequence S.
        seed: draws the sequences and their order.
    """

    def __init__(self, bits: float, vocabulary: int, length: int, seed: int) -> None:
        self.vocabulary = self.tokens(vocabulary)
        self.length = length
        self._symbols, self._seed = vocabulary, seed
        self.items = max(1, round(bits / (length * math.log2(vocabulary))))
        symbols = torch.randint(0, vocabulary, (self.items, length), generator=generator(seed, 0))
        start = torch.full((self.items, 1), vocabulary)
        self._rows = torch.cat([start, symbols], 1)

    @staticmethod
    def tokens(vocabulary: int) -> int:
        """Tokens of a memory: the symbols and the start."""
        return vocabulary + 1

    @property
    def bits(self) -> float:
        """N S log2 V."""
        return self.items * self.length * math.log2(self._symbols)

    def batches(self, tokens: int) -> int:
        """See :class:`~memo_dist.scaling.sources.types.Knowledge`."""
        return math.ceil(self.items / max(1, tokens // self.length))

    def batch(self, epoch: int, index: int, tokens: int) -> Batch:
        """Every sequence once a pass, in batches of equal size up to one row."""
        order = shuffled(self.items, self._seed, 1, epoch)
        return self._batch(self._rows[order[index :: self.batches(tokens)]])

    def prepare(self, score: Score) -> None:
        """Nothing: the bits are absolute."""

    def held_bits(self, score: Score) -> float:
        """``bits`` of :meth:`measure`."""
        return self.measure(score)["bits"]

    def measure(self, score: Score) -> dict[str, float]:
        """``bits``, and ``recall``: symbols that are the likeliest given those before."""
        nats, hits = 0.0, 0
        for first in range(0, self.items, _MEASURED_ROWS):
            cost, hit = score(self._batch(self._rows[first : first + _MEASURED_ROWS]))
            nats += float(cost.sum())
            hits += int(hit.sum())
        return {
            "bits": self.bits - nats / math.log(2),
            "recall": hits / (self.items * self.length),
        }

    def _batch(self, rows: torch.Tensor) -> Batch:
        return Batch(rows[:, :-1].contiguous(), rows[:, 1:].contiguous(), rows[:, 1:].numel())
