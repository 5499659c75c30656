"""Weights rounded to a precision after training, and put back.

bf16 is round-to-nearest; int8 has one scale an output row (largest magnitude over 127), int4 one
a group of 32 inputs (largest magnitude over 7), both symmetric. Norms stay as they are: they are
no part of the matrices that a quantised memory stores in few bits. The arithmetic stays fp32, so
that only the loss of the weights' precision is measured.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

_GROUP = 32


@contextmanager
def rounded(model: torch.nn.Module, precision: str) -> Iterator[None]:
    """The model with weights of ``precision`` (fp32, bf16, int8, int4) while the block lasts."""
    matrices = [weight for weight in model.parameters() if weight.dim() >= 2]
    kept = [weight.detach().clone() for weight in matrices]
    try:
        with torch.no_grad():
            for weight in matrices:
                weight.copy_(round_weight(weight, precision))
        yield
    finally:
        with torch.no_grad():
            for weight, before in zip(matrices, kept, strict=True):
                weight.copy_(before)


def round_weight(weight: torch.Tensor, precision: str) -> torch.Tensor:
    """``weight`` [rows, columns] after a trip through ``precision``, in its own dtype."""
    if precision == "fp32":
        return weight
    if precision == "bf16":
        return weight.to(torch.bfloat16).to(weight.dtype)
    if precision == "int8":
        return _symmetric(weight, 127)
    rows, columns = weight.shape
    groups = -(-columns // _GROUP)
    padded = weight.new_zeros(rows, groups * _GROUP)
    padded[:, :columns] = weight
    grouped = _symmetric(padded.reshape(rows * groups, _GROUP), 7)
    return grouped.reshape(rows, groups * _GROUP)[:, :columns]


def _symmetric(weight: torch.Tensor, levels: int) -> torch.Tensor:
    scale = weight.abs().amax(1, keepdim=True).clamp_min(torch.finfo(weight.dtype).tiny) / levels
    return (weight / scale).round().clamp(-levels, levels) * scale
