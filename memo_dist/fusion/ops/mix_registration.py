"""Schemas, fake kernels and gradients of ``torch.ops.memo.mix_logits*``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from memo_dist.fusion.ops import mix_reference as reference
from memo_dist.fusion.ops.library import LIBRARY, define

_MIXTURE = "Tensor[] logits, Tensor log_weights, float[] temperatures"
Logits = Sequence[Tensor]


def _like(weights: Tensor, *shape: Any, dtype: torch.dtype | None = None) -> Tensor:
    return weights.new_empty(shape, dtype=dtype)


def _rows_sources(weights: Tensor) -> tuple[Any, Any]:
    return weights.shape[0], weights.shape[1]


def _normalisers(weights: Tensor) -> Tensor:
    return _like(weights, *_rows_sources(weights), 2)


def _fake_full(logits: Logits, weights: Tensor, temperatures: Any, dtype: torch.dtype) -> Any:
    return logits[0].new_empty(logits[0].shape, dtype=dtype), _normalisers(weights)


def _fake_target(logits: Logits, weights: Tensor, temperatures: Any, targets: Tensor) -> Any:
    rows, sources = _rows_sources(weights)
    return _like(weights, rows), _like(weights, rows, sources), _normalisers(weights)


def _fake_topk(logits: Logits, weights: Tensor, temperatures: Any, k: int) -> Any:
    rows = weights.shape[0]
    return _like(weights, rows, k), _like(weights, rows, k, dtype=torch.int64)


def _fake_sample(logits: Logits, weights: Tensor, temperatures: Any, seeds: Tensor) -> Any:
    rows = weights.shape[0]
    return _like(weights, rows), _like(weights, rows, dtype=torch.int64)


def _fake_features(logits: Logits, weights: Tensor, temperatures: Any) -> Any:
    shape = _rows_sources(weights)
    tokens = _like(weights, *shape, dtype=torch.int64)
    return _like(weights, *shape), _like(weights, *shape), tokens, _like(weights, shape[0])


def _fake_grad_weights(
    grad: Tensor, logits: Logits, weights: Tensor, temperatures: Any, normalisers: Tensor
) -> Any:
    return _like(weights, *_rows_sources(weights))


def _fake_grad_source(grad: Tensor, grad_weights: Tensor, logits: Logits, *rest: Any) -> Any:
    return logits[rest[-1]].new_empty(logits[0].shape)


def _fake_target_grad_source(grad_weights: Tensor, logits: Logits, *rest: Any) -> Any:
    return logits[rest[-1]].new_empty(logits[0].shape)


define(
    "mix_logits",
    f"({_MIXTURE}, ScalarType dtype) -> (Tensor log_probs, Tensor normalisers)",
    reference=reference.mix_logits,
    fake=_fake_full,
)
define(
    "mix_logits_target",
    f"({_MIXTURE}, Tensor targets) -> (Tensor log_probs, Tensor posterior, Tensor normalisers)",
    reference=reference.mix_logits_target,
    fake=_fake_target,
)
define(
    "mix_logits_topk",
    f"({_MIXTURE}, int k) -> (Tensor log_probs, Tensor tokens)",
    reference=reference.mix_logits_topk,
    fake=_fake_topk,
)
define(
    "mix_logits_sample",
    f"({_MIXTURE}, Tensor seeds) -> (Tensor log_probs, Tensor tokens)",
    reference=reference.mix_logits_sample,
    fake=_fake_sample,
)
define(
    "mix_logits_features",
    f"({_MIXTURE}) -> (Tensor entropies, Tensor max_log_probs, Tensor argmaxes, Tensor divergence)",
    reference=reference.mix_logits_features,
    fake=_fake_features,
)
define(
    "mix_logits_grad_weights",
    f"(Tensor grad, {_MIXTURE}, Tensor normalisers) -> Tensor",
    reference=reference.mix_logits_grad_weights,
    fake=_fake_grad_weights,
)
define(
    "mix_logits_grad_source",
    f"(Tensor grad, Tensor grad_weights, {_MIXTURE}, Tensor normalisers, int source) -> Tensor",
    reference=reference.mix_logits_grad_source,
    fake=_fake_grad_source,
)
define(
    "mix_logits_target_grad_source",
    f"(Tensor grad_weights, {_MIXTURE}, Tensor targets, Tensor normalisers, int source) -> Tensor",
    reference=reference.mix_logits_target_grad_source,
    fake=_fake_target_grad_source,
)

_ops = torch.ops.memo


def _save_full(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    logits, weights, ctx.temperatures, _ = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(weights, output[1], *logits)


def _backward_full(ctx: Any, grad: Tensor, *_: Any) -> tuple[Any, ...]:
    weights, normalisers, *logits = ctx.saved_tensors
    mixture = (logits, weights, ctx.temperatures)
    grad_weights = _ops.mix_logits_grad_weights(grad, *mixture, normalisers)
    grads = [
        _ops.mix_logits_grad_source(grad, grad_weights, *mixture, normalisers, source)
        if needed
        else None
        for source, needed in enumerate(ctx.needs_input_grad[0])
    ]
    return grads, grad_weights, None, None


def _save_target(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    logits, weights, ctx.temperatures, targets = inputs
    _, posterior, normalisers = output
    ctx.mark_non_differentiable(posterior, normalisers)
    ctx.save_for_backward(weights, targets, posterior, normalisers, *logits)


def _backward_target(ctx: Any, grad: Tensor, *_: Any) -> tuple[Any, ...]:
    weights, targets, posterior, normalisers, *logits = ctx.saved_tensors
    grad_weights = grad[:, None] * posterior
    mixture = (logits, weights, ctx.temperatures)
    grads = [
        _ops.mix_logits_target_grad_source(grad_weights, *mixture, targets, normalisers, source)
        if needed
        else None
        for source, needed in enumerate(ctx.needs_input_grad[0])
    ]
    return grads, grad_weights, None, None


torch.library.register_autograd(
    "memo::mix_logits", _backward_full, setup_context=_save_full, lib=LIBRARY
)
torch.library.register_autograd(
    "memo::mix_logits_target", _backward_target, setup_context=_save_target, lib=LIBRARY
)
