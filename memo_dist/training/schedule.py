"""Learning-rate schedules as pure functions, so that a resume needs no state."""

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


def learning_rate(train: TrainConfig, step: int, steps: int, spent: float = 0.0) -> float:
    """The learning rate of optimizer step ``step`` (from 0) of ``steps``.

    A linear warm-up over ``train.warmup_fraction`` of the steps, then constant, linear to zero,
    or cosine to zero.

    Args:
        train: the training's settings.
        step, steps: the step and their number.
        spent: of ``train.max_minutes``, 0 to 1, where these will end the training before its last
            step (:class:`TimeCap`): the rate then falls to zero with the time.
    """
    warmup = math.ceil(train.warmup_fraction * steps)
    if step < warmup:
        return train.lr * (step + 1) / warmup
    if train.schedule == "constant":
        return train.lr
    progress = max((step - warmup) / max(1, steps - warmup), min(1.0, spent))
    if train.schedule == "linear":
        return train.lr * (1 - progress)
    return train.lr * 0.5 * (1 + math.cos(math.pi * progress))


class TimeCap:
    """Tells early whether ``train.max_minutes`` will end a training before its last step.

    A schedule that ends at the last step would leave such a training at a high rate. The pace is
    that of the steps after the first one here; a training that the cap does not cut never depends
    on the clock.
    """

    _STEPS, _PART, _MARGIN = 4, 0.05, 1.03

    def __init__(self, minutes: float) -> None:
        self._limit = minutes * 60
        self._begun: tuple[int, float] | None = None

    def spent(self, step: int, steps: int, seconds: float, known: float) -> float:
        """The part of the time that is spent; 0 where the cap is not seen to cut the training.

        Args:
            step, steps: steps done and their number.
            seconds: of stepping, over all launches.
            known: what this told last, before a resume too: what was seen to be cut stays so.
        """
        if not self._limit:
            return 0.0
        if known:
            return max(known, seconds / self._limit)
        begun_step, begun = self._begun = self._begun or (step, seconds)
        done, stepped = step - begun_step, seconds - begun
        if done < self._STEPS or stepped < self._PART * self._limit:
            return 0.0
        needed = stepped / done * (steps - step)
        return seconds / self._limit if seconds + needed > self._MARGIN * self._limit else 0.0
