"""The size ladder: one rule from a number of parameters to the shape of a memory.

The rule. A memory is the Llama of ``memory.base=scratch``: tied embeddings, no biases, full
attention heads, gated MLP. With V tokens, width d, L layers and an MLP of width f it has exactly

    P = V d + L (4 d^2 + 3 d f + 2 d) + d

parameters. For every L up to 48 and every d that is a multiple of 16, f is what brings P nearest
to the target; shapes with f outside 1.5 d ... 4.5 d, or with P more than 2 % off the target, are
out. Of the others the one is taken whose d is nearest to 32 L (the aspect of the usual ladders:
512 x 16, 768 x 24), in ratio. Heads are 16 wide up to d = 256 and 64 wide above.

Vocabularies are small, so that embeddings do not hide the size of the rest: parameters are
reported with and without them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from transformers import LlamaConfig

from memo_dist.config.schema import ScratchConfig
from memo_dist.errors import UsageError
from memo_dist.models.scratch import scratch_model_config

_STEP = 16
_MOST_LAYERS = 48
_ASPECT = 32
_TOLERANCE = 0.02
_NARROW, _WIDE_HEAD = 256, 64
_MLP = (1.5, 4.5)


@dataclass(frozen=True, slots=True)
class Shape:
    """The shape of one memory of the ladder, and its exact numbers of parameters.

    Attributes:
        vocabulary: tokens V.
        layers, hidden, heads, intermediate: L, d, heads and f.
    """

    vocabulary: int
    layers: int
    hidden: int
    heads: int
    intermediate: int

    @property
    def parameters(self) -> int:
        """All parameters, tied embeddings once."""
        layer = 4 * self.hidden**2 + 3 * self.hidden * self.intermediate + 2 * self.hidden
        return self.embedding_parameters + self.layers * layer + self.hidden

    @property
    def embedding_parameters(self) -> int:
        """Those of the (tied) embeddings."""
        return self.vocabulary * self.hidden

    def flops(self, tokens: float, length: int) -> float:
        """Of training on ``tokens`` in rows of ``length``: 6 P and 6 L d length a token.

        The convention of :func:`memo_dist.training.flops.flops_per_token` (causal attention).
        """
        return tokens * (6.0 * self.parameters + 6.0 * self.layers * self.hidden * length)

    def config(self) -> LlamaConfig:
        """The transformers configuration."""
        return scratch_model_config(
            ScratchConfig(
                vocabulary=self.vocabulary,
                hidden_size=self.hidden,
                layers=self.layers,
                heads=self.heads,
                intermediate_size=self.intermediate,
            ),
            self.vocabulary,
        )


def choose_shape(parameters: int, vocabulary: int, least_layers: int = 1) -> Shape:
    """The ladder's shape for a number of parameters (see the module's text for the rule).

    Args:
        parameters: target.
        vocabulary: tokens.
        least_layers: fewest layers: one stores less than two of the same parameters, and finding
            a fact by a name of several tokens takes two.

    Raises:
        UsageError: no shape comes within 2 %: the size is too small for the vocabulary.
    """
    found = [s for s in _candidates(parameters, vocabulary) if s.layers >= least_layers]
    if not found:
        raise UsageError(
            f"no memory of {parameters:,} parameters (2 % either way) exists for a vocabulary of"
            f" {vocabulary:,}: raise the size or lower the vocabulary"
        )
    return min(found, key=lambda s: (abs(math.log(s.hidden / (_ASPECT * s.layers))), s.layers))


def _candidates(parameters: int, vocabulary: int) -> list[Shape]:
    shapes = []
    for layers in range(1, _MOST_LAYERS + 1):
        for hidden in range(_STEP, math.isqrt(parameters) + 1, _STEP):
            rest = parameters - (vocabulary + 1) * hidden - layers * (4 * hidden**2 + 2 * hidden)
            width = round(rest / (3 * layers * hidden))
            head = _STEP if hidden <= _NARROW else _WIDE_HEAD
            if not _MLP[0] * hidden <= width <= _MLP[1] * hidden or hidden % head:
                continue
            shape = Shape(vocabulary, layers, hidden, hidden // head, width)
            if abs(shape.parameters - parameters) <= _TOLERANCE * parameters:
                shapes.append(shape)
    return shapes
