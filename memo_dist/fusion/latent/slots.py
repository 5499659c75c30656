"""Memory slots: the hidden states of memories that a backbone attends to."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from memo_dist.memory.loading import Voice


@dataclass(frozen=True, slots=True)
class Slots:
    """What a batch of questions brings to mind.

    Attributes:
        states: [B, M, width], in the memory's dtype; layers side by side; anything where nothing
            is present.
        present: bool [B, M].
    """

    states: Tensor
    present: Tensor

    def to(self, device: torch.device) -> Slots:
        """On another device."""
        return Slots(self.states.to(device), self.present.to(device))

    @property
    def empty(self) -> bool:
        """Whether no row has any slot."""
        return not bool(self.present.any())


def join_slots(parts: Sequence[Slots]) -> Slots:
    """The slots of several memories side by side; rows are the same questions.

    Args:
        parts: at least one, all of the same batch, width and dtype.
    """
    return Slots(
        torch.cat([part.states for part in parts], dim=1),
        torch.cat([part.present for part in parts], dim=1),
    )


class SlotReader:
    """One memory, of which some hidden layers are read."""

    def __init__(self, voice: Voice, layers: Sequence[int]) -> None:
        """Wrap a loaded memory.

        Args:
            voice: the memory, and its adapter where several share a base.
            layers: indices into the hidden states of transformers: 0 the embeddings, -1 the last
                layer, normalised, from which the memory's own next token is read.
        """
        self._model: Any = voice.memory.model
        self._pad = voice.memory.chat.pad_id
        self._names = voice.adapter
        self._layers = tuple(layers)
        base = getattr(self._model, "get_base_model", lambda: self._model)()
        self._keeps = "logits_to_keep" in inspect.signature(base.forward).parameters

    @torch.no_grad()
    def __call__(self, rows: Sequence[Sequence[int]]) -> Slots:
        """Read token ids, one slot a token; an empty row has none.

        Args:
            rows: B rows of the memory's own tokens.
        """
        device = self._model.device
        longest = max(1, *(len(row) for row in rows)) if rows else 1
        ids = torch.tensor([[*row] + [self._pad] * (longest - len(row)) for row in rows])
        present = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
        more: dict[str, Any] = {"logits_to_keep": 1} if self._keeps else {}
        if self._names is not None:
            more["adapter_names"] = [self._names] * len(rows)
        # A row of padding alone would have nothing to attend to: it reads its first pad token.
        attended = present.clone()
        attended[:, 0] = 1
        output = self._model(
            input_ids=ids.to(device),
            attention_mask=attended.to(device),
            output_hidden_states=True,
            use_cache=False,
            **more,
        )
        parts = [output.hidden_states[layer] for layer in self._layers]
        return Slots(torch.cat(parts, dim=-1), present.bool().to(device))
