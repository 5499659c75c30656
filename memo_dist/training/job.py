"""Jobs: all that a rank needs to know of a training, as plain data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from memo_dist.config.schema import TrainConfig
from memo_dist.errors import UsageError
from memo_dist.training.packing import Plan, plan_training

STOP_REQUEST = "stop-request"
RESUME_CHOICES = ("auto", "never", "must")
Outcome = Literal["done", "stopped"]
"""Of a rank; ``stopped``: on request, once the state is saved."""
Watch = Callable[[int, dict[str, float]], None]
"""What rank 0 calls after each step: (steps done, numbers to show)."""


class RankEntry(Protocol):
    """What every rank runs: a function of a module, which imports what trains inside."""

    def __call__(self, values: dict[str, Any], watch: Watch | None = None) -> Outcome:
        """Train as one rank; ``values`` is :meth:`RankJob.to_json`."""
        ...


class RankJob(Protocol):
    """What the loop, its checkpoints, and those who start ranks need to know of a job."""

    @property
    def path(self) -> Path:
        """Its folder: STATUS.json, metrics.jsonl, ledger.jsonl."""
        ...

    @property
    def checkpoints(self) -> Path:
        """Where checkpoints are while it runs."""
        ...

    @property
    def final(self) -> Path:
        """The result's folder; complete with its marker."""
        ...

    @property
    def working_files(self) -> tuple[Path, ...]:
        """Other files that only a running training needs; they go once ``final`` exists."""
        ...

    @property
    def train(self) -> TrainConfig:
        """How it is trained."""
        ...

    @property
    def seed(self) -> int:
        """run.seed."""
        ...

    @property
    def identity(self) -> str:
        """Hash of everything that decides the result."""
        ...

    @property
    def threads(self) -> int:
        """Intra-op threads of a rank (CPU)."""
        ...

    @property
    def resume(self) -> str:
        """``auto``, ``must``, or the folder of a checkpoint."""
        ...

    def to_json(self) -> dict[str, Any]:
        """Plain data for a worker process."""
        ...


@dataclass(frozen=True)
class TrainJob:
    """One shard's training.

    Attributes:
        folder: ``RUN/train/shard-<k>``; checkpoints, metrics and the final weights go there.
        base: folder of the base model.
        examples: file of tokenised examples.
        probe: questions' token ids on which final logits are recorded for the export's check.
        train: the train group.
        seed: run.seed.
        identity: hash of everything that decides the result (stage hash, base weights, examples).
        threads: intra-op threads of a rank (CPU).
        resume: ``auto``, ``must``, or the folder of one of this training's own checkpoints.
        replayed: number of the last examples, which are replay.
        soft: file of a teacher's labels; empty: none.
    """

    folder: str
    base: str
    examples: str
    probe: tuple[tuple[int, ...], ...]
    train: TrainConfig
    seed: int
    identity: str
    threads: int
    resume: str = "auto"
    replayed: int = 0
    soft: str = ""

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
        """Where the trained weights are, once training is done."""
        return self.path / "final"

    @property
    def working_files(self) -> tuple[Path, ...]:
        """What fixed weights have computed, kept for all epochs."""
        names = ("activations.json", "activations.npy", "anchor.json", "anchor.npy")
        return tuple(self.path / name for name in names)

    def to_json(self) -> dict[str, Any]:
        """Plain data for a worker process."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> TrainJob:
        """The inverse of :meth:`to_json`."""
        probe = tuple(tuple(ids) for ids in values["probe"])
        return cls(**{**values, "train": TrainConfig(**values["train"]), "probe": probe})


def rows_per_step(train: TrainConfig, world: int) -> int:
    """Rows of an optimizer step, over all ranks.

    Raises:
        UsageError: they cannot be dealt evenly to the ranks.
    """
    rows = train.batch_tokens // train.micro_batch_tokens
    if rows % world:
        raise UsageError(
            f"{world} ranks cannot share the {rows} rows of a step evenly: change"
            f" train.batch_tokens={train.batch_tokens},"
            f" train.micro_batch_tokens={train.micro_batch_tokens} or the number of ranks"
            " (cluster.workers; launch.nodes and launch.gpus_per_node)"
        )
    return rows


def make_plan(job: TrainJob, lengths: Any, world: int) -> Plan:
    """The job's order of training."""
    rows = rows_per_step(job.train, world)
    return plan_training(lengths, job.train.micro_batch_tokens, rows, job.train.epochs, job.seed)


def total_steps(train: TrainConfig, plan: Plan) -> int:
    """Optimizer steps of the whole training, ``max_minutes`` aside."""
    return min(plan.steps, train.max_steps) if train.max_steps else plan.steps
