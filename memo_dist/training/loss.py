"""The loss of a packed row: logits only where there is loss, and never all of them at once.

With a vocabulary of 152,000 tokens the logits of 4,096 positions are 2.5 GB in fp32, and their
softmax and gradient as much again. Here the output layer and the cross-entropy are one
function that works through the positions in chunks and keeps only the gradients of its inputs
(the idea of Liger Kernel, arXiv 2410.10989, whose own kernel is used on GPUs where it is
installed).
"""

from __future__ import annotations

import functools
from typing import Any, Literal

import torch

from memo_dist.training.attention import borders

Want = Literal["loss", "hits", "logits"]

_CHUNK_FLOATS = 1 << 23
_FEWEST, _MOST = 64, 4096


def chunk_rows(vocabulary: int) -> int:
    """Positions whose logits exist at once: about 32 MiB of fp32, at least 64 positions."""
    return max(_FEWEST, min(_MOST, _CHUNK_FLOATS // vocabulary))


class _LinearCrossEntropy(torch.autograd.Function):
    """sum of -log softmax(hidden @ weight^T)[target]; gradients are made in the forward pass.

    The gradient of a chunk's logits is softmax - one_hot(target), which is at hand while the
    logits are; keeping the two products of it instead spares a second pass over the chunk, and
    under ZeRO 3 the backward pass needs no weight.
    """

    @staticmethod
    def forward(  # noqa: PLR0913
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        targets: torch.Tensor,
        counts: torch.Tensor | None,
        chunk: int,
    ) -> torch.Tensor:
        wants_hidden, wants_weight = ctx.needs_input_grad[:2]
        grad_hidden = torch.empty_like(hidden) if wants_hidden else None
        grad_weight = torch.zeros_like(weight, dtype=torch.float32) if wants_weight else None
        total = hidden.new_zeros((), dtype=torch.float32)
        for start in range(0, len(targets), chunk):
            part, wanted = hidden[start : start + chunk], targets[start : start + chunk, None]
            logits = (part @ weight.t()).float()
            log_sum = logits.logsumexp(1, keepdim=True)
            nats = log_sum - logits.gather(1, wanted)
            count = None if counts is None else counts[start : start + chunk, None]
            total += (nats if count is None else nats * count).sum()
            if grad_hidden is None and grad_weight is None:
                continue
            slope = logits.sub_(log_sum).exp_()
            slope.scatter_add_(1, wanted, torch.full_like(log_sum, -1.0))
            if count is not None:
                slope *= count
            if grad_hidden is not None:
                torch.mm(slope.to(weight.dtype), weight, out=grad_hidden[start : start + chunk])
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
        return grad_hidden, grad_weight, None, None, None


def linear_cross_entropy(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    counts: torch.Tensor | None = None,
) -> torch.Tensor:
    """Cross-entropy of an output layer, summed over positions, in nats.

    Args:
        hidden: [positions, width], fp32 or bf16.
        weight: [vocabulary, width], the output layer's.
        targets: int64 [positions].
        counts: fp32 [positions], what each position counts; None: 1. Liger's kernel knows no such
            weights, so with them the chunks below work on GPUs too.

    Returns:
        fp32 scalar. At no time more than ``chunk_rows(vocabulary)`` rows of logits exist.
    """
    liger = _liger() if hidden.is_cuda and counts is None else None
    if liger is not None and len(targets):
        return liger(reduction="sum", accum_dtype=torch.float32)(weight, hidden, targets)  # type: ignore[no-any-return]
    chunk = chunk_rows(len(weight))
    return _LinearCrossEntropy.apply(hidden, weight, targets, counts, chunk)  # type: ignore[no-any-return,no-untyped-call]


@functools.cache
def _liger() -> Any:
    try:
        from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss
    except ImportError:
        return None
    return LigerFusedLinearCrossEntropyLoss


class TrainedHead(torch.nn.Linear):
    """An output layer that can return its loss instead of its logits.

    It takes the place of the model's own, with the same weight: under ZeRO 3 weights are
    gathered around a module's forward, so the loss must be computed inside it.
    """

    @classmethod
    def of(cls, head: torch.nn.Linear) -> TrainedHead:
        """The same layer, sharing its weight."""
        new = cls(head.in_features, head.out_features, bias=False, device="meta")
        new.weight = head.weight
        return new

    def forward(
        self,
        hidden: torch.Tensor,
        targets: torch.Tensor | None = None,
        want: Want = "logits",
        counts: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Logits; or the summed loss; or whether each target has the largest logit (bool)."""
        if want == "logits" or targets is None:
            return super().forward(hidden)
        if want == "loss":
            return linear_cross_entropy(hidden, self.weight, targets, counts)
        chunk = chunk_rows(self.out_features)
        parts = zip(torch.split(hidden, chunk), torch.split(targets, chunk), strict=True)
        return torch.cat([super(TrainedHead, self).forward(h).argmax(1) == t for h, t in parts])


class RowModel(torch.nn.Module):
    """A causal LM as a function from packed rows to losses: what the engine wraps.

    Args:
        model: a Hugging Face causal LM, an adapted one included.
        own_head: the model's output layer is a :class:`TrainedHead` and its logits are plain
            products; otherwise (scaled or capped logits) the model's own forward is used.
    """

    def __init__(self, model: Any, own_head: bool) -> None:
        super().__init__()
        self.model = model
        self._own_head = own_head

    def forward(  # noqa: PLR0913
        self,
        inputs: torch.Tensor,
        position_ids: torch.Tensor,
        lengths: list[int],
        keep: torch.Tensor,
        targets: torch.Tensor,
        counts: torch.Tensor | None = None,
        want: Want = "loss",
    ) -> torch.Tensor:
        """What ``want`` names, at the positions ``keep`` of one packed row.

        Args:
            inputs: int64 [1, tokens] token ids, or [1, tokens, width] embeddings.
            position_ids: int64 [1, tokens], restarting at each example.
            lengths: tokens of each example.
            keep: int64 [kept], positions whose next token is a target.
            targets: int64 [kept].
            counts: fp32 [kept], what the loss at each position counts; None: 1.
            want: the loss summed over ``keep`` (fp32 scalar), hits (bool [kept]), or logits
                ([kept, vocabulary]).
        """
        name = "inputs_embeds" if inputs.is_floating_point() else "input_ids"
        row = {name: inputs, "position_ids": position_ids, "use_cache": False}
        row |= borders(lengths, inputs.device)
        if not self._own_head:
            logits = self.model(**row, logits_to_keep=keep).logits[0]
            return _from_logits(logits, targets, want, counts)
        base = self.model.get_base_model() if hasattr(self.model, "peft_config") else self.model
        hidden = base.get_decoder()(**row).last_hidden_state[0].index_select(0, keep)
        return base.get_output_embeddings()(hidden, targets, want, counts)  # type: ignore[no-any-return]


def _from_logits(
    logits: torch.Tensor, targets: torch.Tensor, want: Want, counts: torch.Tensor | None
) -> torch.Tensor:
    if want == "logits":
        return logits
    if want == "hits":
        return logits.argmax(1) == targets
    nats = torch.nn.functional.cross_entropy(logits.float(), targets, reduction="none")
    return (nats if counts is None else nats * counts).sum()
