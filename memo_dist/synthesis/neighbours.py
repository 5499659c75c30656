"""Near neighbours among word sets by MinHash: linear in the number of sets, never all pairs.

The seam to datasketch. Signatures are seeded, so equal sets have equal signatures everywhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from datasketch import MinHash

PERMUTATIONS = 64
_SEED = 7


def buckets(sets: Sequence[frozenset[str]], rows: int) -> Iterator[list[int]]:
    """Runs of indices whose sets agree on one band of their MinHash signatures.

    Args:
        sets: word sets.
        rows: signature values a band; with b = 64 / rows bands two sets of Jaccard similarity s
            share a bucket with probability ``1 - (1 - s^rows)^b``: rows = 4 finds most pairs
            beyond 0.6, rows = 8 beyond 0.8.

    Yields:
        Lists of at least two indices, each ascending; in an order that depends on the sets only.
    """
    encoded = ([word.encode() for word in sorted(words)] for words in sets)
    sketches = MinHash.generator(encoded, num_perm=PERMUTATIONS, seed=_SEED)
    signatures = [sketch.hashvalues for sketch in sketches]
    for start in range(0, PERMUTATIONS, rows):
        found: dict[bytes, list[int]] = {}
        for index, signature in enumerate(signatures):
            if sets[index]:
                found.setdefault(signature[start : start + rows].tobytes(), []).append(index)
        yield from (members for members in found.values() if len(members) > 1)


def jaccard(one: frozenset[str], other: frozenset[str]) -> float:
    """Size of the intersection over size of the union; 1 for two empty sets."""
    union = len(one | other)
    return len(one & other) / union if union else 1.0
