"""Gated cross-attention from a backbone's tokens to the slots of a memory.

:func:`memory_attention` is what a connector is trained with (Flamingo, arXiv 2204.14198; softmax
in one pass over saved log-sum-exps as in FlashAttention, arXiv 2205.14135).
:func:`memory_attention_decode` is its form for generation: where the slots stay the same for many
tokens, the projections of query and output are multiplied into them once.
"""

from __future__ import annotations

import torch
from torch import Tensor

from memo_dist.fusion.ops import attention_registration as attention_registration

_ops = torch.ops.memo
_MOST_WIDTH = 256


def memory_attention(  # noqa: PLR0913 - what attention reads
    query: Tensor,
    key: Tensor,
    value: Tensor,
    gate: Tensor,
    mask: Tensor | None = None,
    scale: float | None = None,
) -> Tensor:
    """Return ``tanh(gate) softmax(scale q k^T) v`` over the present slots.

    Differentiable in query, key, value and gate. Sums are float32, float64 for a float64 query. A
    row with no slot is 0 with gradient 0; absent slots are not read. A NaN stays in its row.

    Args:
        query: [B, H, T, D], D up to 256.
        key, value: [B, G, M, D]; H is a multiple of G, and head h reads group h // (H // G).
        gate: [H] or [1], before tanh.
        mask: bool [B, M], True where a slot is present; None: all are.
        scale: of the scores; None: D^-1/2.

    Returns:
        [B, H, T, D] in the query's dtype.

    Raises:
        ValueError: shapes or dtypes do not fit.
    """
    batch, heads, _, width = _four("query", query)
    groups, slots = _four("key", key)[1:3]
    if key.shape != value.shape or key.shape[0] != batch or key.shape[3] != width:
        raise ValueError(
            f"query, key and value have shapes {tuple(query.shape)}, {tuple(key.shape)} and"
            f" {tuple(value.shape)}: batch and width must agree"
        )
    if not groups or heads % groups:
        raise ValueError(f"{heads} heads cannot share {groups} groups of slots evenly")
    if not 1 <= width <= _MOST_WIDTH:
        raise ValueError(f"heads are {width} wide; it must be from 1 to {_MOST_WIDTH}")
    kind = query.dtype
    if torch.is_autocast_enabled(query.device.type):
        kind = torch.get_autocast_dtype(query.device.type)
    query, key, value = (part.to(kind) for part in (query, key, value))
    gate = _gate(gate, heads, kind)
    scale = width**-0.5 if scale is None else float(scale)
    mixed, _ = _ops.memory_attention.default(
        query, key, value, gate, _present(mask, batch, slots, query), scale
    )
    return mixed  # type: ignore[no-any-return]


def memory_attention_decode(  # noqa: PLR0913 - what a layer reads
    x: Tensor,
    keys: Tensor,
    values: Tensor,
    gate: Tensor,
    mask: Tensor | None = None,
    *,
    eps: float = 1e-6,
) -> Tensor:
    """Return ``x + sum_h tanh(gate_h) softmax(keys_h . n) values_h``, n = x / rms(x).

    Not differentiable. Absent slots are not read; a row with none is x.

    Args:
        x: [B, T, C], the residual stream.
        keys: [B, H, M, C], with the query projection, the norm's weight and the scale in them;
            of batch 1 where all rows read the same slots.
        values: likewise, with the output projection in them.
        gate: [H] or [1], before tanh.
        mask: bool [B, M] (or of batch 1), True where a slot is present; None: all are.
        eps: added to the mean square.

    Returns:
        [B, T, C] in x's dtype.

    Raises:
        ValueError: shapes or dtypes do not fit.
    """
    if x.dim() != 3:
        raise ValueError(f"x has shape {tuple(x.shape)}; it must be [batch, tokens, width]")
    batch, heads, slots, width = _four("keys", keys)
    if keys.shape != values.shape or width != x.shape[2] or batch not in (1, x.shape[0]):
        raise ValueError(
            f"x, keys and values have shapes {tuple(x.shape)}, {tuple(keys.shape)} and"
            f" {tuple(values.shape)}: batch (or 1) and width must agree"
        )
    keys, values = (part.expand(x.shape[0], -1, -1, -1) for part in (keys, values))
    present = _present(mask, x.shape[0], slots, x)
    with torch.no_grad():
        return _ops.memory_attention_decode.default(  # type: ignore[no-any-return]
            x, keys, values, _gate(gate, heads, x.dtype), present, eps
        )


def _four(name: str, part: Tensor) -> tuple[int, int, int, int]:
    if part.dim() != 4:
        raise ValueError(f"{name} has shape {tuple(part.shape)}; it must have four dimensions")
    first, second, third, fourth = part.shape
    return first, second, third, fourth


def _gate(gate: Tensor, heads: int, kind: torch.dtype) -> Tensor:
    if gate.shape not in ((heads,), (1,)):
        raise ValueError(f"gate has shape {tuple(gate.shape)}; it must be [{heads}] or [1]")
    return gate.to(torch.float64 if kind == torch.float64 else torch.float32).expand(heads)


def _present(mask: Tensor | None, batch: int, slots: int, like: Tensor) -> Tensor:
    if mask is None:
        return torch.ones(batch, slots, dtype=torch.bool, device=like.device)
    if mask.dtype != torch.bool or mask.shape[-1:] != (slots,) or mask.dim() != 2:
        raise ValueError(f"mask is {mask.dtype} {tuple(mask.shape)}; want bool [{batch}, {slots}]")
    if mask.shape[0] not in (1, batch):
        raise ValueError(f"mask has {mask.shape[0]} rows, the batch {batch}")
    return mask.expand(batch, slots)
