"""The connector: gated cross-attention from a backbone's residual stream to memory slots.

After chosen decoder layers of the frozen backbone it adds

    x <- x + sum_h tanh(alpha_h) softmax(q_h(norm(x)) k_h(M)^T / sqrt(D)) v_h(M) W_O,h

over the slots M of the memory (Flamingo, arXiv 2204.14198; CALM, arXiv 2401.02412; KBLaM, arXiv
2410.10450). Keys and values read all hidden layers that a slot holds: at the places of the
memory's answer its embeddings are what it said, its last layer what it says next. Only the
connector is trained. It begins with alpha = 0, where it adds exactly nothing.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import rms_norm

from memo_dist.fusion import ops
from memo_dist.fusion.latent.slots import Slots

EPS = 1e-6
"""Of both norms."""
GATE_PACE = 10.0
"""alpha = GATE_PACE gate: Adam moves every number by about the learning rate a step, and an alpha
has to travel to 1 where a weight moves by hundredths."""


@dataclass(frozen=True, slots=True)
class ConnectorShape:
    """What a connector fits.

    Attributes:
        layers: decoder layers of the backbone that it follows, from 0.
        backbone_width, memory_width: of the residual streams.
        heads, head_width: of the cross-attention.
        memory_layers: hidden layers of the memory that a slot holds, see :class:`SlotReader`.
    """

    layers: tuple[int, ...]
    backbone_width: int
    memory_width: int
    heads: int
    head_width: int
    memory_layers: tuple[int, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        lists = {"layers": list(self.layers), "memory_layers": list(self.memory_layers)}
        return asdict(self) | lists

    @property
    def slot_width(self) -> int:
        """Numbers of a slot."""
        return self.memory_width * len(self.memory_layers)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> ConnectorShape:
        """The inverse of :meth:`to_json`.

        Raises:
            KeyError, TypeError: a value is missing or unknown.
        """
        lists = {name: tuple(values[name]) for name in ("layers", "memory_layers")}
        return cls(**{**values, **lists})


def attached_layers(count: int, every: int) -> tuple[int, ...]:
    """Every ``every``-th of ``count`` decoder layers, the last one of each group.

    A backbone of fewer layers than that has its last one.
    """
    return tuple(range(every - 1, count, every)) or (count - 1,)


@dataclass(frozen=True)
class Absorbed:
    """One layer with the slots of a batch multiplied in, for generation.

    Attributes:
        keys, values: [B, H, M, C]: query projection, norm weight and scale, and the output
            projection, absorbed.
        gate: [H], before tanh.
        present: bool [B, M].
    """

    keys: Tensor
    values: Tensor
    gate: Tensor
    present: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """x [B, T, C] with the memory's part added."""
        return ops.memory_attention_decode(
            x, self.keys, self.values, self.gate, self.present, eps=EPS
        )


class ConnectorLayer(nn.Module):
    """The cross-attention behind one decoder layer."""

    def __init__(self, shape: ConnectorShape) -> None:
        """Random projections and closed gates."""
        super().__init__()
        self.heads, self.head_width = shape.heads, shape.head_width
        inner = shape.heads * shape.head_width
        self.norm = nn.Parameter(torch.ones(shape.backbone_width))
        self.query = nn.Linear(shape.backbone_width, inner, bias=False)
        self.key = nn.Linear(shape.slot_width, inner, bias=False)
        self.value = nn.Linear(shape.slot_width, inner, bias=False)
        self.output = nn.Linear(inner, shape.backbone_width, bias=False)
        self.gate = nn.Parameter(torch.zeros(shape.heads))

    def forward(self, x: Tensor, states: Tensor, present: Tensor) -> Tensor:
        """Add the memory's part.

        Args:
            x: [B, T, backbone_width], the residual stream, in any float dtype.
            states: [B, M, slot_width], normalised slots.
            present: bool [B, M].

        Returns:
            [B, T, backbone_width] in x's dtype.
        """
        kind = self.query.weight.dtype
        normed = rms_norm(x.to(kind), x.shape[-1:], self.norm, EPS)
        key, value = self._keys_and_values(states)
        mixed = ops.memory_attention(
            self._split(self.query(normed)), key, value, self.alpha, present
        )
        added: Tensor = self.output(mixed.transpose(1, 2).flatten(2))
        return x + added.to(x.dtype)

    def absorb(self, states: Tensor, present: Tensor) -> Absorbed:
        """Multiply the slots of a batch in; see :meth:`forward`."""
        scale = self.head_width**-0.5
        key, value = self._keys_and_values(states)
        query = self.query.weight.view(self.heads, self.head_width, -1) * self.norm * scale
        output = self.output.weight.t().view(self.heads, self.head_width, -1)
        return Absorbed(
            torch.einsum("bhmd,hdc->bhmc", key, query),
            torch.einsum("bhmd,hdc->bhmc", value, output),
            self.alpha.detach(),
            present,
        )

    @property
    def alpha(self) -> Tensor:
        """[H], before tanh."""
        return self.gate * GATE_PACE

    def _keys_and_values(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """Both [B, H, M, D], of slots [B, M, slot_width]."""
        return self._split(self.key(states)), self._split(self.value(states))

    def _split(self, projected: Tensor) -> Tensor:
        """[B, N, H D] as [B, H, N, D]."""
        split: Tensor = projected.unflatten(-1, (self.heads, self.head_width))
        return split.transpose(1, 2)


class SlotNorm(nn.Module):
    """Brings the parts of slots to one scale: layers of a memory differ a hundredfold."""

    def __init__(self, width: int, parts: int) -> None:
        """Weights of one, for ``parts`` layers of ``width``."""
        super().__init__()
        self.weight = nn.Parameter(torch.ones(parts, width))

    def forward(self, slots: Slots) -> Tensor:
        """[B, M, parts width] in the connector's dtype.

        Absent slots are zero: whatever they held is never multiplied.
        """
        states = slots.states.to(self.weight.dtype).masked_fill(~slots.present[..., None], 0.0)
        parts = states.unflatten(-1, self.weight.shape)
        return (rms_norm(parts, parts.shape[-1:], None, EPS) * self.weight).flatten(-2)


class Connector(nn.Module):
    """All cross-attentions between one backbone and the memories of one family.

    Attributes:
        shape: see :class:`ConnectorShape`.
        layers: one :class:`ConnectorLayer` for each of ``shape.layers``.
        slots: the norm of what they read.
    """

    def __init__(self, shape: ConnectorShape, seed: int = 0) -> None:
        """Random projections from ``seed``, closed gates."""
        super().__init__()
        self.shape = shape
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.layers = nn.ModuleList(ConnectorLayer(shape) for _ in shape.layers)
        self.slots = SlotNorm(shape.memory_width, len(shape.memory_layers))

    @property
    def attentions(self) -> list[ConnectorLayer]:
        """:attr:`layers`, typed."""
        return [layer for layer in self.layers if isinstance(layer, ConnectorLayer)]

    @property
    def closed(self) -> bool:
        """Whether every gate is exactly zero."""
        return not any(bool(layer.gate.any()) for layer in self.attentions)
