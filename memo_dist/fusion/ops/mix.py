"""The next-token distribution of a backbone mixed with those of its memories.

``log p(v) = log sum_s exp(log_weight_s + log_softmax(logits_s / T_s)(v))``

Source 0 is the backbone, sources 1 to K are memories (kNN-LM, arXiv 1911.00172, with K = 1).
Every function reads each row of logits once or twice, keeps no [rows, vocabulary] temporary, and
returns what decoding or training asks for. Arguments they share:

logits:
    S = K + 1 tensors of one shape [..., vocabulary], float32, float16 or bfloat16 (float64 on
    the CPU), each with any strides and a dtype of its own.
log_weights:
    [..., S] or [S]: logarithms of the sources' weights, -inf allowed. They are not normalised
    here; for log-probs that sum to one give a ``log_softmax``, or :func:`gate_log_weights`.
temperatures:
    one positive number, or one for each source.
vocabulary:
    read only the first so many tokens: padded rows of the models' heads stay out, and the
    sources may be padded to different widths.

**NaN.** A source whose weight is -inf is not read in that row. Any other NaN or +inf, and a
source whose logits are all -inf, make the row's results NaN and its token -1.
**Determinism.** The same inputs give the same bytes, for any number of threads; a row's result
does not depend on the other rows. A sample depends on the row's seed alone.
**Gradients.** :func:`mix_logits` and :func:`mix_logits_target` are differentiable in weights and
logits; results of the others carry no gradient.
**Autocast.** Sums are float32 (float64 for float64 logits) inside and outside autocast.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from memo_dist.fusion.ops import mix_registration as _registration  # noqa: F401 (defines the ops)

_ops = torch.ops.memo

MAX_SOURCES = 32
"""kMaxSources of the kernels."""


class Tokens(NamedTuple):
    """Chosen tokens (int64) and their mixed log-probs; [...] or [..., k]."""

    tokens: Tensor
    log_probs: Tensor


class GateFeatures(NamedTuple):
    """What a gate may look at; nats. Not differentiable."""

    entropies: Tensor
    """[..., S]: of each source's distribution at its temperature."""
    max_log_probs: Tensor
    """[..., S]: log-prob of each source's likeliest token."""
    argmaxes: Tensor
    """[..., S], int64: that token."""
    divergence: Tensor
    """[...]: Jensen-Shannon divergence of the sources under their weights."""


def gate_log_weights(gate_logits: Tensor) -> Tensor:
    """Return [..., 2] log weights ``(log(1 - g), log g)`` of the gate ``g = sigmoid(gate_logits)``.

    Finite with finite gradients for every finite gate logit, which ``g.log()`` is not.
    """
    logsigmoid = torch.nn.functional.logsigmoid
    return torch.stack([logsigmoid(-gate_logits), logsigmoid(gate_logits)], dim=-1)


def mix_logits(
    logits: Sequence[Tensor],
    log_weights: Tensor,
    temperatures: float | Sequence[float] = 1.0,
    *,
    vocabulary: int | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Return the mixed log-probs [..., vocabulary].

    Differentiable in the log weights and the logits. ``dtype`` defaults to the accumulation
    type: float32, or float64 for float64 logits.

    Raises:
        ValueError: shapes, dtypes or temperatures do not fit.
    """
    given = _Mixture(logits, log_weights, temperatures, vocabulary)
    dtype = dtype or given.log_weights.dtype
    log_probs, _ = _ops.mix_logits.default(*given.arguments, dtype)
    return given.restore(log_probs)


def mix_logits_target(
    logits: Sequence[Tensor],
    log_weights: Tensor,
    targets: Tensor,
    temperatures: float | Sequence[float] = 1.0,
    *,
    vocabulary: int | None = None,
) -> Tensor:
    """Return the mixed log-prob [...] of one target token per row.

    ``targets`` is int64 [...]; a target outside ``[0, vocabulary)`` (-100, say) means none: its
    log-prob is 0 and it has no gradient. Differentiable in the log weights and the logits.

    Raises:
        ValueError: shapes, dtypes or temperatures do not fit.
    """
    given = _Mixture(logits, log_weights, temperatures, vocabulary)
    rows = given.per_row("targets", targets)
    log_probs, _, _ = _ops.mix_logits_target.default(*given.arguments, rows)
    return given.restore(log_probs)


def mix_logits_topk(
    logits: Sequence[Tensor],
    log_weights: Tensor,
    k: int,
    temperatures: float | Sequence[float] = 1.0,
    *,
    vocabulary: int | None = None,
) -> Tokens:
    """Return the k likeliest tokens [..., k]: largest log-prob first, equal ones by token.

    Raises:
        ValueError: shapes, dtypes or temperatures do not fit, or k is not in [1, vocabulary].
    """
    given = _Mixture(logits, log_weights, temperatures, vocabulary)
    if not 1 <= k <= given.vocabulary:
        raise ValueError(f"k is {k}; it must be from 1 to the vocabulary's {given.vocabulary}")
    log_probs, tokens = _without_gradient(_ops.mix_logits_topk.default, *given.arguments, k)
    return Tokens(given.restore(tokens), given.restore(log_probs))


def mix_logits_argmax(
    logits: Sequence[Tensor],
    log_weights: Tensor,
    temperatures: float | Sequence[float] = 1.0,
    *,
    vocabulary: int | None = None,
) -> Tokens:
    """Return the likeliest token [...]; the smallest of equal ones.

    Raises:
        ValueError: shapes, dtypes or temperatures do not fit.
    """
    best = mix_logits_topk(logits, log_weights, 1, temperatures, vocabulary=vocabulary)
    return Tokens(best.tokens.squeeze(-1), best.log_probs.squeeze(-1))


def mix_logits_sample(
    logits: Sequence[Tensor],
    log_weights: Tensor,
    seeds: Tensor,
    temperatures: float | Sequence[float] = 1.0,
    *,
    vocabulary: int | None = None,
) -> Tokens:
    """Return a token [...] drawn from the mixture by Gumbel-max.

    ``seeds`` is int64 [...]: the same logits and seed give the same token in any batch. The
    noise is Philox4x32-10 (see kernels/include/memo/random.h), the same on every device.

    Raises:
        ValueError: shapes, dtypes or temperatures do not fit.
    """
    given = _Mixture(logits, log_weights, temperatures, vocabulary)
    rows = given.per_row("seeds", seeds)
    log_probs, tokens = _without_gradient(_ops.mix_logits_sample.default, *given.arguments, rows)
    return Tokens(given.restore(tokens), given.restore(log_probs))


def mix_logits_features(
    logits: Sequence[Tensor],
    log_weights: Tensor,
    temperatures: float | Sequence[float] = 1.0,
    *,
    vocabulary: int | None = None,
) -> GateFeatures:
    """Return the entropies, confidences and divergence that a gate decides by.

    Raises:
        ValueError: shapes, dtypes or temperatures do not fit.
    """
    given = _Mixture(logits, log_weights, temperatures, vocabulary)
    found = _without_gradient(_ops.mix_logits_features.default, *given.arguments)
    return GateFeatures(*(given.restore(part) for part in found))


def _without_gradient(op: Callable[..., Any], *arguments: Any) -> Any:
    """Call an op that has no gradient; entering ``no_grad`` costs what a small op costs."""
    if not torch.is_grad_enabled():
        return op(*arguments)
    with torch.no_grad():
        return op(*arguments)


class _Mixture:
    """The shared arguments, checked and flattened to rows."""

    def __init__(
        self,
        logits: Sequence[Tensor],
        log_weights: Tensor,
        temperatures: float | Sequence[float],
        vocabulary: int | None,
    ) -> None:
        if not 1 <= len(logits) <= MAX_SOURCES:
            raise ValueError(f"{len(logits)} sources; from 1 to {MAX_SOURCES} can be mixed")
        self.vocabulary = _vocabulary(logits, vocabulary)
        self._shape = logits[0].shape[:-1]
        flat = [_rows(source, self._shape, self.vocabulary) for source in logits]
        self.log_weights = self._weights(log_weights, flat)
        self.arguments = (flat, self.log_weights, _temperatures(temperatures, len(flat)))

    def _weights(self, log_weights: Tensor, logits: list[Tensor]) -> Tensor:
        wide = any(source.dtype == torch.float64 for source in logits)
        real = torch.float64 if wide else torch.float32
        count = len(logits)
        shape = log_weights.shape
        if shape != (*self._shape, count):
            if shape != (count,):
                raise ValueError(
                    f"log_weights has shape {tuple(shape)}; "
                    f"{count} sources need {(*self._shape, count)} or ({count},)"
                )
            log_weights = log_weights.expand(*self._shape, count)
        if log_weights.dtype != real:
            log_weights = log_weights.to(real)
        return log_weights if len(self._shape) == 1 else log_weights.reshape(-1, count)

    def per_row(self, name: str, values: Tensor) -> Tensor:
        """An int64 argument with one number a row, flattened."""
        if values.shape != self._shape or values.dtype != torch.int64:
            raise ValueError(
                f"{name} is {values.dtype} {tuple(values.shape)}; "
                f"it must be int64 {tuple(self._shape)}"
            )
        return values if len(self._shape) == 1 else values.reshape(-1)

    def restore(self, result: Tensor) -> Tensor:
        """[rows, ...] back to the logits' leading dimensions."""
        if len(self._shape) == 1:
            return result
        return result.reshape(*self._shape, *result.shape[1:])


def _vocabulary(logits: Sequence[Tensor], vocabulary: int | None) -> int:
    widths = [source.shape[-1] for source in logits]
    narrowest = min(widths)
    if vocabulary is None:
        vocabulary = narrowest
        if max(widths) != narrowest:
            raise ValueError(f"logits have widths {widths}: give vocabulary, the tokens to read")
    if not 1 <= vocabulary <= narrowest:
        raise ValueError(f"vocabulary is {vocabulary}; the logits have {narrowest} columns")
    return vocabulary


def _rows(logits: Tensor, shape: torch.Size, vocabulary: int) -> Tensor:
    if logits.shape[:-1] != shape:
        raise ValueError(f"logits have leading shapes {tuple(shape)} and {logits.shape[:-1]}")
    if logits.shape[-1] != vocabulary:
        logits = logits[..., :vocabulary]
    return logits if len(shape) == 1 else logits.reshape(shape.numel(), vocabulary)


def _temperatures(temperatures: float | Sequence[float], count: int) -> list[float]:
    if isinstance(temperatures, (int, float)):
        temperatures = [float(temperatures)] * count
    if len(temperatures) != count or not all(t > 0 for t in temperatures):
        raise ValueError(f"temperatures are {temperatures}; {count} positive numbers are needed")
    return list(temperatures)
