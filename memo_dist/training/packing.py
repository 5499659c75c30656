"""The order of training: which examples share a row, which rows share an optimizer step.

Every rank computes the same plan from the same inputs, so the trained tokens of a whole step
are known without a collective, and a resumed run continues in the very same order. Rows are
independent of the number of ranks: a step has a fixed number of rows, dealt to ranks in turn.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from memo_dist.errors import UsageError

_LOOK_AHEAD = 16


@dataclass(frozen=True)
class Plan:
    """All optimizer steps of a training.

    Attributes:
        order: int32 [positions], example indices in the order of training: the data order. A
            *position* of the data order is an index into it.
        row_starts: int64 [rows + 1], where each packed row begins in ``order``.
        rows_per_step: rows in one optimizer step; the last step may have fewer.
        epoch_ends: number of rows after which each epoch is through.
    """

    order: np.ndarray
    row_starts: np.ndarray
    rows_per_step: int
    epoch_ends: tuple[int, ...]

    @property
    def rows(self) -> int:
        """Number of packed rows."""
        return len(self.row_starts) - 1

    @property
    def steps(self) -> int:
        """Number of optimizer steps."""
        return -(-self.rows // self.rows_per_step)

    def row(self, index: int) -> np.ndarray:
        """int32 example indices of one row."""
        return self.order[self.row_starts[index] : self.row_starts[index + 1]]

    def positions(self, step: int) -> range:
        """The positions of the data order that one optimizer step consumes."""
        first, last = self._row_range(step)
        return range(int(self.row_starts[first]), int(self.row_starts[last]))

    def step_examples(self, step: int) -> np.ndarray:
        """int32 example indices of one optimizer step, counted from 0."""
        positions = self.positions(step)
        return self.order[positions.start : positions.stop]

    def rank_rows(self, step: int, rank: int, world: int) -> list[np.ndarray]:
        """The rows of one rank in a step; an empty one where the last step has no row left.

        Every rank gets the same number of rows, because backward passes are collective.
        """
        first, last = self._row_range(step)
        mine = range(first + rank, first + self.rows_per_step, world)
        return [self.row(i) if i < last else self.order[:0] for i in mine]

    def epoch(self, step: int) -> int:
        """The epoch, from 0, in which a step begins."""
        first_row = step * self.rows_per_step
        return int(np.searchsorted(self.epoch_ends, first_row, side="right"))

    def _row_range(self, step: int) -> tuple[int, int]:
        first = step * self.rows_per_step
        return first, min(first + self.rows_per_step, self.rows)


def plan_training(
    lengths: np.ndarray, row_tokens: int, rows_per_step: int, epochs: int, seed: int
) -> Plan:
    """Shuffle each epoch with its own seed and pack it into rows.

    Args:
        lengths: int [examples], tokens of each example.
        row_tokens: most tokens in a row.
        rows_per_step: rows of one optimizer step.
        epochs: passes over the examples.
        seed: of the shuffles; epoch e uses (seed, e).

    Raises:
        UsageError: an example does not fit into a row.
    """
    longest = int(lengths.max())
    if longest > row_tokens:
        raise UsageError(
            f"an example of {longest} tokens does not fit into"
            f" train.micro_batch_tokens={row_tokens}"
        )
    orders, sizes = [], []
    epoch_ends: list[int] = []
    for epoch in range(epochs):
        chance = np.random.Generator(np.random.PCG64([seed, epoch]))
        order, counts = pack(lengths, row_tokens, chance)
        orders.append(order)
        sizes.append(counts)
        epoch_ends.append(len(counts) + (epoch_ends[-1] if epoch_ends else 0))
    starts = np.concatenate([[0], np.cumsum(np.concatenate(sizes))])
    return Plan(np.concatenate(orders), starts, rows_per_step, tuple(epoch_ends))


def rows_in_order(lengths: np.ndarray, row_tokens: int) -> list[range]:
    """Consecutive examples in rows of at most ``row_tokens``."""
    rows, start, used = [], 0, 0
    for index, length in enumerate(lengths.tolist()):
        if used + length > row_tokens:
            rows.append(range(start, index))
            start, used = index, 0
        used += length
    return [*rows, range(start, len(lengths))]


def pack(
    lengths: np.ndarray, row_tokens: int, chance: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Fill rows in shuffled order, and close each row's last gap with examples that fit it.

    Best-fit decreasing would fill rows as well, but puts examples of one length together, and
    an optimizer step should see a random sample.

    Args:
        lengths: int [examples], tokens of each example, each from 1 to ``row_tokens``.
        row_tokens: most tokens in a row.
        chance: of the shuffle.

    Returns:
        (int32 [examples] example indices row by row, int64 [rows] examples in each row).
    """
    supply = _Supply(chance.permutation(len(lengths)).tolist(), lengths.tolist())
    tail = min(row_tokens, 2 * int(lengths.mean()))
    order, counts = array("i"), array("q")
    while supply.left:
        before = len(order)
        space = row_tokens
        while supply.left and space - (length := supply.next_length()) >= tail:
            order.append(supply.take_next())
            space -= length
        _close(supply, space, order)
        counts.append(len(order) - before)
    return np.array(order, np.int32), np.array(counts, np.int64)


def _close(supply: _Supply, space: int, order: array[int]) -> None:
    """Fill the rest of a row: one of the next examples and the one that fits best behind it."""
    while supply.left and (fit := supply.best_pair(space)) is not None:
        for length in fit:
            order.append(supply.take(length))
            space -= length


class _Supply:
    """The examples that no row holds yet, in shuffled order and by length.

    Attributes:
        left: how many there are.
    """

    def __init__(self, shuffled: list[int], lengths: list[int]) -> None:
        self.left = len(shuffled)
        self._shuffled = shuffled
        self._lengths = lengths
        self._used = bytearray(len(shuffled))
        self._next = 0
        self._by_length: dict[int, list[int]] = {}
        for index in reversed(shuffled):
            self._by_length.setdefault(lengths[index], []).append(index)
        # Bit n is set while an example of n tokens may be left: the longest one that fits into
        # a space is then one shift away.
        self._available = sum(1 << length for length in self._by_length)

    def next_length(self) -> int:
        """Tokens of the next example in shuffled order; there must be one."""
        while self._used[self._shuffled[self._next]]:
            self._next += 1
        return self._lengths[self._shuffled[self._next]]

    def take_next(self) -> int:
        """Remove the next example in shuffled order."""
        self.next_length()
        index = self._shuffled[self._next]
        self._used[index] = 1
        self.left -= 1
        return index

    def take(self, length: int) -> int:
        """Remove the first example of a length; there must be one."""
        self._drop_used(length)
        index = self._by_length[length].pop()
        self._used[index] = 1
        self.left -= 1
        self._drop_used(length)
        return index

    def best_pair(self, space: int) -> tuple[int, ...] | None:
        """The lengths, one or two, that leave the least of ``space``; None if nothing fits.

        The first is one of the next examples in shuffled order, so that it stays random.
        """
        best: tuple[int, ...] | None = None
        for first in self._next_lengths(_LOOK_AHEAD):
            if first > space:
                continue
            second = self._longest(space - first, beside=first)
            pair = (first, second) if second else (first,)
            if best is None or sum(pair) > sum(best):
                best = pair
            if sum(pair) == space:
                break
        if best is None and (only := self._longest(space)):
            best = (only,)
        return best

    def _next_lengths(self, count: int) -> Iterator[int]:
        self.next_length()
        unused = (i for i in self._shuffled[self._next : self._next + count] if not self._used[i])
        return (self._lengths[index] for index in unused)

    def _longest(self, space: int, beside: int = 0) -> int:
        """The longest length up to ``space`` that is left, ``beside`` one taken; 0 if none."""
        candidates = self._available & ((1 << (space + 1)) - 1)
        while candidates:
            length = candidates.bit_length() - 1
            if self._drop_used(length, keep=2 if length == beside else 1):
                return length
            candidates ^= 1 << length
        return 0

    def _drop_used(self, length: int, keep: int = 1) -> bool:
        """Forget used examples of a length; whether at least ``keep`` are left (at most 2)."""
        stack, used = self._by_length[length], self._used
        while stack and used[stack[-1]]:
            stack.pop()
        if not stack:
            self._available &= ~(1 << length)
        while keep == 2 and len(stack) > 1 and used[stack[-2]]:
            del stack[-2]
        return len(stack) >= keep
