"""Where a training stands."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from memo_dist.training.schedule import Pace


@dataclass
class Progress:
    """Where the training stands; mirrors ``checkpoint.TrainState``."""

    step: int = 0
    consumed_tokens: int = 0
    trained_tokens: int = 0
    seconds: float = 0.0
    best_recall: float = -1.0
    evals_without_gain: int = 0
    pace: Pace = field(default_factory=Pace)
    last_save: float = field(default_factory=time.monotonic)
    last_eval: float = field(default_factory=time.monotonic)
