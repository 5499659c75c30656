"""Many short lists asked as one, and what comes back in the old lists again."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")


def joined(rows: Iterable[Iterable[Item]]) -> list[Item]:
    """All items of all rows, one after the other."""
    return [item for row in rows for item in row]


def parted(items: Sequence[Item], lengths: Sequence[int]) -> list[list[Item]]:
    """The items in rows of the given lengths, in order.

    Raises:
        ValueError: there are more or fewer items than places.
    """
    if len(items) != sum(lengths):
        raise ValueError(f"{len(items)} items for {sum(lengths)} places")
    rest = iter(items)
    return [list(islice(rest, length)) for length in lengths]
