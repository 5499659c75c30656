"""The training of a connector: all that a rank needs to know, as plain data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from memo_dist.config.fusion_schema import LatentConfig
from memo_dist.config.schema import TrainConfig
from memo_dist.errors import UsageError

CONNECTOR_FOLDER = "latent"
"""Below ``RUN/fusion/<backbone>/``: the trained connector and its card."""
TRAINING_FOLDER = "latent-training"
"""Beside it: checkpoints, STATUS.json and metrics.jsonl."""
TRAINED, HELD_OUT = "examples.jsonl", "held-out.jsonl"


@dataclass(frozen=True)
class ConnectorJob:
    """One connector's training.

    Attributes:
        folder: ``RUN/fusion/<backbone>/latent-training``; holds the examples.
        backbone: folder of the frozen backbone.
        memory: folder of the bank.
        train: the train group, with the connector's learning rate, without a memory's limits.
        latent: the ``fusion.latent`` group.
        card: what the card says beside the results.
        seed: run.seed.
        identity: hash of everything that decides the result.
        threads: intra-op threads of a rank (CPU).
        earlier: the identity as versions had it that hashed neither passages nor calibrations; a
            finished connector of theirs is taken as done by it.
        resume: ``auto``, or the folder of one of this training's own checkpoints.
    """

    folder: str
    backbone: str
    memory: str
    train: TrainConfig
    latent: LatentConfig
    card: dict[str, Any]
    seed: int
    identity: str
    threads: int
    earlier: str = ""
    resume: str = "auto"

    @property
    def path(self) -> Path:
        """``folder`` as a path."""
        return Path(self.folder)

    @property
    def checkpoints(self) -> Path:
        """Where checkpoints are."""
        return self.path / "checkpoints"

    @property
    def final(self) -> Path:
        """Where the trained connector is in the end."""
        return self.path.parent / CONNECTOR_FOLDER

    @property
    def before(self) -> Path:
        """Held-out losses of the new connector, kept for launches that continue the training."""
        return self.path / "before.json"

    @property
    def working_files(self) -> tuple[Path, ...]:
        """What the card has taken over in the end."""
        return (self.before,)

    def to_json(self) -> dict[str, Any]:
        """Plain data for a worker process."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> ConnectorJob:
        """The inverse of :meth:`to_json`."""
        groups = {
            "train": TrainConfig(**values["train"]),
            "latent": LatentConfig(**values["latent"]),
        }
        return cls(**{**values, **groups})


def micro_batches(latent: LatentConfig, world: int) -> int:
    """Micro-batches of a rank in a step.

    Raises:
        UsageError: a step's examples cannot be dealt evenly.
    """
    share = latent.batch // world
    if latent.batch % world or share % latent.micro_batch:
        raise UsageError(
            f"{world} rank(s) cannot share fusion.latent.batch={latent.batch} examples in"
            f" micro-batches of fusion.latent.micro_batch={latent.micro_batch}: change one of"
            " them, or cluster.workers"
        )
    return share // latent.micro_batch


def total_steps(latent: LatentConfig, examples: int) -> int:
    """Optimizer steps of the whole training."""
    return max(1, latent.epochs * examples // latent.batch)


def step_examples(step: int, examples: int, latent: LatentConfig, seed: int) -> list[int]:
    """The examples of a step, over all ranks: every one once an epoch, in an order of its own."""
    chosen = []
    for place in range(step * latent.batch, (step + 1) * latent.batch):
        epoch, index = divmod(place, examples)
        chosen.append(int(_order(examples, seed, epoch)[index]))
    return chosen


def rank_batches(
    chosen: Sequence[int], rank: int, world: int, latent: LatentConfig
) -> Iterator[Sequence[int]]:
    """The micro-batches of one rank."""
    mine = chosen[rank::world]
    for start in range(0, len(mine), latent.micro_batch):
        yield mine[start : start + latent.micro_batch]


def _order(examples: int, seed: int, epoch: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    return torch.randperm(examples, generator=generator)
