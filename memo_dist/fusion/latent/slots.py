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
    """What a batch of questions calls up.

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


@dataclass(frozen=True, slots=True)
class MemoryText:
    """What one memory reads for one question.

    Attributes:
        ids: its tokens; none where it is silent.
        first: place of its first slot. Places before it, where the memory was never trained to say
            anything, are read and give no slots.
    """

    ids: tuple[int, ...] = ()
    first: int = 0

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> MemoryText:
        """The inverse of ``asdict``."""
        return cls(tuple(row["ids"]), row["first"])


def join_slots(parts: Sequence[Slots]) -> Slots:
    """The slots of several memories side by side; rows are the same questions.

    Args:
        parts: at least one, all of the same batch, width and dtype.
    """
    return Slots(
        torch.cat([part.states for part in parts], dim=1),
        torch.cat([part.present for part in parts], dim=1),
    )


def noisy(slots: Slots, layers: int, size: float, seeds: Sequence[int]) -> Slots:
    """Slots with Gaussian noise, against learning by heart which state belongs to which fact.

    As NEFTune (arXiv 2310.05914) does with embeddings. An example's noise depends on its seed and
    the number of its slots, so it is the same in any batch and on any rank.

    Args:
        slots: [B, M, layers width].
        layers: of the memory that stand side by side; each is noised on its own scale.
        size: standard deviation, in root mean squares of the slot.
        seeds: one an example.
    """
    states = slots.states.unflatten(-1, (layers, -1))
    scale = states.float().square().mean(dim=-1, keepdim=True).sqrt()
    noise = torch.zeros(states.shape)
    for row, seed in enumerate(seeds):
        chance = torch.Generator().manual_seed(seed)
        mine = slots.present[row].cpu()
        noise[row, mine] = torch.randn(int(mine.sum()), *states.shape[2:], generator=chance)
    moved = states.float() + size * scale * noise.to(states.device)
    return Slots(moved.to(states.dtype).flatten(-2), slots.present)


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
    def __call__(self, texts: Sequence[MemoryText]) -> Slots:
        """Read texts, one slot a token from :attr:`MemoryText.first` on; silence has none.

        Args:
            texts: B texts in the memory's own tokens.
        """
        device = self._model.device
        rows = [text.ids for text in texts]
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
        for row, text in zip(present, texts, strict=True):
            row[: text.first] = 0
        # Columns that are no row's slot cost attention, and nothing would be read from them.
        start = min((text.first for text in texts if text.ids), default=0)
        parts = [output.hidden_states[layer][:, start:] for layer in self._layers]
        return Slots(torch.cat(parts, dim=-1), present[:, start:].bool().to(device))
