"""From packed rows to tensors, prepared by a thread while the model computes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from memo_dist.training.chunked import Soft
from memo_dist.training.examples import Examples
from memo_dist.training.extras import Extras
from memo_dist.training.loss import Anchor

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
        counts: fp32 [trained], what each of them counts in the loss; None: 1.
        soft: distributions that take the place of the targets; None: none.
        anchor: where the base's own distribution has a loss too; None: nowhere.
    """

    inputs: torch.Tensor
    position_ids: torch.Tensor
    lengths: list[int]
    keep: torch.Tensor
    targets: torch.Tensor
    counts: torch.Tensor | None = None
    soft: Soft | None = None
    anchor: Anchor | None = None

    @property
    def loss_inputs(self) -> tuple[Any, ...]:
        """The arguments of :class:`memo_dist.training.loss.RowModel`, in its order."""
        return (
            self.inputs, self.position_ids, self.lengths, self.keep, self.targets, self.counts,
            self.soft, self.anchor,
        )  # fmt: skip

    def to(self, device: torch.device) -> Row:
        """The row on another device; copies from pinned memory overlap with computation."""
        return self._each(lambda value: value.to(device, non_blocking=True))

    def pinned(self) -> Row:
        """The row in page-locked memory, where the machine has a GPU."""
        if not torch.cuda.is_available():
            return self
        return self._each(torch.Tensor.pin_memory)

    def _each(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Row:
        """The row with each of its tensors changed."""
        inputs, positions, keep, targets = map(
            change, (self.inputs, self.position_ids, self.keep, self.targets)
        )
        counts = None if self.counts is None else change(self.counts)
        soft = None if self.soft is None else Soft(*map(change, self.soft))
        anchor = None if self.anchor is None else Anchor(*map(change, self.anchor))
        return Row(inputs, positions, self.lengths, keep, targets, counts, soft, anchor)


def pack_row(
    examples: Examples,
    indices: Sequence[int] | np.ndarray,
    activations: np.ndarray | None = None,
    question_weight: float = 1.0,
    extras: Extras | None = None,
) -> Row:
    """Concatenate examples into one row.

    An empty row (a rank without data in the last step) becomes one token without a target, so
    that its forward and backward passes still take part in the collectives.

    Args:
        examples: the tokenised examples.
        indices: of the row's examples, in order.
        activations: [total tokens, width], what frozen layers make of ``examples.ids``; given,
            they take the place of token ids.
        question_weight: what a trained token of a question counts against one of an answer.
        extras: what some examples have beside their tokens.
    """
    if not len(indices):
        return _empty_row(activations)
    chosen = np.asarray(indices)
    starts = examples.starts[chosen]
    lengths = examples.starts[chosen + 1] - starts
    offsets = np.cumsum(lengths) - lengths
    positions = np.arange(lengths.sum()) - np.repeat(offsets, lengths)
    trained = positions >= np.repeat(examples.untrained[chosen], lengths)
    flat = positions + np.repeat(starts, lengths)
    ids = torch.from_numpy(examples.ids[flat].astype(np.int64))
    inputs = ids if activations is None else as_tensor(activations[flat])
    where = np.flatnonzero(trained)
    counts = None
    if question_weight != 1.0 and (examples.untrained[chosen] < examples.prompts[chosen]).any():
        answered = positions[where] >= np.repeat(examples.prompts[chosen], lengths)[where]
        weights = np.where(answered, 1.0, question_weight).astype(np.float32)
        counts = torch.from_numpy(weights)
    kept = torch.from_numpy(where)
    soft = anchor = None
    if extras is not None:
        owners = np.repeat(chosen, lengths)[where]
        soft = _soft(extras, owners, positions[where] - examples.prompts[owners], ids[kept])
        anchor = _anchor(extras, owners, flat[where] - 1)
    return Row(
        inputs[None], torch.from_numpy(positions)[None], lengths.tolist(), kept - 1, ids[kept],
        counts, soft, anchor,
    )  # fmt: skip


def _soft(
    extras: Extras, owners: np.ndarray, places: np.ndarray, targets: torch.Tensor
) -> Soft | None:
    """The teacher's distributions of the trained tokens of a row; None: it has none of them."""
    if extras.soft is None:
        return None
    has, ids, chances = extras.soft.of(owners, places)
    if not has.any():
        return None
    weight = np.where(has, extras.soft_weight, 0.0).astype(np.float32)
    tokens = torch.from_numpy(ids.astype(np.int64))
    untaught = torch.from_numpy(~has)[:, None]
    return Soft(
        torch.from_numpy(1.0 - weight),
        torch.where(untaught, targets[:, None], tokens),
        torch.from_numpy(chances * weight[:, None]),
    )


def _anchor(extras: Extras, owners: np.ndarray, places: np.ndarray) -> Anchor | None:
    """Where replayed tokens of a row are held near the base; None: nowhere."""
    if extras.anchor is None:
        return None
    at = np.flatnonzero(owners >= extras.first_replayed)
    if not len(at):
        return None
    hidden = as_tensor(extras.anchor[places[at] - extras.first_token])
    return Anchor(torch.from_numpy(at), hidden)


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
        like: a real row, for the kind of its inputs and of its loss.
    """
    inputs = like.inputs[:, :1].expand(-1, tokens, *like.inputs.shape[2:]).contiguous()
    positions = torch.arange(tokens)
    targets = torch.zeros(tokens - 1, dtype=torch.int64)
    counts = None if like.counts is None else torch.ones(tokens - 1)
    soft = anchor = None
    if like.soft is not None:
        soft = Soft(*(_repeated(part, tokens - 1) for part in like.soft))
    if like.anchor is not None:
        anchor = Anchor(positions[:-1], _repeated(like.anchor.hidden, tokens - 1))
    return Row(inputs, positions[None], [tokens], positions[:-1], targets, counts, soft, anchor)


def _repeated(values: torch.Tensor, times: int) -> torch.Tensor:
    """The first row of a tensor, ``times`` times."""
    return values[:1].expand(times, *values.shape[1:]).contiguous()


def prefetched(
    examples: Examples,
    rows: Iterable[np.ndarray],
    activations: np.ndarray | None = None,
    question_weight: float = 1.0,
    extras: Extras | None = None,
) -> Iterator[Row]:
    """Rows in order, packed up to :data:`AHEAD` early by a thread of its own."""
    waiting = iter(rows)

    def prepared(indices: np.ndarray) -> Row:
        return pack_row(examples, indices, activations, question_weight, extras).pinned()

    with ThreadPoolExecutor(1, thread_name_prefix="rows") as pool:
        ready = [pool.submit(prepared, row) for row in _first(waiting, AHEAD)]
        while ready:
            row = ready.pop(0).result()
            ready += [pool.submit(prepared, row) for row in _first(waiting, 1)]
            yield row


def _first(rows: Iterator[np.ndarray], count: int) -> list[np.ndarray]:
    return [row for _, row in zip(range(count), rows, strict=False)]
