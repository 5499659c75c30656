"""Frozen lowest layers run once: their activations are kept and every epoch starts from them.

With ``train.trained_layers`` the embedding and the layers below never change, and packed
examples do not see each other, so what those layers make of an example is the same in every
epoch. It is computed once, in rows of a fixed order (equal bytes whoever computes it and
whenever), and kept in ``RUN/train/shard-<k>/activations.npy``.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from memo_dist.cluster.ranks import Ranks
from memo_dist.config.schema import TrainConfig
from memo_dist.training.examples import Examples
from memo_dist.training.packing import rows_in_order
from memo_dist.training.rows import run_row, states_of
from memo_dist.training.states import empty, fill, kept_states

FILE = "activations.npy"

_log = logging.getLogger(__name__)


def worth_keeping(train: TrainConfig, tokens: int, width: int, bf16: bool) -> bool:
    """Whether activations of the frozen layers are kept: used twice, and within the limit."""
    size = tokens * width * (2 if bf16 else 4)
    return (
        bool(train.trained_layers) and train.epochs > 1 and size <= train.keep_activations_gb * 1e9
    )


@dataclass
class FrozenLayers:
    """Embedding and lowest decoder layers of a model.

    Attributes:
        decoder: the model's decoder with these layers only and without its final norm.
        layers: how many.
        path: name of the decoder's list of layers inside the causal LM.
        packed: the model keeps packed examples apart.
    """

    decoder: Any
    layers: int
    path: str
    packed: bool

    def whole_name(self, name: str) -> str:
        """The whole model's name of a parameter of the part above."""
        if not name.startswith(f"{self.path}."):
            return name
        index, _, rest = name.removeprefix(f"{self.path}.").partition(".")
        return f"{self.path}.{int(index) + self.layers}.{rest}"

    @torch.no_grad()
    def run(self, ids: torch.Tensor, positions: torch.Tensor, lengths: list[int]) -> torch.Tensor:
        """Activations [1, tokens, width] of one packed row of token ids [1, tokens]."""
        return run_row(states_of(self.decoder), ids, positions, lengths, self.packed)

    def of(self, examples: Examples, row_tokens: int, device: torch.device) -> np.ndarray:
        """Activations [total tokens, width] of examples, held in memory."""
        out = empty(self.decoder, len(examples.ids))
        for indices in rows_in_order(examples.lengths, row_tokens):
            fill(out, self.run, examples, indices, device)
        return out

    def keep(  # noqa: PLR0913
        self, folder: Path, examples: Examples, row_tokens: int, ranks: Ranks,
        device: torch.device, identity: str, on_row: Callable[[float], bool],
    ) -> np.ndarray:  # fmt: skip
        """Activations of all training examples as a read-only map of a file.

        Collective, see :func:`memo_dist.training.states.kept_states`.

        Args:
            folder: of the shard.
            examples: all training examples.
            row_tokens: most tokens in a row.
            ranks: this rank's place.
            device: to compute on.
            identity: of the training; a file of another one is replaced.
            on_row: called after each row with the fraction that is done; False ends the work.

        Raises:
            StoppedError: see there.
        """
        return kept_states(
            folder / FILE, empty(self.decoder, 0), self.run, examples, row_tokens, ranks, device,
            identity, on_row,
        )  # fmt: skip


def split_frozen(
    model: Any, layers: Sequence[torch.nn.Module], train: TrainConfig, packed: bool
) -> FrozenLayers | None:
    """Cut a causal LM in two: what is frozen, and ``model`` itself without its lowest layers.

    The cut model takes activations as ``inputs_embeds``. Both parts are compared with the
    whole on a few tokens, because decoders differ in what they do around their layers; where
    that fails the model stays whole.

    Returns:
        The frozen part; None if there is none or the model cannot be cut.
    """
    count = len(layers) - train.trained_layers
    decoder = model.get_decoder()
    found = [
        name for name, module in decoder.named_children() if list(module.children()) == [*layers]
    ]
    if count < 1 or not found:
        return None
    places = torch.arange(8)[None]
    ids = places % model.config.vocab_size
    row = (places, [8], packed)
    with torch.no_grad():
        expected = run_row(states_of(decoder), ids, *row)
    name = found[0]
    lower = _with_layers(decoder, name, layers[:count])
    _own_embedding(lower)
    _drop_final_norm(lower)
    prefix = next(n for n, m in model.named_modules() if m is decoder)
    frozen = FrozenLayers(lower.eval(), count, f"{prefix}.{name}", packed)
    whole = getattr(decoder, name), decoder.config
    setattr(decoder, name, torch.nn.ModuleList(layers[count:]))
    decoder.config = model.config = _config_of(model.config, len(layers) - count, count)
    with torch.no_grad():
        hidden = frozen.run(ids, places, [8])
        got = run_row(states_of(decoder), hidden, *row)
    if torch.allclose(got, expected, rtol=1e-2, atol=1e-3):
        return frozen
    _log.warning("%s cannot be cut: its frozen layers run in every step", type(model).__name__)
    setattr(decoder, name, whole[0])
    decoder.config = model.config = whole[1]
    return None


def _with_layers(decoder: Any, name: str, layers: Sequence[torch.nn.Module]) -> Any:
    """A copy of the decoder that shares its modules but has these layers."""
    part = copy.copy(decoder)
    part._modules = dict(decoder._modules)
    part._parameters, part._buffers = dict(decoder._parameters), dict(decoder._buffers)
    setattr(part, name, torch.nn.ModuleList(layers))
    part.config = _config_of(decoder.config, len(layers), 0)
    return part


def _config_of(config: Any, layers: int, first: int) -> Any:
    part = copy.deepcopy(config)
    part.num_hidden_layers = layers
    if getattr(part, "layer_types", None):
        part.layer_types = part.layer_types[first : first + layers]
    return part


def _own_embedding(part: Any) -> None:
    """A parameter object of its own over the same memory: ZeRO 3 empties the shared one."""
    embedding = copy.copy(part.get_input_embeddings())
    embedding._parameters = {
        name: torch.nn.Parameter(value.data, requires_grad=False)
        for name, value in embedding._parameters.items()
    }
    part.set_input_embeddings(embedding)


def _drop_final_norm(part: Any) -> None:
    """The final norm belongs to the part above: the last child named like one goes."""
    name = [name for name, _ in part.named_children() if "norm" in name][-1]
    setattr(part, name, torch.nn.Identity())
