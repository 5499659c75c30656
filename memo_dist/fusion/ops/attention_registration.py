"""Schemas, fake kernels and gradients of ``torch.ops.memo.memory_attention*``."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from memo_dist.fusion.ops import attention_reference as reference
from memo_dist.fusion.ops.library import LIBRARY, define

_READ = "Tensor query, Tensor key, Tensor value, Tensor gate, Tensor present, float scale"


def _per_row(query: Tensor, gate: Tensor) -> Tensor:
    return gate.new_empty(query.shape[:3])


def _fake_forward(query: Tensor, key: Tensor, value: Tensor, gate: Tensor, *rest: Any) -> Any:
    return query.new_empty(query.shape), _per_row(query, gate)


def _fake_grad_query(grad: Tensor, query: Tensor, key: Tensor, value: Tensor, gate: Tensor,
                     *rest: Any) -> Any:  # fmt: skip
    return query.new_empty(query.shape), _per_row(query, gate)


def _fake_grad_memory(grad: Tensor, query: Tensor, key: Tensor, value: Tensor, *rest: Any) -> Any:
    return key.new_empty(key.shape), value.new_empty(value.shape)


def _fake_decode(x: Tensor, *rest: Any) -> Tensor:
    return x.new_empty(x.shape)


define(
    "memory_attention",
    f"({_READ}) -> (Tensor mixed, Tensor normaliser)",
    reference=reference.memory_attention,
    fake=_fake_forward,
)
define(
    "memory_attention_grad_query",
    f"(Tensor grad, {_READ}, Tensor normaliser) -> (Tensor grad_query, Tensor delta)",
    reference=reference.memory_attention_grad_query,
    fake=_fake_grad_query,
)
define(
    "memory_attention_grad_memory",
    f"(Tensor grad, {_READ}, Tensor normaliser, Tensor delta)"
    " -> (Tensor grad_key, Tensor grad_value)",
    reference=reference.memory_attention_grad_memory,
    fake=_fake_grad_memory,
)
define(
    "memory_attention_decode",
    "(Tensor x, Tensor keys, Tensor values, Tensor gate, Tensor present, float eps) -> Tensor",
    reference=reference.memory_attention_decode,
    fake=_fake_decode,
)

_ops = torch.ops.memo


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, ctx.scale = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(*tensors, output[1])


def _backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Any, ...]:
    *tensors, normaliser = ctx.saved_tensors
    gate = tensors[3]
    read = (*tensors, ctx.scale)
    grad_query, delta = _ops.memory_attention_grad_query(grad, *read, normaliser)
    grad_key = grad_value = None
    if ctx.needs_input_grad[1] or ctx.needs_input_grad[2]:
        grad_key, grad_value = _ops.memory_attention_grad_memory(grad, *read, normaliser, delta)
    grad_gate = delta.sum(dim=(0, 2)) * (1 - gate.tanh().square())
    return grad_query, grad_key, grad_value, grad_gate, None, None


torch.library.register_autograd(
    "memo::memory_attention", _backward, setup_context=_save, lib=LIBRARY
)
