"""Eager PyTorch definitions of memory_attention*; the fallback without compiled kernels.

Shapes: ``query`` [B, H, T, D]; ``key``, ``value`` [B, G, M, D], head h reads group h // (H // G);
``gate`` [H], before tanh; ``present`` bool [B, M]. Sums run in float32, or float64 where the
gate is. Rules that a plain composition does not have: an absent slot is not read (its NaNs do not
count), and a row with no slot present has result 0 and gradient 0.
"""

from __future__ import annotations

import torch
from torch import Tensor


def _spread(slots: Tensor, heads: int) -> Tensor:
    """[B, G, ...] as [B, H, ...]."""
    return slots.repeat_interleave(heads // slots.shape[1], dim=1) if slots.shape[1] else slots


def _read(slots: Tensor, present: Tensor, real: torch.dtype, heads: int) -> Tensor:
    """Keys or values of every head; zero where absent."""
    kept = slots.to(real).masked_fill(~present[:, None, :, None], 0.0)
    return _spread(kept, heads)


def _scores(query: Tensor, key: Tensor, present: Tensor, scale: float) -> Tensor:
    scores = scale * (query @ key.transpose(-1, -2))
    return scores.masked_fill(~present[:, None, None, :], -torch.inf)


def _weights(scores: Tensor, normaliser: Tensor) -> Tensor:
    """exp(scores - normaliser); 0 in rows without a slot, where both are -inf."""
    center = normaliser.masked_fill(normaliser == -torch.inf, 0.0)
    return (scores - center[..., None]).exp()


def memory_attention(
    query: Tensor, key: Tensor, value: Tensor, gate: Tensor, present: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    """tanh(gate) softmax(scale q k^T) v, [B, H, T, D] in the query's dtype, and each row's
    log-sum-exp [B, H, T] (-inf where there is no slot)."""
    real, heads = gate.dtype, query.shape[1]
    key, value = (_read(part, present, real, heads) for part in (key, value))
    scores = _scores(query.to(real), key, present, scale)
    if scores.shape[-1]:
        normaliser = scores.logsumexp(dim=-1)
    else:
        normaliser = scores.new_full(scores.shape[:-1], -torch.inf)
    mixed = gate.tanh()[:, None, None] * (_weights(scores, normaliser) @ value)
    return mixed.to(query.dtype), normaliser


def memory_attention_grad_query(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    gate: Tensor,
    present: Tensor,
    scale: float,
    normaliser: Tensor,
) -> tuple[Tensor, Tensor]:
    """Gradient of the query, and of each row by its gate's tanh: delta [B, H, T]."""
    real, heads = gate.dtype, query.shape[1]
    key, value = (_read(part, present, real, heads) for part in (key, value))
    weights = _weights(_scores(query.to(real), key, present, scale), normaliser)
    slopes = grad.to(real) @ value.transpose(-1, -2)
    delta = (weights * slopes).sum(dim=-1)
    pushes = weights * (slopes - delta[..., None])
    grad_query = (scale * gate.tanh())[:, None, None] * (pushes @ key)
    return grad_query.to(query.dtype), delta


def memory_attention_grad_memory(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    gate: Tensor,
    present: Tensor,
    scale: float,
    normaliser: Tensor,
    delta: Tensor,
) -> tuple[Tensor, Tensor]:
    """Gradients of key and value."""
    real, heads, groups = gate.dtype, query.shape[1], key.shape[1]
    wide_key, wide_value = (_read(part, present, real, heads) for part in (key, value))
    query, grad = query.to(real), gate.tanh()[:, None, None] * grad.to(real)
    weights = _weights(_scores(query, wide_key, present, scale), normaliser)
    slopes = grad @ wide_value.transpose(-1, -2)
    pushes = scale * weights * (slopes - (gate.tanh()[:, None] * delta)[..., None])
    grad_key = pushes.transpose(-1, -2) @ query
    grad_value = weights.transpose(-1, -2) @ grad
    grads = [part.unflatten(1, (groups, -1)).sum(dim=2) for part in (grad_key, grad_value)]
    return grads[0].to(key.dtype), grads[1].to(value.dtype)


def memory_attention_decode(
    x: Tensor, keys: Tensor, values: Tensor, gate: Tensor, present: Tensor, eps: float
) -> Tensor:
    """x + sum_h tanh(gate_h) softmax(keys_h . norm(x)) values_h; keys, values [B or 1, H, M, C]."""
    real = gate.dtype
    wide = x.to(real)
    normed = wide * (wide.square().mean(dim=-1, keepdim=True) + eps).rsqrt()
    absent = ~present[:, None, :, None]
    keys, values = (part.to(real).masked_fill(absent, 0.0) for part in (keys, values))
    scores = normed[:, None] @ keys.transpose(-1, -2)
    scores = scores.masked_fill(~present[:, None, None, :], -torch.inf)
    if not scores.shape[-1]:
        return x.clone()
    weights = gate.tanh()[:, None, None] * _weights(scores, scores.logsumexp(dim=-1))
    return (wide + (weights @ values).sum(dim=1)).to(x.dtype)
