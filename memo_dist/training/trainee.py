"""What :class:`memo_dist.training.loop.TrainingLoop` needs to know of what it trains.

Two things are trained by the same loop: the memory of a shard
(:mod:`memo_dist.training.memory_trainee`) and the connector of a backbone
(:mod:`memo_dist.fusion.latent.trainee`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from memo_dist.training.deepspeed_seam import Engine
from memo_dist.training.recall import RecallMeter


@dataclass(frozen=True)
class StepContent:
    """What one optimizer step trains on, over all ranks.

    Attributes:
        counted: what the summed loss of the step is divided by: trained tokens, or examples.
        epoch: that the step begins in, from 0.
        consumed_tokens, trained_tokens: tokens read, and tokens with loss; 0 where they are not
            counted.
    """

    counted: float
    epoch: int
    consumed_tokens: int = 0
    trained_tokens: int = 0


class Trainee(Protocol):
    """What one rank trains. Everything but the weights is a function of the job and the rank."""

    lr_key: str
    """Configuration key of the learning rate, for messages."""

    @property
    def module(self) -> torch.nn.Module:
        """What the engine trains: a function from rows to the sum of their losses."""
        ...

    @property
    def bf16(self) -> bool:
        """Whether the engine keeps bf16 weights beside fp32 ones."""
        ...

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole training, ``train.max_minutes`` aside."""
        ...

    @property
    def micro_batches(self) -> int:
        """Rows of a rank in a step."""
        ...

    @property
    def flops(self) -> float | None:
        """Floating-point operations per token; None where no tokens are counted."""
        ...

    @property
    def meter(self) -> RecallMeter | None:
        """Chooses weights and the end while training goes on; None: only the steps do."""
        ...

    def saved_name(self, name: str) -> str:
        """The name, in checkpoints and results, of one of ``module``'s parameters."""
        ...

    def position(self, step: int) -> int:
        """Of the data order: examples consumed after ``step`` steps, over all epochs."""
        ...

    def consumed_rows(self, step: int) -> int:
        """Rows consumed after ``step`` steps, over all ranks."""
        ...

    def content(self, step: int) -> StepContent:
        """What step ``step`` (from 0) trains on."""
        ...

    def prepare(self, engine: Engine, step: int, report: Report) -> float:
        """What comes before the first step of a launch that continues at ``step``; collective.

        Returns:
            Seconds of it that count as training.

        Raises:
            StoppedError: ``report`` said that a stop was requested, and the work is not done.
        """
        ...

    def rows(self, step: int) -> Iterator[Any]:
        """This rank's rows from step ``step`` to the end; ``micro_batches`` of them a step."""
        ...

    def loss(self, engine: Engine, row: Any) -> torch.Tensor:
        """The sum of a row's losses in nats, to be divided by :attr:`StepContent.counted`."""
        ...

    def write(self, engine: Engine, folder: Path) -> None:
        """Write the result into an empty folder; collective, only rank 0 writes."""
        ...


class Report(Protocol):
    """Shows numbers in STATUS.json while a launch prepares."""

    def __call__(self, **values: float) -> bool:
        """Replace the status of a running training; False if a stop was requested."""
        ...
