"""Learning-rate schedules as pure functions of the step, so that a resume needs no state."""

from __future__ import annotations

import math

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


def learning_rate(train: TrainConfig, step: int, steps: int) -> float:
    """The learning rate of optimizer step ``step`` (from 0) of ``steps``.

    A linear warm-up over ``train.warmup_fraction`` of the steps, then constant, linear to zero,
    or cosine to zero.
    """
    warmup = math.ceil(train.warmup_fraction * steps)
    if step < warmup:
        return train.lr * (step + 1) / warmup
    if train.schedule == "constant":
        return train.lr
    progress = (step - warmup) / max(1, steps - warmup)
    if train.schedule == "linear":
        return train.lr * (1 - progress)
    return train.lr * 0.5 * (1 + math.cos(math.pi * progress))
