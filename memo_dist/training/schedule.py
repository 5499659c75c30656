"""Learning-rate schedules as pure functions of the step, and of the time where that runs out."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from memo_dist.config.schema import TrainConfig

_ANCHOR_PARAMETERS, _ANCHOR_LR = 135e6, 3e-4
_EXPONENT = 0.58
_ADAPTERS = 10.0
_EPOCHS, _SCRATCH_EPOCHS = 3, 40


def passes(train: TrainConfig, scratch: bool) -> int:
    """``train.epochs``, or where that is 0 three; forty for a base that knows no language yet."""
    return train.epochs or (_SCRATCH_EPOCHS if scratch else _EPOCHS)


def peak_lr(train: TrainConfig, parameters: int) -> float:
    """``train.lr``, or where that is 0 a peak by rule: 3e-4 (135 M / parameters)^0.58.

    The rule passes through the two rates that were tried here (3e-4 for SmolLM2-135M, 2e-3 for a
    scratch model of 5 M, see docs/measurements.md); above 135 M it is an extrapolation. Adapters
    take ten times as much (Schulman 2025, "LoRA Without Regret").

    Args:
        train: the training's settings.
        parameters: of the base, tied ones once.
    """
    if train.lr:
        return train.lr
    scale = _ADAPTERS if train.method == "lora" else 1.0
    return float(f"{scale * _ANCHOR_LR * (_ANCHOR_PARAMETERS / parameters) ** _EXPONENT:.2g}")


def learning_rate(train: TrainConfig, step: int, steps: int, spent: float = 0.0) -> float:
    """The learning rate of optimizer step ``step`` (from 0) of ``steps``.

    A linear warm-up over ``train.warmup_fraction`` of the steps, then constant, linear to zero,
    or cosine to zero.

    Args:
        train: the training's settings.
        step, steps: the step and their number.
        spent: of the time that ``train.max_minutes`` grant, 0 to 1, where these will end the
            training before its last step (:class:`TimeCap`): a falling rate then falls to zero
            with the time, in the warm-up too.
    """
    warmup = math.ceil(train.warmup_fraction * steps)
    rising = train.lr * (step + 1) / warmup if step < warmup else train.lr
    progress = max(0, step - warmup) / max(1, steps - warmup)
    return min(rising, _falling(train, max(progress, min(1.0, spent))))


def _falling(train: TrainConfig, progress: float) -> float:
    """The rate after the warm-up, at a part of the way."""
    if train.schedule == "constant":
        return train.lr
    if train.schedule == "linear":
        return train.lr * (1 - progress)
    return train.lr * 0.5 * (1 + math.cos(math.pi * progress))


@dataclass(frozen=True)
class Pace:
    """What a training knows about its pace; goes on over restarts.

    Attributes:
        step, seconds: steps done and seconds of stepping at the end of the first step seen. What
            was before (frozen layers, warming up) says nothing about the others.
        spent: the part of the time after it that is spent, once the cap is seen to cut the
            training; 0 before.
    """

    step: int = 0
    seconds: float = 0.0
    spent: float = 0.0


class TimeCap:
    """Sees early that ``train.max_minutes`` will end a training before its last step.

    A schedule that ends at the last step would leave such a training at a high rate. It is a
    forecast, by the mean pace so far, and once made it stays; a training that is nowhere near its
    cap never depends on the clock.
    """

    _STEPS, _PART = 4, 0.05
    """Least steps and part of the time that a pace is taken from."""
    _EARLY, _EARLY_MARGIN, _MARGIN = 0.2, 1.25, 1.03
    """The first steps may be slow by chance: in the first fifth of the time the steps must be
    seen to take a quarter longer than there is."""

    def __init__(self, minutes: float) -> None:
        self._limit = minutes * 60

    def look(self, pace: Pace, step: int, steps: int, seconds: float) -> Pace:
        """What is known after ``step`` of ``steps`` and ``seconds`` of stepping, all launches."""
        if not self._limit:
            return pace
        if not pace.step:
            return Pace(step, seconds)
        done, stepped = step - pace.step, seconds - pace.seconds
        granted = max(self._limit - pace.seconds, 1e-9)
        part = stepped / granted
        if pace.spent:
            return replace(pace, spent=max(pace.spent, part))
        if done < self._STEPS or part < self._PART:
            return pace
        margin = self._EARLY_MARGIN if part < self._EARLY else self._MARGIN
        cuts = stepped / done * (steps - pace.step) > margin * granted
        return replace(pace, spent=part) if cuts else pace
