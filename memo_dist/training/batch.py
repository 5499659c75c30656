"""From packed rows to tensors, prepared by a thread while the model computes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch

from memo_dist.training.examples import Examples

AHEAD = 4
"""Rows that are ready before they are needed."""


@dataclass(frozen=True)
class Row:
    """One packed row, ready for :class:`memo_dist.training.loss.RowModel`.

    Attributes:
        inputs: int64 [1, tokens] token ids, or [1, tokens, width] activations of frozen layers.
        position_ids: int64 [1, tokens], restarting at 0 for each example.
        lengths: tokens of each example: the attention borders.
        keep: int64 [trained], positions whose logits predict a trained token.
        targets: int64 [trained], those tokens.
    """

    inputs: torch.Tensor
    position_ids: torch.Tensor
    lengths: list[int]
    keep: torch.Tensor
    targets: torch.Tensor

    def to(self, device: torch.device) -> Row:
        """The row on another device; copies from pinned memory overlap with computation."""
        inputs, positions, keep, targets = (
            value.to(device, non_blocking=True)
            for value in (self.inputs, self.position_ids, self.keep, self.targets)
        )
        return Row(inputs, positions, self.lengths, keep, targets)

    def pinned(self) -> Row:
        """The row in page-locked memory, where the machine has a GPU."""
        if not torch.cuda.is_available():
            return self
        inputs, positions, keep, targets = (
            value.pin_memory()
            for value in (self.inputs, self.position_ids, self.keep, self.targets)
        )
        return Row(inputs, positions, self.lengths, keep, targets)


def pack_row(
    examples: Examples, indices: Sequence[int] | np.ndarray, activations: np.ndarray | None = None
) -> Row:
    """Concatenate examples into one row.

    An empty row (a rank without data in the last step) becomes one token without a target, so
    that its forward and backward passes still take part in the collectives.

    Args:
        examples: the tokenised examples.
        indices: of the row's examples, in order.
        activations: [total tokens, width], what frozen layers make of ``examples.ids``; given,
            they take the place of token ids.
    """
    if not len(indices):
        return _empty_row(activations)
    starts = examples.starts[np.asarray(indices)]
    lengths = examples.starts[np.asarray(indices) + 1] - starts
    offsets = np.cumsum(lengths) - lengths
    positions = np.arange(lengths.sum()) - np.repeat(offsets, lengths)
    trained = positions >= np.repeat(examples.untrained[np.asarray(indices)], lengths)
    flat = positions + np.repeat(starts, lengths)
    ids = torch.from_numpy(examples.ids[flat].astype(np.int64))
    inputs = ids if activations is None else as_tensor(activations[flat])
    where = torch.from_numpy(np.flatnonzero(trained))
    return Row(
        inputs[None], torch.from_numpy(positions)[None], lengths.tolist(), where - 1, ids[where]
    )


def as_tensor(activations: np.ndarray) -> torch.Tensor:
    """fp32 as it is; int16 holds the bits of bf16, which numpy does not know."""
    tensor = torch.from_numpy(activations)
    return tensor.view(torch.bfloat16) if tensor.dtype == torch.int16 else tensor


def _empty_row(activations: np.ndarray | None) -> Row:
    zero, nothing = torch.zeros((1, 1), dtype=torch.int64), torch.zeros(0, dtype=torch.int64)
    inputs = zero if activations is None else as_tensor(activations[None, :1].copy())
    return Row(inputs, zero, [1], nothing, nothing)


def full_row(tokens: int, like: Row) -> Row:
    """A row of one example that fills ``tokens`` tokens, each but the first trained.

    Args:
        tokens: of the row.
        like: a real row, for the kind of its inputs.
    """
    inputs = like.inputs[:, :1].expand(-1, tokens, *like.inputs.shape[2:]).contiguous()
    positions = torch.arange(tokens)
    targets = torch.zeros(tokens - 1, dtype=torch.int64)
    return Row(inputs, positions[None], [tokens], positions[:-1], targets)


def prefetched(
    examples: Examples, rows: Iterable[np.ndarray], activations: np.ndarray | None = None
) -> Iterator[Row]:
    """Rows in order, packed up to :data:`AHEAD` early by a thread of its own."""
    waiting = iter(rows)

    with ThreadPoolExecutor(1, thread_name_prefix="rows") as pool:
        ready = [pool.submit(_prepare, examples, r, activations) for r in _first(waiting, AHEAD)]
        while ready:
            row = ready.pop(0).result()
            ready += [pool.submit(_prepare, examples, r, activations) for r in _first(waiting, 1)]
            yield row


def _prepare(examples: Examples, indices: np.ndarray, activations: np.ndarray | None) -> Row:
    return pack_row(examples, indices, activations).pinned()


def _first(rows: Iterator[np.ndarray], count: int) -> list[np.ndarray]:
    return [row for _, row in zip(range(count), rows, strict=False)]
