"""Fitting a learned gate: on answers that the memory holds, and on questions from outside.

The gate sees numbers of both distributions, never a word, so it is fitted on few examples: wordings
of trained facts that training did not see, where the mixture should write the gold answer, and
questions that the documents do not answer, where it should write what the backbone writes alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from memo_dist.errors import StoppedError
from memo_dist.fusion.logits.gates import FEATURES, EntropyGate, LearnedGate
from memo_dist.fusion.logits.mixture import LogitFusion
from memo_dist.fusion.types import Request, Settings

_L2 = 0.005
_STEPS = 200


@dataclass(frozen=True, slots=True)
class Example:
    """A question and what the mixture should write.

    Attributes:
        request: the question and the memories' beliefs.
        answer: the gold answer; None: the backbone's own text.
        unsure: the memory would have kept silent, and speaks here to show the gate more.
    """

    request: Request
    answer: str | None
    unsure: bool = False

    @property
    def kind(self) -> str:
        """``inside``, ``outside``, or ``unsure`` (outside too)."""
        if self.answer is not None:
            return "inside"
        return "unsure" if self.unsure else "outside"


@dataclass(frozen=True, slots=True)
class Fitted:
    """A gate and how well it fits.

    Attributes:
        gate: the gate.
        examples: {kind: examples that it was fitted on}, see :attr:`Example.kind`.
        loss: {arm: mean negative log-prob a token, nats}: of the ``backbone`` alone, the
            ``memory`` alone (of several the best at each token, by hindsight), the ``entropy``
            gate and the ``learned`` one.
    """

    gate: LearnedGate
    examples: dict[str, int]
    loss: dict[str, float]


def fit_gate(
    fusion: LogitFusion,
    examples: Sequence[Example],
    max_new_tokens: int,
    on_example: Callable[[int], None] = lambda done: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Fitted:
    """Fit a gate to the mixture's own log-prob of what it should write.

    Examples in which every memory is silent say nothing: there the backbone writes alone.

    Args:
        fusion: the mixture; its gate is not used.
        examples: both kinds, in any order; the same examples give the same gate.
        max_new_tokens: longest text of the backbone that counts.
        on_example: told how many are read.
        should_stop: polled between examples.

    Raises:
        StoppedError: stopped before the end; nothing is kept.
        ValueError: the memory speaks on no held-out answer.
    """
    rows: list[_Row] = []
    own = Settings(max_new_tokens)
    for done, example in enumerate(examples):
        if should_stop():
            raise StoppedError("stopped before the gate was fitted")
        if example.request.mixed:
            tokens = _target(fusion, example, own)
            log_probs, features = fusion.score(example.request, tokens)
            speak = torch.tensor([not belief.silent for belief in example.request.beliefs])
            active = speak.expand(len(tokens), -1)
            rows.append(_Row(log_probs, features, active, example.kind))
        on_example(done + 1)
    counts = dict(Counter(row.kind for row in rows))
    if "inside" not in counts:
        raise ValueError("the memory abstains on every held-out answer")
    return _fit(rows, counts)


def _target(fusion: LogitFusion, example: Example, own: Settings) -> list[int]:
    if example.answer is not None:
        return fusion.chat.answer_ids(example.answer)
    return list(fusion.alone(example.request, own).tokens)


class _Row(NamedTuple):
    """The tokens of one example, see :meth:`LogitFusion.score`; ``active`` is bool [n, K]."""

    log_probs: Tensor
    features: Tensor
    active: Tensor
    kind: str


def _fit(rows: Sequence[_Row], counts: dict[str, int]) -> Fitted:
    data = _Data.of(rows, counts)
    spoken = data.features[data.active]
    mean, std = spoken.mean(dim=0), spoken.std(dim=0, unbiased=False).clamp_min(1e-6)
    scaled = (data.features - mean) / std
    solution = torch.zeros(len(FEATURES) + 1, dtype=torch.float64, requires_grad=True)
    search = torch.optim.LBFGS(
        [solution], max_iter=_STEPS, tolerance_grad=1e-9, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        search.zero_grad()
        gate = LearnedGate(solution[:-1], solution[-1])
        loss = data.loss(gate.log_weights(scaled, data.active))
        loss = loss + _L2 * solution[:-1].square().sum()
        loss.backward()
        return loss

    search.step(closure)
    found = solution.detach()
    slopes = found[:-1] / std
    gate = LearnedGate(slopes.float(), float(found[-1] - (slopes * mean).sum()))
    return Fitted(gate, counts, data.arms(gate))


@dataclass(frozen=True, slots=True)
class _Data:
    """All tokens of all examples, float64, and how much each counts (they sum to one)."""

    log_probs: Tensor
    features: Tensor
    active: Tensor
    weight: Tensor

    @classmethod
    def of(cls, rows: Sequence[_Row], counts: dict[str, int]) -> _Data:
        """Inside and outside count alike, and so do both kinds of outside; within a kind every
        example, however long its answer. Half of an example is its first token: a text that begins
        otherwise stays otherwise, and the memory is hardly asked again in one that began well.
        """
        outside = 1.0 / max(len(counts) - 1, 1)
        weights = []
        for row in rows:
            length = len(row.active)
            parts = torch.full((length,), 0.5 / length, dtype=torch.float64)
            parts[0] += 0.5
            weights.append(parts * (1.0 if row.kind == "inside" else outside) / counts[row.kind])
        weight = torch.cat(weights)
        return cls(
            torch.cat([row.log_probs for row in rows]).double().cpu(),
            torch.cat([row.features for row in rows]).double().cpu(),
            torch.cat([row.active for row in rows]),
            weight / weight.sum(),
        )

    def loss(self, weights: Tensor) -> Tensor:
        """Mean of -log sum_s w_s p_s(target), nats."""
        return -(self.weight * (weights + self.log_probs).logsumexp(dim=-1)).sum()

    def arms(self, gate: LearnedGate) -> dict[str, float]:
        """The loss of each arm, see :class:`Fitted`."""
        memories = self.log_probs[:, 1:].masked_fill(~self.active, -torch.inf)
        found = {
            "backbone": -(self.weight * self.log_probs[:, 0]).sum(),
            "memory": -(self.weight * memories.max(dim=-1).values).sum(),
            "entropy": self.loss(EntropyGate().log_weights(self.features, self.active)),
            "learned": self.loss(gate.log_weights(self.features, self.active)),
        }
        return {name: round(float(value), 6) for name, value in found.items()}
