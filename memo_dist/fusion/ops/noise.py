"""The reference of kernels/include/memo/random.h: counter-based noise for Gumbel-max samples."""

from __future__ import annotations

import torch
from torch import Tensor

TILE = 1024
"""Tokens of a tile, part of a sample's definition (kTile in kernels/include/memo/mix_logits.h)."""
TILE_STREAM, TOKEN_STREAM = 0, 1
_WORD = 0xFFFFFFFF


def gumbel(seeds: Tensor, index: Tensor, stream: int) -> Tensor:
    """Return standard Gumbel noise (float64), ``-log(-log u)`` for a uniform of 23 bits.

    Args:
        seeds: int64, broadcasts against ``index``.
        index: int64 number of the tile or the token.
        stream: :data:`TILE_STREAM` or :data:`TOKEN_STREAM`.
    """
    uniform = ((philox(seeds, index, stream) >> 9).double() + 0.5) * 2.0**-23
    return -torch.log(-torch.log(uniform))


def philox(seeds: Tensor, index: Tensor, stream: int) -> Tensor:
    """Return the first word of Philox4x32-10 (Salmon et al., SC 2011) as int64 in [0, 2^32).

    The counter is (index, stream, 0, 0), the key the two halves of the seed.
    """
    seeds, index = torch.broadcast_tensors(seeds, index)
    c0, c1 = index & _WORD, torch.full_like(index, stream)
    c2, c3 = torch.zeros_like(index), torch.zeros_like(index)
    k0, k1 = seeds & _WORD, (seeds >> 32) & _WORD
    for _ in range(10):
        high0, low0 = _multiply(0xD2511F53, c0)
        high1, low1 = _multiply(0xCD9E8D57, c2)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + 0x9E3779B9) & _WORD, (k1 + 0xBB67AE85) & _WORD
    return c0


def _multiply(factor: int, word: Tensor) -> tuple[Tensor, Tensor]:
    """Return the high and low words of a 32 x 32 bit product, in halves that int64 can hold."""
    low_half = (word & 0xFFFF) * factor
    high_half = (word >> 16) * factor + (low_half >> 16)
    return high_half >> 16, ((high_half << 16) | (low_half & 0xFFFF)) & _WORD
