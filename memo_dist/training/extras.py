"""What training examples may have beside their tokens: a teacher's labels, the base's states."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from memo_dist.io import atomic
from memo_dist.training.examples import mapped


@dataclass(frozen=True)
class SoftLabels:
    """A teacher's most probable tokens at each answer token of some examples.

    Attributes:
        starts: int64 [examples + 1], where each example's rows begin; none where the teacher has
            no passage for it.
        tokens: int32 [rows, k], most probable first; one row for each answer token.
        log_probs: fp32 [rows, k], natural logarithms.
    """

    starts: np.ndarray
    tokens: np.ndarray
    log_probs: np.ndarray

    @cached_property
    def counts(self) -> np.ndarray:
        """int64 [examples], rows of each example."""
        counts: np.ndarray = np.diff(self.starts)
        return counts

    def of(
        self, owners: np.ndarray, places: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The distributions of some tokens, over what the teacher kept.

        Args:
            owners: [tokens], the example of each; examples past the last one have no labels.
            places: [tokens], its place in the answer; below 0: it is of the question.

        Returns:
            (bool [tokens] whether it has one, int32 [tokens, k] tokens, fp32 [tokens, k]
            probabilities with sum 1; zeros where it has none).
        """
        known = owners < len(self.counts)
        example = np.where(known, owners, 0)
        has = known & (places >= 0) & (places < self.counts[example])
        ids = np.zeros((len(owners), self.tokens.shape[1]), np.int32)
        chances = np.zeros(ids.shape, np.float32)
        rows = self.starts[example[has]] + places[has]
        ids[has] = self.tokens[rows]
        kept = np.exp(self.log_probs[rows].astype(np.float64))
        chances[has] = kept / kept.sum(1, keepdims=True)
        return has, ids, chances

    def save(self, path: Path) -> None:
        """Write to a safetensors file, atomically."""
        arrays = {field.name: getattr(self, field.name) for field in fields(self)}
        atomic.write_bytes(path, save(arrays))

    @classmethod
    def load(cls, path: Path) -> SoftLabels:
        """The inverse of :meth:`save`; the arrays are read-only views of the file."""
        return cls(**mapped(path))


@dataclass(frozen=True)
class Extras:
    """What the examples of one training have beside their tokens.

    Attributes:
        soft: a teacher's labels; None: there is no teacher.
        soft_weight: m of :class:`memo_dist.training.chunked.Soft`.
        first_replayed: index of the first replayed example; those after it are replayed too.
        first_token: where its tokens begin.
        anchor: [replayed tokens, width], what the base's output layer gets (as
            :func:`memo_dist.training.batch.as_tensor` reads it); None: no anchor.
    """

    soft: SoftLabels | None
    soft_weight: float
    first_replayed: int
    first_token: int
    anchor: np.ndarray | None
