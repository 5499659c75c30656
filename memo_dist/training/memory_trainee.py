"""The memory of one shard, as what the training loop trains."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from memo_dist.cluster.ranks import Ranks
from memo_dist.errors import UsageError
from memo_dist.training.anchor import base_states
from memo_dist.training.batch import Row, full_row, prefetched
from memo_dist.training.deepspeed_seam import Engine
from memo_dist.training.examples import Examples
from memo_dist.training.extras import Extras, SoftLabels
from memo_dist.training.final import write_memory
from memo_dist.training.flops import flops_per_token
from memo_dist.training.frozen import FrozenLayers, worth_keeping
from memo_dist.training.job import TrainJob, make_plan, total_steps
from memo_dist.training.loss import RowModel
from memo_dist.training.model import RankModel, load_rank_model, model_width, use_bf16
from memo_dist.training.recall import load_meter
from memo_dist.training.refusal import gpu_is_full
from memo_dist.training.trainee import Report, StepContent


class MemoryTrainee:
    """One rank's model, examples and their order; see :class:`memo_dist.training.trainee.Trainee`.

    Rows are packed examples of ``train.micro_batch_tokens`` tokens.
    """

    lr_key = "train.lr"

    def __init__(self, job: TrainJob, ranks: Ranks) -> None:
        self._job, self._ranks = job, ranks
        self._examples = Examples.load(Path(job.examples))
        self._plan = make_plan(job, self._examples.lengths, ranks.world)
        self.steps = total_steps(job.train, self._plan)
        self.micro_batches = self._plan.rows_per_step // ranks.world
        self._model = _load_model(job, self._examples)
        self.flops = _flops(self._model, self._examples)
        self._extras = self._load_extras()
        taught = self._examples.part(0, len(self._examples) - job.replayed)
        self.meter = load_meter(job.path, Path(job.base), taught, job.train, job.seed, ranks)
        self._activations: np.ndarray | None = None
        self._dry = _wants_dry_batch(job.train.dry_batch)

    @property
    def bf16(self) -> bool:
        """Whether the forward pass runs in bfloat16."""
        return self._model.dtype == torch.bfloat16

    @property
    def module(self) -> RowModel:
        """The trained part of the model."""
        return self._model.rows

    def saved_name(self, name: str) -> str:
        """The base model's name of a parameter."""
        return self._model.base_name(name)

    def position(self, step: int) -> int:
        """Examples consumed after ``step`` steps."""
        return self._plan.positions(step - 1).stop if 0 < step <= self._plan.steps else 0

    def consumed_rows(self, step: int) -> int:
        """Rows consumed after ``step`` steps."""
        return min(step * self._plan.rows_per_step, self._plan.rows)

    def content(self, step: int) -> StepContent:
        """Tokens of a step; each counts as it does in the loss."""
        examples, used = self._examples, self._plan.step_examples(step)
        return StepContent(
            counted=examples.counted(used, self._job.train.question_weight),
            epoch=self._plan.epoch(step),
            consumed_tokens=int(examples.lengths[used].sum()),
            trained_tokens=int(examples.trained[used].sum()),
        )

    def prepare(self, engine: Engine, step: int, report: Report) -> float:
        """Run the frozen layers over all examples, once in a training."""
        frozen, seconds = self._model.frozen, 0.0
        if frozen is not None:
            started = time.monotonic()
            self._activations = self._run_frozen(frozen, engine.device, report)
            seconds = time.monotonic() - started
        if self.meter is not None:
            self.meter.prepare(frozen, engine.device)
        return seconds

    def _run_frozen(self, frozen: FrozenLayers, device: torch.device, report: Report) -> np.ndarray:
        job = self._job
        frozen.decoder.to(device)
        return frozen.keep(
            job.path, self._examples, job.train.micro_batch_tokens, self._ranks, device,
            job.identity, lambda part: report(frozen=part),
        )  # fmt: skip

    def rows(self, step: int) -> Iterator[Row]:
        """This rank's rows, prepared ahead."""
        rank, world = self._ranks.rank, self._ranks.world
        steps = range(step, self.steps)
        rows = (row for step in steps for row in self._plan.rank_rows(step, rank, world))
        weight = self._job.train.question_weight
        return prefetched(self._examples, rows, self._activations, weight, self._extras)

    def _load_extras(self) -> Extras | None:
        """A teacher's labels and the base's states; None without either.

        Called before a checkpoint is read: the model is the one that the training begins with.
        """
        job, examples = self._job, self._examples
        soft = SoftLabels.load(Path(job.soft)) if job.soft else None
        if soft is None and not job.train.anchor_kl:
            return None
        first = len(examples) - job.replayed
        anchor = None
        if job.train.anchor_kl:
            replayed = examples.part(first, len(examples))
            anchor = base_states(job, self._model, replayed, self._ranks)
        weight, token = job.train.teacher_weight, int(examples.starts[first])
        return Extras(soft, weight, first, token, anchor)

    def loss(self, engine: Engine, row: Row) -> torch.Tensor:
        """The loss of a row; before the first one a full row is tried."""
        if self._dry:
            self._dry_batch(engine, row)
        loss: torch.Tensor = engine.module(*row.to(engine.device).loss_inputs)
        return loss

    def _dry_batch(self, engine: Engine, like: Row) -> None:
        """A row of full length whose loss counts nothing: its gradients are zero.

        Raises:
            UsageError: the GPU's memory does not hold it.
        """
        train, self._dry = self._job.train, False
        row = full_row(train.micro_batch_tokens, like).to(engine.device)
        try:
            loss = engine.module(*row.loss_inputs)
            engine.backward(loss * 0.0, last=False)
        except torch.OutOfMemoryError as error:
            raise UsageError(gpu_is_full(train, error)) from error

    def write(self, engine: Engine, folder: Path) -> None:
        """Weights or adapter, tokenizer, and logits for the export's check."""
        write_memory(self._job, self._model, engine, folder, self._ranks.is_first)


def _load_model(job: TrainJob, examples: Examples) -> RankModel:
    train, base = job.train, Path(job.base)
    width = model_width(base)
    keep = bool(train.trained_layers) and worth_keeping(
        train, len(examples.ids), width, use_bf16(train.precision, width)
    )
    return load_rank_model(base, train, keep)


def _flops(model: RankModel, examples: Examples) -> float:
    """Floating-point operations per token, for the mean length that a token's example has."""
    lengths = examples.lengths
    mean = float((lengths**2).sum() / lengths.sum())
    share = float(examples.trained.sum() / lengths.sum())
    return flops_per_token(model.rows, model.config, mean, model.rows.head, share)


def _wants_dry_batch(asked: str) -> bool:
    return asked == "always" or (asked == "auto" and torch.cuda.is_available())
