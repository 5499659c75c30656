"""Where a training stands."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from memo_dist.training.checkpoint import TrainState
from memo_dist.training.schedule import Pace


@dataclass
class Progress:
    """Where the training stands; ``TrainState`` is what a checkpoint holds of it."""

    step: int = 0
    consumed_tokens: int = 0
    trained_tokens: int = 0
    seconds: float = 0.0
    best_recall: float = -1.0
    evals_without_gain: int = 0
    pace: Pace = field(default_factory=Pace)
    last_save: float = field(default_factory=time.monotonic)
    last_eval: float = field(default_factory=time.monotonic)

    @classmethod
    def of(cls, state: TrainState) -> Progress:
        """Where a checkpoint left the training; saving and measuring are due from now on."""
        return cls(
            state.step, state.consumed_tokens, state.trained_tokens, state.seconds,
            state.best_recall, state.evals_without_gain,
            Pace(state.pace_step, state.pace_seconds, state.spent),
        )  # fmt: skip
