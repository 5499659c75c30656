"""The connector's loss, and a module that an engine can train."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from memo_dist.config.fusion_schema import LatentConfig
from memo_dist.fusion.latent.attachment import Attachment
from memo_dist.fusion.latent.connector import Connector
from memo_dist.fusion.latent.examples import ConnectorBatch, Padded
from memo_dist.fusion.latent.slots import SlotReader, Slots, join_slots, noisy

ARMS = ("backbone", "fused", "taught")
"""What :meth:`ConnectorRows.forward` measures: mean negative log-prob of the targets, nats."""


class ConnectorRows(nn.Module):
    """Backbone and memories, frozen, around a connector, the only part that is registered.

    For facts the loss is CE(target) + distill KL(teacher || fused), for questions from outside
    locality KL(backbone || fused); means over an example's tokens.
    """

    def __init__(
        self,
        connector: Connector,
        backbone: Any,
        readers: Sequence[SlotReader],
        settings: LatentConfig,
        vocabulary: int,
    ) -> None:
        """Attach the connector.

        Args:
            connector: to be trained.
            backbone: frozen, on its device; an engine must neither move nor cut it.
            readers: the memories.
            settings: weights of the loss's parts.
            vocabulary: tokens of the backbone's tokenizer; a padded head has more.
        """
        super().__init__()
        self.connector = connector
        self._frozen = [(backbone, Attachment(backbone, connector), tuple(readers))]
        self._settings, self._vocabulary = settings, vocabulary
        accepted = inspect.signature(backbone.forward).parameters
        self._keeps = "logits_to_keep" in accepted

    def forward(self, batch: ConnectorBatch, want: str = "loss") -> Tensor:
        """Loss of a batch.

        Args:
            batch: examples.
            want: ``loss``: the sum over the examples, a scalar; ``arms``: float32 [B, 3], the
                mean negative log-prob of each target in nats, see :data:`ARMS`.
        """
        slots = self._slots(batch)
        with self._frozen[0][1].reading(slots, live=True):
            fused = self._log_probs(batch.student, batch)
        if want == "loss":
            return self._loss(fused, batch)
        with torch.no_grad():
            alone, taught = (
                self._log_probs(rows, batch) for rows in (batch.student, batch.teacher)
            )
        return torch.stack([_nats(part, batch) for part in (alone, fused, taught)], dim=-1)

    def _loss(self, fused: Tensor, batch: ConnectorBatch) -> Tensor:
        settings = self._settings
        if not settings.distill and bool(batch.inside.all()):
            return _nats(fused, batch).sum()  # nothing asks for the teacher
        with torch.no_grad():
            taught = self._log_probs(batch.teacher, batch)
        divergence = (taught.exp() * (taught - fused)).nan_to_num(0.0).sum(dim=-1)
        divergence = (divergence * batch.counted).sum(dim=-1)
        inside = _nats(fused, batch) + settings.distill * divergence
        return torch.where(batch.inside, inside, settings.locality * divergence).sum()

    @torch.no_grad()
    def _slots(self, batch: ConnectorBatch) -> Slots:
        readers = self._frozen[0][2]
        parts = [read(rows) for read, rows in zip(readers, batch.memories, strict=True)]
        slots = join_slots(parts).to(batch.targets.device)
        if not batch.noises:
            return slots
        layers = len(self.connector.shape.memory_layers)
        return noisy(slots, layers, self._settings.noise, batch.noises)

    def _log_probs(self, rows: Padded, batch: ConnectorBatch) -> Tensor:
        """float32 [B, A, V] of the positions that predict the targets."""
        keep = batch.targets.shape[1] + 1
        more = {"logits_to_keep": keep} if self._keeps else {}
        output = self._frozen[0][0](
            input_ids=rows.ids,
            attention_mask=rows.mask,
            position_ids=rows.positions,
            use_cache=False,
            **more,
        )
        logits: Tensor = output.logits[:, -keep:-1, : self._vocabulary]
        return logits.float().log_softmax(dim=-1)


def _nats(log_probs: Tensor, batch: ConnectorBatch) -> Tensor:
    """Mean negative log-prob of each example's target, float32 [B]."""
    chosen = log_probs.gather(-1, batch.targets[..., None])[..., 0]
    return -(chosen * batch.counted).sum(dim=-1)
