"""An output layer and the loss of its logits as one function, a chunk of positions at a time.

The gradient of a chunk's logits is at hand while they are; keeping the two products of it instead
of the logits spares a second pass over the chunk (the idea of Liger Kernel, arXiv 2410.10989), and
under ZeRO 3 the backward pass needs no weight. What the loss is, a :class:`Rule` says.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch


class Soft(NamedTuple):
    """Targets that are distributions over tokens instead of single tokens.

    Position i has the loss (1 - m) CE + m KL, with m = 1 - own[i]: CE is the cross-entropy of its
    one target, KL the forward divergence from the teacher's distribution p, whose tokens are
    ``ids[i]`` and whose probabilities ``weights[i] / m``.

    Attributes:
        own: fp32 [positions], 1 - m.
        ids: int64 [positions, k], different in a row wherever their weights are above 0.
        weights: fp32 [positions, k], m p; their sum is m.
    """

    own: torch.Tensor
    ids: torch.Tensor
    weights: torch.Tensor


class Rule(Protocol):
    """A loss of logits that is a sum over positions."""

    def __call__(
        self, logits: torch.Tensor, rows: slice, wants_slope: bool
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Losses of a chunk of positions, and their gradient.

        Args:
            logits: fp32 [positions, vocabulary]; may be overwritten.
            rows: which positions these are.
            wants_slope: whether the gradient is needed.

        Returns:
            (fp32 [positions, 1] in nats, fp32 [positions, vocabulary] or None).
        """
        ...


@dataclass(frozen=True)
class TargetRule:
    """Cross-entropy of one target a position, or of :class:`Soft` ones.

    The gradient of a position's logits is softmax - q, with q the target's distribution: one for
    the target alone, or ``own`` for it and ``weights`` for the teacher's tokens.

    Attributes:
        targets: int64 [positions].
        counts: fp32 [positions], what each position counts; None: 1.
        soft: None: the targets alone.
    """

    targets: torch.Tensor
    counts: torch.Tensor | None = None
    soft: Soft | None = None

    def __call__(
        self, logits: torch.Tensor, rows: slice, wants_slope: bool
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """See :class:`Rule`."""
        target = self.targets[rows, None]
        soft = None if self.soft is None else Soft(*(part[rows] for part in self.soft))
        count = None if self.counts is None else self.counts[rows, None]
        log_sum = logits.logsumexp(1, keepdim=True)
        nats = log_sum - _expected(logits, target, soft)
        if count is not None:
            nats = nats * count
        if not wants_slope:
            return nats, None
        slope = logits.sub_(log_sum).exp_()
        _subtract(slope, target, soft)
        if count is not None:
            slope *= count
        return nats, slope


def _expected(logits: torch.Tensor, target: torch.Tensor, soft: Soft | None) -> torch.Tensor:
    """Mean logit under the target's distribution, less what makes a divergence of the loss."""
    single = logits.gather(1, target)
    if soft is None:
        return single
    taught = (soft.weights * logits.gather(1, soft.ids)).sum(1, keepdim=True)
    return soft.own[:, None] * single + taught - _negative_entropy(soft)


def _negative_entropy(soft: Soft) -> torch.Tensor:
    """fp32 [positions, 1]: m times the sum of p log p, so that a perfect pupil's loss is 0."""
    mass = (1.0 - soft.own).clamp_min(torch.finfo(torch.float32).tiny)[:, None]
    return torch.xlogy(soft.weights, soft.weights / mass).sum(1, keepdim=True)


def _subtract(slope: torch.Tensor, target: torch.Tensor, soft: Soft | None) -> None:
    """Take the target's distribution off; in two steps, so that no step adds twice to a place."""
    single = torch.full_like(target, -1.0, dtype=slope.dtype)
    slope.scatter_add_(1, target, single if soft is None else -soft.own[:, None])
    if soft is not None:
        slope.scatter_add_(1, soft.ids, -soft.weights)


@dataclass(frozen=True)
class AnchorRule:
    """Forward divergence KL(p || q) over the whole vocabulary: p the base's, q the memory's.

    The gradient of a position's logits is q - p.

    Attributes:
        hidden: [positions, width], what the base's output layer gets.
        weight: [vocabulary, width], that layer's.
    """

    hidden: torch.Tensor
    weight: torch.Tensor

    def __call__(
        self, logits: torch.Tensor, rows: slice, wants_slope: bool
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """See :class:`Rule`."""
        base = (self.hidden[rows].to(self.weight.dtype) @ self.weight.t()).float()
        base = base.log_softmax(1)
        log_q = logits.log_softmax(1)
        chance = base.exp()
        nats = (chance * base.sub_(log_q)).sum(1, keepdim=True)
        return nats, log_q.exp_().sub_(chance) if wants_slope else None


class _LinearLoss(torch.autograd.Function):
    """The sum over positions of a rule's loss of hidden @ weight^T."""

    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, rule: Rule, chunk: int
    ) -> torch.Tensor:
        wants_hidden, wants_weight = ctx.needs_input_grad[:2]
        grad_hidden = torch.empty_like(hidden) if wants_hidden else None
        grad_weight = torch.zeros_like(weight, dtype=torch.float32) if wants_weight else None
        total = hidden.new_zeros((), dtype=torch.float32)
        for start in range(0, len(hidden), chunk):
            rows = slice(start, start + chunk)
            part = hidden[rows]
            logits = (part @ weight.t()).float()
            nats, slope = rule(logits, rows, wants_hidden or wants_weight)
            total += nats.sum()
            if slope is None:
                continue
            if grad_hidden is not None:
                torch.mm(slope.to(weight.dtype), weight, out=grad_hidden[rows])
            if grad_weight is not None:
                grad_weight.addmm_(slope.t(), part.float())
        ctx.save_for_backward(grad_hidden, grad_weight)
        ctx.weight_dtype = weight.dtype
        return total

    @staticmethod
    def backward(ctx: Any, *outer: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        grad_hidden, grad_weight = ctx.saved_tensors
        if grad_hidden is not None:
            grad_hidden = grad_hidden * outer[0].to(grad_hidden.dtype)
        if grad_weight is not None:
            grad_weight = grad_weight.mul_(outer[0]).to(ctx.weight_dtype)
        return grad_hidden, grad_weight, None, None


def linear_loss(hidden: torch.Tensor, weight: torch.Tensor, rule: Rule, chunk: int) -> torch.Tensor:
    """The sum over positions of a rule's loss, in nats.

    Args:
        hidden: [positions, width], fp32 or bf16.
        weight: [vocabulary, width], the output layer's.
        rule: the loss of logits.
        chunk: rows of logits that exist at once.

    Returns:
        fp32 scalar.
    """
    return _LinearLoss.apply(hidden, weight, rule, chunk)  # type: ignore[no-any-return,no-untyped-call]
