"""Rows of different lengths in batches: similar lengths together, padded, results in order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch

Item = TypeVar("Item")


def in_batches(
    lengths: Sequence[int],
    size: int,
    work: Callable[[list[int]], Sequence[Item]],
    most_tokens: int = 0,
) -> list[Item]:
    """What ``work`` finds for each row, in the order of the rows.

    Args:
        lengths: of the rows.
        size: most rows of one batch.
        work: one result for each of the indices that it is given.
        most_tokens: of a padded batch, see :func:`by_length`.
    """
    found: dict[int, Item] = {}
    for batch in by_length(lengths, size, most_tokens):
        found.update(zip(batch, work(batch), strict=True))
    return [found[i] for i in range(len(lengths))]


def by_length(lengths: Sequence[int], size: int, most_tokens: int = 0) -> Iterator[list[int]]:
    """Indices in batches of at most ``size`` rows, the shortest first, equals in their order.

    ``most_tokens`` bounds rows times the longest of them, so that memory does not grow with the
    rows' lengths; 0: no bound. A row beyond it is a batch of its own.
    """
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        wide = most_tokens and lengths[index] * (len(batch) + 1) > most_tokens
        if batch and (len(batch) == size or wide):
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def padded(
    rows: Sequence[Sequence[int]], pad_id: int, device: torch.device, left: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and attention mask, both int64 [batch, longest], padded on one side."""
    longest = max(len(row) for row in rows)

    def filled(values: list[int], filler: int) -> list[int]:
        gap = [filler] * (longest - len(values))
        return gap + values if left else values + gap

    ids = [filled(list(row), pad_id) for row in rows]
    mask = [filled([1] * len(row), 0) for row in rows]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)
