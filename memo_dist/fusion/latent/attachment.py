"""Attaching a connector to a frozen backbone by hooks; no model code is changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from memo_dist.errors import UsageError
from memo_dist.fusion.latent.connector import Connector
from memo_dist.fusion.latent.slots import Slots
from memo_dist.training.model import decoder_layers

_Reading = Callable[[Tensor], Tensor]


class Attachment:
    """A backbone whose chosen decoder layers are followed by a connector's.

    Outside of :meth:`reading` the backbone computes what it always did. Inside, every row of its
    batch attends to its own slots; a row that has none is left as it is, and so are all rows where
    the gates are closed, bit for bit.
    """

    def __init__(self, backbone: Any, connector: Connector) -> None:
        """Attach.

        Args:
            backbone: a transformers causal language model of Llama's kind (Llama, Qwen 2 and 3,
                Gemma, Mistral): decoder layers that return the residual stream.
            connector: made for its width and layers.

        Raises:
            UsageError: it was made for another width or more layers.
        """
        layers = decoder_layers(backbone)
        width = int(backbone.config.hidden_size)
        shape = connector.shape
        if width != shape.backbone_width or max(shape.layers) >= len(layers):
            raise UsageError(
                f"this connector is for a backbone of width {shape.backbone_width} with at least"
                f" {max(shape.layers) + 1} layers, this one has width {width} and {len(layers)}"
                " layers: run memo-dist fuse for it"
            )
        self.connector = connector
        self._active: list[_Reading] | None = None
        self._hooks = [
            layers[index].register_forward_hook(self._hook(place))
            for place, index in enumerate(shape.layers)
        ]

    def detach(self) -> None:
        """Remove the hooks: the backbone is as it was."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    @contextmanager
    def reading(self, slots: Slots, live: bool = False) -> Iterator[None]:
        """While the block lasts, row i of every batch attends to row i of the slots.

        Args:
            slots: on the connector's device.
            live: apply the connector's own modules, as training does; else the slots are
                multiplied into its projections once where that makes each token cheaper, and
                closed gates cost nothing.
        """
        self._active = self._live(slots) if live else self._prepared(slots)
        try:
            yield
        finally:
            self._active = None

    def _live(self, slots: Slots) -> list[_Reading]:
        states = self.connector.slots(slots)
        return [_bound(layer, states, slots.present) for layer in self.connector.layers]

    def _prepared(self, slots: Slots) -> list[_Reading] | None:
        connector = self.connector
        if slots.empty or connector.closed:
            return None
        # B tokens read 2 B H M C absorbed numbers, or 2 H D C of the projections between them.
        if slots.present.numel() > connector.shape.head_width:
            return self._live(slots)
        states = connector.slots(slots)
        found: list[_Reading] = []
        for layer in connector.attentions:
            found.append(layer.absorb(states, slots.present))
        return found

    def _hook(self, place: int) -> Callable[[Any, Any, Any], Any]:
        def hook(module: Any, inputs: Any, output: Any) -> Any:
            if self._active is None:
                return None
            if isinstance(output, Tensor):
                return self._active[place](output)
            return (self._active[place](output[0]), *output[1:])

        return hook


def _bound(layer: Any, states: Tensor, present: Tensor) -> _Reading:
    return lambda x: layer(x, states, present)
