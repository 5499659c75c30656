"""Buckets that stay: items are told apart by the bits of their keys' hashes, not by their place.

A bucket that would hold too much splits by the next bit of the hash (a binary trie). An item that
comes, goes or changes therefore changes its own bucket only, or splits it, or joins it with the
bucket beside it; the buckets of all other items stay as they are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")

_BITS = 256


def hash_buckets(
    items: Iterable[T], key: Callable[[T], str], fits: Callable[[Sequence[T]], bool]
) -> Iterator[list[T]]:
    """Non-empty buckets, in the order of their hash prefixes; inside one, in the items' order.

    Args:
        items: in the order that a bucket shall keep.
        key: gives the text whose hash places an item; equal keys are never separated.
        fits: whether so many items may form one bucket; must hold for part of a fitting bucket.
    """
    placed = [(hashlib.sha256(key(item).encode()).digest(), item) for item in items]
    if placed:
        yield from _split(placed, 0, fits)


def _split(
    placed: list[tuple[bytes, T]], depth: int, fits: Callable[[Sequence[T]], bool]
) -> Iterator[list[T]]:
    items = [item for _, item in placed]
    if fits(items) or depth == _BITS:
        yield items
        return
    for bit in (0, 1):
        half = [row for row in placed if _bit(row[0], depth) == bit]
        if half:
            yield from _split(half, depth + 1, fits)


def _bit(digest: bytes, index: int) -> int:
    return digest[index // 8] >> (7 - index % 8) & 1
