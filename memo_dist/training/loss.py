"""The loss of a packed row: logits only where there is loss, and never all of them at once.

With a vocabulary of 152,000 tokens the logits of 4,096 positions are 2.5 GB in fp32, and their
softmax and gradient as much again. Here the output layer and the cross-entropy are one
function that works through the positions in chunks and keeps only the gradients of its inputs
(:mod:`memo_dist.training.chunked`); on GPUs Liger's kernel is used where it is installed.
"""

from __future__ import annotations

import functools
from typing import Any, Literal, NamedTuple

import torch

from memo_dist.errors import UsageError
from memo_dist.training.chunked import AnchorRule, Soft, TargetRule, linear_loss
from memo_dist.training.rows import run_row, states_of

Want = Literal["loss", "hits", "logits"]

_CHUNK_FLOATS = 1 << 23
_FEWEST, _MOST = 64, 4096
GPU_ROWS = 1024
"""Positions of a chunk on GPUs. The fp32 gradient of the output layer is read and written once a
chunk: with 151,936 tokens and a width of 1,536 that is 1.9 GB, 119 GB for 4,096 positions in chunks
of 64, and 7.5 GB in these."""


class Anchor(NamedTuple):
    """Positions at which the memory is held near the base (``train.anchor_kl``).

    Attributes:
        at: int64 [anchored], places among the positions with loss.
        hidden: [anchored, width], what the base's output layer gets there.
    """

    at: torch.Tensor
    hidden: torch.Tensor


def chunk_rows(vocabulary: int, gpu: bool = False) -> int:
    """Positions whose logits exist at once.

    On CPUs about 32 MiB of fp32, at least 64 positions: a chunk stays near the caches.
    """
    if gpu:
        return GPU_ROWS
    return max(_FEWEST, min(_MOST, _CHUNK_FLOATS // vocabulary))


def linear_cross_entropy(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    counts: torch.Tensor | None = None,
    soft: Soft | None = None,
) -> torch.Tensor:
    """Cross-entropy of an output layer, summed over positions, in nats.

    Args:
        hidden: [positions, width], fp32 or bf16.
        weight: [vocabulary, width], the output layer's.
        targets: int64 [positions].
        counts: fp32 [positions], what each position counts; None: 1. Liger's kernel knows no such
            weights, so with them the chunks below work on GPUs too.
        soft: distributions that take the place of single targets; None: none.

    Returns:
        fp32 scalar. At no time more rows of logits exist than a chunk has.
    """
    liger = _liger() if hidden.is_cuda and counts is None and soft is None else None
    if liger is not None and len(targets):
        budget = liger_budget(len(targets), *weight.shape)
        return liger(  # type: ignore[no-any-return]
            hidden, weight, targets, reduction="sum", accum_dtype=torch.float32,
            chunk_mem_const=budget,
        )  # fmt: skip
    chunk = chunk_rows(len(weight), hidden.is_cuda)
    return linear_loss(hidden, weight, TargetRule(targets, counts, soft), chunk)


def liger_budget(positions: int, vocabulary: int, width: int) -> int:
    """``chunk_mem_const`` with which Liger's chunks have :data:`GPU_ROWS` positions or more.

    Liger divides the positions into ceil(vocabulary / (budget * width)) chunks, and rounds their
    size up to a power of two; its own budget of 1 gives 64 positions of 4,096 at 151,936 x 1,536.
    """
    chunks = max(1, positions // GPU_ROWS)
    return -(-vocabulary // (chunks * width))


@functools.cache
def _liger() -> Any:
    try:
        from liger_kernel.transformers.functional import liger_fused_linear_cross_entropy
    except ImportError:
        return None
    return liger_fused_linear_cross_entropy


class TrainedHead(torch.nn.Linear):
    """An output layer that can return its loss instead of its logits.

    It takes the place of the model's own, with the same weight: under ZeRO 3 weights are
    gathered around a module's forward, so the loss must be computed inside it.
    """

    base_weight: torch.Tensor | None
    anchor_kl = 0.0

    @classmethod
    def of(cls, head: torch.nn.Linear) -> TrainedHead:
        """The same layer, sharing its weight."""
        new = cls(head.in_features, head.out_features, bias=False, device="meta")
        new.weight = head.weight
        new.register_buffer("base_weight", None, persistent=False)
        return new

    def hold_to_base(self, anchor_kl: float) -> None:
        """Add ``anchor_kl`` times the divergence from the base, as the weights are now.

        A layer that is trained keeps a copy of its weight; a frozen one is the base's itself.
        """
        self.anchor_kl = anchor_kl
        if self.weight.requires_grad:
            self.base_weight = self.weight.detach().clone()

    def forward(  # noqa: PLR0913
        self,
        hidden: torch.Tensor,
        targets: torch.Tensor | None = None,
        want: Want = "logits",
        counts: torch.Tensor | None = None,
        soft: Soft | None = None,
        anchor: Anchor | None = None,
    ) -> torch.Tensor:
        """Logits; or the summed loss; or whether each target has the largest logit (bool)."""
        if want == "logits" or targets is None:
            return super().forward(hidden)
        if want == "loss":
            nats = linear_cross_entropy(hidden, self.weight, targets, counts, soft)
            return nats if anchor is None else nats + self._from_base(hidden, anchor)
        chunk = chunk_rows(self.out_features, hidden.is_cuda)
        parts = zip(torch.split(hidden, chunk), torch.split(targets, chunk), strict=True)
        return torch.cat([super(TrainedHead, self).forward(h).argmax(1) == t for h, t in parts])

    def _from_base(self, hidden: torch.Tensor, anchor: Anchor) -> torch.Tensor:
        base = self.weight.detach() if self.base_weight is None else self.base_weight
        rule = AnchorRule(anchor.hidden, base)
        chosen = hidden.index_select(0, anchor.at)
        chunk = chunk_rows(self.out_features, hidden.is_cuda)
        return self.anchor_kl * linear_loss(chosen, self.weight, rule, chunk)


class RowModel(torch.nn.Module):
    """A causal LM as a function from packed rows to losses: what the engine wraps.

    Args:
        model: a Hugging Face causal LM, an adapted one included.
        own_head: the model's output layer is a :class:`TrainedHead` and its logits are plain
            products; otherwise (scaled or capped logits) the model's own forward is used.
        packed: the model keeps packed examples apart (:mod:`memo_dist.training.rows`).
    """

    def __init__(self, model: Any, own_head: bool, packed: bool = True) -> None:
        super().__init__()
        self.model = model
        self._own_head, self._packed = own_head, packed

    def forward(  # noqa: PLR0913
        self,
        inputs: torch.Tensor,
        position_ids: torch.Tensor,
        lengths: list[int],
        keep: torch.Tensor,
        targets: torch.Tensor,
        counts: torch.Tensor | None = None,
        soft: Soft | None = None,
        anchor: Anchor | None = None,
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
            soft: distributions instead of single targets; None: none.
            anchor: where the base's own distribution has a loss too; None: nowhere.
            want: the loss summed over ``keep`` (fp32 scalar), hits (bool [kept]), or logits
                ([kept, vocabulary]).
        """
        if not self._own_head:
            logits = self._logits(inputs, position_ids, lengths, keep)
            return _from_logits(logits, targets, want, counts, soft)
        hidden = self.base_states(inputs, position_ids, lengths)[0].index_select(0, keep)
        return self._base_model().get_output_embeddings()(  # type: ignore[no-any-return]
            hidden, targets, want, counts, soft, anchor
        )

    def base_states(
        self, inputs: torch.Tensor, position_ids: torch.Tensor, lengths: list[int]
    ) -> torch.Tensor:
        """What the output layer gets: [1, tokens, width] of one packed row."""
        return run_row(states_of(self.decoder), inputs, position_ids, lengths, self._packed)

    def _logits(
        self,
        inputs: torch.Tensor,
        position_ids: torch.Tensor,
        lengths: list[int],
        keep: torch.Tensor,
    ) -> torch.Tensor:
        """The model's own logits at ``keep``: [kept, vocabulary]."""
        row = (inputs, position_ids, lengths, self._packed)
        if self._packed:  # of these positions only, before the output layer
            return run_row(lambda **v: self.model(**v, logits_to_keep=keep).logits, *row)[0]
        return run_row(lambda **v: self.model(**v).logits, *row)[0].index_select(0, keep)

    @property
    def decoder(self) -> Any:
        """The model without its output layer."""
        return self._base_model().get_decoder()

    @property
    def head(self) -> torch.nn.Parameter:
        """The output layer's weight."""
        weight: torch.nn.Parameter = self._base_model().get_output_embeddings().weight
        return weight

    def hold_to_base(self, anchor_kl: float) -> None:
        """Add a loss that holds the model near its weights of now, where a row has an anchor.

        Args:
            anchor_kl: weight of the divergence (:class:`AnchorRule`).

        Raises:
            UsageError: the model's logits are not plain products of its last states.
        """
        if not self._own_head:
            raise UsageError(
                f"train.anchor_kl={anchor_kl:g} needs a base whose logits are a plain product, and"
                f" {type(self.model).__name__} scales or caps them; write train.anchor_kl=0"
            )
        self._base_model().get_output_embeddings().hold_to_base(anchor_kl)

    def _base_model(self) -> Any:
        return self.model.get_base_model() if hasattr(self.model, "peft_config") else self.model


def _from_logits(
    logits: torch.Tensor,
    targets: torch.Tensor,
    want: Want,
    counts: torch.Tensor | None,
    soft: Soft | None = None,
) -> torch.Tensor:
    if want == "logits":
        return logits
    if want == "hits":
        return logits.argmax(1) == targets
    if soft is not None:
        return TargetRule(targets, counts, soft)(logits.float(), slice(None), False)[0].sum()
    nats = torch.nn.functional.cross_entropy(logits.float(), targets, reduction="none")
    return (nats if counts is None else nats * counts).sum()
