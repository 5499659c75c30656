"""Gates: how much of the next token each memory decides, against the backbone.

Each memory gets a logit l_k; the weights of backbone and memories are softmax([0, l_1 .. l_K]),
which for one memory is the gate g = sigmoid(l_1) of kNN-LM's interpolation (arXiv 1911.00172).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from memo_dist.errors import UsageError
from memo_dist.fusion import ops
from memo_dist.io import atomic
from memo_dist.io.marker import require_whole

FEATURES = (
    "backbone_entropy",
    "memory_entropy",
    "divergence",
    "backbone_max",
    "memory_max",
    "agree",
    "abstain",
    "confidence",
    "familiar",
    "so_far",
)
"""What a gate sees of a memory at a position, nats:

entropies of backbone and memory, Jensen-Shannon divergence between them, log-probs of their
likeliest tokens, 1 where these are equal; the memory's log-prob, where the answer begins, of
beginning an abstention; the log-odds that calibration gives to the memory's own answer; how
much likelier the memory finds the question than the backbone (see ``familiarity``); and how much
likelier, summed over its tokens, the text that is already written. With a weight of 1 the latter
makes the gate's first weights those of whole answers (Bayes); a memory that reads a beginning
which it would never have written has nothing to say of the rest.
"""
ABSTAIN = FEATURES.index("abstain")
LARGEST = 20.0
"""Nats beyond which a feature says nothing more."""
_BACKBONE, _MEMORY = 0, 1
_EVEN = math.log(0.5)
GATE_FILE = "gate.safetensors"
GATE_CARD = "gate.json"
CALIBRATION = "calibration"
"""In the header of a gate: hash of the calibrations of the memories it was fitted for."""


class Gate(Protocol):
    """Weighs the sources."""

    @property
    def sees(self) -> bool:
        """Whether it looks at features at all."""
        ...

    @property
    def follows(self) -> bool:
        """Whether it looks at the text that is already written."""
        ...

    def log_weights(self, features: Tensor | None, active: Tensor) -> Tensor:
        """Log weights of backbone and memories.

        Args:
            features: float32 [rows, K, len(FEATURES)]; None for a gate that sees none.
            active: bool [rows, K]; a memory that is not gets weight 0.

        Returns:
            float32 [rows, K + 1].
        """
        ...


class ConstantGate:
    """The memories together decide the fraction g of every token."""

    sees = follows = False

    def __init__(self, g: float) -> None:
        """``g`` from 0 (the backbone alone) to 1 (the memories alone)."""
        if not 0.0 <= g <= 1.0:
            raise ValueError(f"a constant gate is a fraction from 0 to 1, not {g}")
        self.g = g

    def log_weights(self, features: Tensor | None, active: Tensor) -> Tensor:
        """See :class:`Gate`; active memories share g equally."""
        count = active.sum(dim=-1, keepdim=True)
        memories = torch.where(active, self.g / count.clamp_min(1), 0.0)
        backbone = torch.where(count > 0, 1.0 - self.g, 1.0)
        return torch.cat([backbone, memories], dim=-1).float().log()


class _LogitGate:
    """Weights by a logit for each memory."""

    sees = True
    follows = False

    def _logits(self, features: Tensor) -> Tensor:
        raise NotImplementedError

    def log_weights(self, features: Tensor | None, active: Tensor) -> Tensor:
        """See :class:`Gate`."""
        assert features is not None
        logits = self._logits(features).masked_fill(~active, -torch.inf)
        backbone = logits.new_zeros(len(logits), 1)
        return torch.cat([backbone, logits], dim=-1).log_softmax(dim=-1)


class EntropyGate(_LogitGate):
    """``g = sigmoid(slope (H_backbone - H_memory) + bias)``: the surer source decides.

    A memory that begins an abstention has no say: its odds are multiplied by the probability
    that it answers.
    """

    def __init__(self, slope: float = 1.0, bias: float = 0.0) -> None:
        """``slope`` per nat of difference in entropy, ``bias`` in log-odds."""
        self.slope, self.bias = slope, bias

    def _logits(self, features: Tensor) -> Tensor:
        backbone, memory = features[..., 0], features[..., 1]
        answers = torch.log(-torch.expm1(features[..., ABSTAIN].clamp(max=-1e-6)))
        return self.slope * (backbone - memory) + self.bias + answers


class LearnedGate(_LogitGate):
    """A linear gate over :data:`FEATURES`, fitted on what the memory was trained on.

    Attributes:
        weights: float32 [len(FEATURES)].
        bias: log-odds where all features are 0.
    """

    follows = True

    def __init__(self, weights: Tensor, bias: Tensor | float) -> None:
        """Take fitted numbers, or (while fitting) tensors with gradients."""
        self.weights, self.bias = weights, bias

    def _logits(self, features: Tensor) -> Tensor:
        return features @ self.weights.to(features) + self.bias

    def save(self, folder: Path, meta: dict[str, str]) -> None:
        """Write ``gate.safetensors`` atomically, with ``meta`` in its header."""
        tensors = {"weights": self.weights.float(), "bias": torch.tensor(float(self.bias))}
        features = ",".join(FEATURES)
        atomic.write_bytes(folder / GATE_FILE, save(tensors, {**meta, "features": features}))

    @classmethod
    def load(cls, folder: Path, wanted: dict[str, str]) -> LearnedGate:
        """Read a gate.

        Args:
            folder: holds ``gate.safetensors``.
            wanted: what its header must say (hashes of memory and backbone).

        Raises:
            UsageError: there is none, or it was fitted for others or other features.
            RunError: the file is damaged.
        """
        path = folder / GATE_FILE
        if not path.is_file():
            raise UsageError(f"there is no learned gate: '{path}' is missing; run memo-dist fuse")
        require_whole([folder / GATE_CARD], "run memo-dist fuse again")
        try:
            with safe_open(path, framework="pt") as file:
                meta: dict[str, Any] = file.metadata() or {}
                weights, bias = file.get_tensor("weights"), float(file.get_tensor("bias"))
        except Exception as error:  # safetensors raises its own SafetensorError, not exported typed
            # https://github.com/safetensors/safetensors/issues/523
            raise UsageError(
                f"'{path}' is not a gate: {error}; run memo-dist fuse again"
            ) from error
        if meta.get("features") != ",".join(FEATURES):
            raise UsageError(
                f"'{path}' was fitted by another version of memo-dist, whose gates see other"
                " numbers; run memo-dist fuse again"
            )
        for key, value in wanted.items():
            if key == CALIBRATION and key not in meta:
                continue  # earlier versions did not record it
            if meta.get(key) != value:
                raise UsageError(
                    f"'{path}' was fitted for {key} {str(meta.get(key))[:16]}, this is"
                    f" {value[:16]}; run memo-dist fuse again"
                )
        return cls(weights, bias)


def gate_features(
    logits: Sequence[Tensor],
    abstain: Tensor,
    beliefs: Tensor,
    temperatures: Sequence[float],
    vocabulary: int,
) -> Tensor:
    """What a gate sees of every memory.

    Args:
        logits: backbone's and K memories', each [rows, V].
        abstain: float32 [rows, K], see :data:`FEATURES`.
        beliefs: float32 [rows, K, 3], log-odds of the confidence, familiarity, and how much
            likelier the text so far is.
        temperatures: one a source.
        vocabulary: tokens to read.

    Returns:
        float32 [rows, K, len(FEATURES)].
    """
    even = torch.tensor([_EVEN, _EVEN], device=logits[0].device)
    columns = []
    for memory in range(1, len(logits)):
        seen = ops.mix_logits_features(
            [logits[0], logits[memory]],
            even,
            [temperatures[0], temperatures[memory]],
            vocabulary=vocabulary,
        )
        pair = (
            seen.entropies[..., _BACKBONE],
            seen.entropies[..., _MEMORY],
            seen.divergence,
            seen.max_log_probs[..., _BACKBONE],
            seen.max_log_probs[..., _MEMORY],
            (seen.argmaxes[..., _BACKBONE] == seen.argmaxes[..., _MEMORY]).float(),
            abstain[:, memory - 1],
            *beliefs[:, memory - 1].unbind(dim=-1),
        )
        columns.append(torch.stack([part.float() for part in pair], dim=-1))
    return torch.stack(columns, dim=1).clamp(-LARGEST, LARGEST)
