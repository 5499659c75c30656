"""The training loop of one rank. How it was launched does not matter here.

A rank computes the whole plan, loads the newest complete checkpoint, and steps through the
rest. What ranks must agree on (stop, time is up, save now, measure now) is shared in one small
all-reduce at each step's border.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from memo_dist.cluster.ranks import Ranks
from memo_dist.cluster.stop import STOP
from memo_dist.errors import RunError, UsageError
from memo_dist.training import checkpoint, recall
from memo_dist.training.batch import Row, full_row, prefetched
from memo_dist.training.deepspeed_seam import Engine, engine_config, zero_stage
from memo_dist.training.examples import Examples
from memo_dist.training.final import write_final
from memo_dist.training.flops import flops_per_token, peak_flops
from memo_dist.training.fragment_files import FragmentReader
from memo_dist.training.frozen import worth_keeping
from memo_dist.training.job import STOP_REQUEST, TrainJob, make_plan, total_steps
from memo_dist.training.ledger import Ledger
from memo_dist.training.model import Trainee, load_trainee, model_width, use_bf16
from memo_dist.training.packing import Plan
from memo_dist.training.progress import Progress
from memo_dist.training.reporting import Reporter, drop_metrics_after, last_metric_step
from memo_dist.training.saver import Saver, find_checkpoint
from memo_dist.training.schedule import Pace, TimeCap, learning_rate

Outcome = Literal["done", "stopped"]
Watch = Callable[[int, dict[str, float]], None]
"""What rank 0 calls after each step: (steps done, numbers to show)."""


@dataclass(frozen=True)
class _Border:
    """What ranks agreed on at a step's border."""

    pace: Pace
    stop: bool
    save: bool
    late: bool
    measure: bool
    unwritten: bool


class Trainer:
    """One rank of one shard's training."""

    def __init__(self, job: TrainJob, ranks: Ranks, watch: Watch | None = None) -> None:
        self._job, self._ranks, self._watch = job, ranks, watch
        if not torch.cuda.is_available():
            torch.set_num_threads(job.threads)
        torch.manual_seed(job.seed)
        self._examples = Examples.load(Path(job.examples))
        self._plan: Plan = make_plan(job, self._examples.lengths, ranks.world)
        self._steps = total_steps(job.train, self._plan)
        self._progress = Progress()
        self._cap = TimeCap(job.train.max_minutes)
        self._ledger = Ledger(job.path, job.identity)
        self._check_progress()
        self._saver = Saver(job, ranks, self._commit)
        self._trainee, self._engine = self._build()
        self._activations: np.ndarray | None = None
        self._meter = recall.load_meter(
            job.path, Path(job.base), self._examples, job.train, job.seed, ranks
        )
        self._dry = _wants_dry_batch(job.train.dry_batch)
        self._reporter = self._make_reporter() if ranks.is_first else None

    def run(self) -> Outcome:
        """Train to the end, or until a stop is requested and the state is saved."""
        self._start()
        self._report("running")
        finished = self._time_is_up() or self._progress.step >= self._steps
        rows = self._rows()
        while not finished:
            started = time.monotonic()
            loss = self._step(rows)
            self._progress.seconds += time.monotonic() - started
            border = self._agree()
            finished = border.late or self._progress.step >= self._steps
            measured = None
            if border.measure or (finished and self._meter is not None):
                measured = self._measure()
                finished = finished or self._is_enough(measured)
            self._record(loss, measured)
            self._progress.pace = border.pace  # of the next step; this one's is recorded
            self._save(border, finished)
            if border.stop and not finished:
                self._report("stopped")
                return "stopped"
        self._end()
        self._report("done")
        return "done"

    # -- before the first step -----------------------------------------------------------------

    def _check_progress(self) -> None:
        """Refuse endless requeues: every start needs minutes and none gets to a checkpoint.

        Raises:
            RunError: ``train.max_stalled_starts`` starts in a row led to no checkpoint.
        """
        limit, stalled = self._job.train.max_stalled_starts, self._ledger.stalled_starts()
        if limit and stalled >= limit:
            raise RunError(
                f"{stalled} starts in a row ended before a new checkpoint: see the log for what"
                " ends them, lower train.checkpoint_minutes, or raise"
                f" train.max_stalled_starts={limit}"
            )

    def _build(self) -> tuple[Trainee, Engine]:
        """Model and engine, with the state of the checkpoint to continue from."""
        job, train = self._job, self._job.train
        bf16 = use_bf16(train.precision)
        tokens = len(self._examples.ids)
        keep = bool(train.trained_layers) and worth_keeping(
            train, tokens, model_width(Path(job.base)), bf16
        )
        trainee = load_trainee(Path(job.base), train, keep)
        found = find_checkpoint(job)
        reader = FragmentReader(found[0]) if found else None
        if reader is not None:
            reader.load_weights(trainee.rows, trainee.base_name)
        rows_per_rank = self._plan.rows_per_step // self._ranks.world
        config = engine_config(train, bf16, rows_per_rank)
        engine = Engine(trainee.rows, train, config, trainee.base_name)
        if found is not None and reader is not None:
            folder, state = found
            engine.load(reader, state.step)
            checkpoint.restore_random_state(folder, self._ranks.rank)
            self._progress = Progress(
                state.step, state.consumed_tokens, state.trained_tokens, state.seconds,
                state.best_recall, state.evals_without_gain,
                Pace(state.pace_step, state.pace_seconds, state.spent),
            )  # fmt: skip
        return trainee, engine

    def _start(self) -> None:
        """Tidy what an earlier launch left, run the frozen layers, and try a full row."""
        self._ranks.barrier()
        if self._ranks.is_first:
            checkpoint.prune(self._job.checkpoints, self._job.train.keep_checkpoints)
            self._open_ledger()
        frozen, device = self._trainee.frozen, self._engine.device
        if frozen is not None:
            frozen.decoder.to(device)
            started = time.monotonic()
            self._activations = frozen.keep(
                self._job.path, self._examples, self._job.train.micro_batch_tokens, self._ranks,
                device, self._job.identity, lambda part: self._report("running", frozen=part),
            )  # fmt: skip
            self._progress.seconds += time.monotonic() - started
        if self._meter is not None:
            self._meter.prepare(frozen, device)

    def _open_ledger(self) -> None:
        path = self._job.path / "metrics.jsonl"
        reached = last_metric_step(path)
        drop_metrics_after(path, self._progress.step)
        self._ledger.start(
            self._progress.step, self._position(self._progress.step), self._position(reached),
            ranks=self._ranks.world, zero_stage=zero_stage(self._job.train),
        )  # fmt: skip

    def _position(self, step: int) -> int:
        return self._plan.positions(step - 1).stop if 0 < step <= self._plan.steps else 0

    def _rows(self) -> Iterator[Row]:
        """This rank's rows from here to the end, prepared ahead."""
        rank, world = self._ranks.rank, self._ranks.world
        steps = range(self._progress.step, self._steps)
        rows = (row for step in steps for row in self._plan.rank_rows(step, rank, world))
        weight = self._job.train.question_weight
        return prefetched(self._examples, rows, self._activations, weight)

    # -- one step ------------------------------------------------------------------------------

    def _step(self, rows: Iterator[Row]) -> float:
        """One optimizer step; returns the mean loss over its trained tokens, in nats, each
        counted as it is in the loss."""
        step, world = self._progress.step, self._ranks.world
        used = self._plan.step_examples(step)
        counted = self._examples.counted(used, self._job.train.question_weight)
        count = self._plan.rows_per_step // world
        losses = []
        for index in range(count):
            row = next(rows)
            if self._dry:
                self._dry_batch(row)
            row = row.to(self._engine.device)
            loss = self._engine.module(*row.loss_inputs)
            # DeepSpeed averages gradients over ranks; the loss is a mean over the trained
            # tokens of the whole step, hence world / counted.
            self._engine.backward(loss * (world / counted), last=index == count - 1)
            losses.append(loss.detach())
        self._engine.step(self._rate(step))
        self._progress.step += 1
        self._progress.trained_tokens += int(self._examples.trained[used].sum())
        self._progress.consumed_tokens += int(self._examples.lengths[used].sum())
        summed = sum(float(loss) for loss in losses)  # one wait for the GPU a step
        mean = self._ranks.sum(summed, self._engine.device) / counted
        if not math.isfinite(mean):
            raise RunError(
                f"the loss is {mean} at step {self._progress.step}: the training diverged;"
                f" lower train.lr={self._job.train.lr}"
            )
        return mean

    def _rate(self, step: int) -> float:
        return learning_rate(self._job.train, step, self._steps, self._progress.pace.spent)

    def _dry_batch(self, like: Row) -> None:
        """A row of full length whose loss counts nothing: its gradients are zero.

        Raises:
            UsageError: the GPU's memory does not hold it.
        """
        train, self._dry = self._job.train, False
        row = full_row(train.micro_batch_tokens, like).to(self._engine.device)
        try:
            loss = self._engine.module(*row.loss_inputs)
            self._engine.backward(loss * 0.0, last=False)
        except torch.OutOfMemoryError as error:
            raise UsageError(
                f"a full row of train.micro_batch_tokens={train.micro_batch_tokens} does not fit"
                " into this GPU's memory: lower it, set train.gradient_checkpointing=true, or"
                f" use a higher train.zero_stage ({str(error).splitlines()[0]})"
            ) from error

    def _measure(self) -> recall.Measured:
        """Measure recall and keep the best weights; collective."""
        assert self._meter is not None
        started = time.monotonic()
        progress = self._progress
        found = self._meter.measure(self._engine.module, self._engine.device)
        better = found.score > progress.best_recall
        progress.evals_without_gain = 0 if better else progress.evals_without_gain + 1
        if better:
            progress.best_recall = found.score
            if self._job.train.select == "recall":
                self._saver.keep_best(self._engine, progress.step, found.score)
        progress.last_eval = time.monotonic()
        progress.seconds += progress.last_eval - started
        return found

    def _is_enough(self, measured: recall.Measured) -> bool:
        train = self._job.train
        patient = bool(train.eval_patience)
        return (patient and self._progress.evals_without_gain >= train.eval_patience) or (
            train.eval_target > 0 and measured.trained >= train.eval_target
        )

    def _record(self, loss: float, measured: recall.Measured | None) -> None:
        if self._reporter is None:
            return
        step = self._progress.step - 1
        values: dict[str, float | int | None] = {
            "epoch": self._plan.epoch(step),
            "loss": loss,
            "lr": self._rate(step),
            "grad_norm": self._engine.grad_norm,
        }
        if measured is not None:
            values |= {"recall": measured.trained, "recall_held_out": measured.held_out}
        self._reporter.step(self._progress, values)
        if self._watch is not None:
            speed = self._progress.consumed_tokens / max(self._progress.seconds, 1e-9)
            self._watch(step + 1, {"loss": loss, "tokens/s": speed})

    def _report(self, state: str, **values: float) -> None:
        if self._reporter is not None:
            self._reporter.state(state, self._progress, **values)

    def _make_reporter(self) -> Reporter:
        lengths = self._examples.lengths
        mean = float((lengths**2).sum() / lengths.sum())
        flops = flops_per_token(self._trainee.rows, self._trainee.config, mean)
        peak = peak_flops(self._engine.device)
        return Reporter(
            self._job.path, self._steps, self._job.train.max_minutes * 60, flops,
            peak and peak * self._ranks.world,
        )  # fmt: skip

    # -- what the ranks agree on ---------------------------------------------------------------

    def _agree(self) -> _Border:
        """In one all-reduce: rank 0's clock and files, any rank's signal, every rank's writer."""
        train, first, progress = self._job.train, self._ranks.is_first, self._progress
        requested = first and (self._job.path / STOP_REQUEST).exists()
        save = first and _due(
            progress.step, train.checkpoint_steps, progress.last_save, train.checkpoint_minutes
        )
        measure = self._meter is not None and _due(
            progress.step, train.eval_steps, progress.last_eval, train.eval_minutes
        )
        flags = (
            requested or STOP(), save, first and self._time_is_up(), first and measure,
            self._saver.unwritten,
        )  # fmt: skip
        pace = self._cap.look(progress.pace, progress.step, self._steps, progress.seconds)
        mine = [pace.spent if first else 0.0, *map(float, flags)]
        spent, *agreed = self._ranks.max(mine, self._engine.device)
        return _Border(replace(pace, spent=spent), *map(bool, agreed))

    def _time_is_up(self) -> bool:
        """By this rank's clock; equal on all ranks only right after a resume."""
        limit = self._job.train.max_minutes * 60
        return bool(limit) and self._progress.seconds >= limit

    # -- checkpoints and the end ---------------------------------------------------------------

    def _save(self, border: _Border, finished: bool) -> None:
        if self._saver.pending and (finished or border.stop or not border.unwritten):
            self._saver.finish()
        if finished or not (border.stop or border.save) or self._saver.pending:
            return
        self._saver.begin(self._engine, self._state())
        if border.stop or not self._job.train.async_checkpoint:
            self._saver.finish()
        self._progress.last_save = time.monotonic()

    def _commit(self, state: checkpoint.TrainState) -> None:
        self._ledger.commit(state.step, state.position)

    def _state(self) -> checkpoint.TrainState:
        progress = self._progress
        return checkpoint.TrainState(
            step=progress.step,
            consumed_rows=min(progress.step * self._plan.rows_per_step, self._plan.rows),
            position=self._position(progress.step),
            consumed_tokens=progress.consumed_tokens,
            trained_tokens=progress.trained_tokens,
            seconds=progress.seconds,
            seed=self._job.seed,
            job=self._job.identity,
            world_size=self._ranks.world,
            zero_stage=zero_stage(self._job.train),
            threads=self._job.threads,
            versions={name: version(name) for name in ("torch", "deepspeed", "transformers")},
            best_recall=progress.best_recall,
            evals_without_gain=progress.evals_without_gain,
            pace_step=progress.pace.step,
            pace_seconds=progress.pace.seconds,
            spent=progress.pace.spent,
        )

    def _end(self) -> None:
        """Write the final weights; checkpoints and activations go once they exist."""
        best = self._saver.best() if self._job.train.select == "recall" else None
        if best is not None:
            self._engine.set_weights(best[2])
        state = replace(self._state(), weights_of_step=best[0] if best else 0)
        if self._ranks.is_first:
            self._commit(state)
        write_final(self._job, self._trainee, self._engine, state, self._ranks.is_first)
        if self._ranks.is_first:
            shutil.rmtree(self._job.checkpoints, ignore_errors=True)
            for name in ("activations.json", "activations.npy"):
                (self._job.path / name).unlink(missing_ok=True)
        self._ranks.barrier()


def _wants_dry_batch(asked: str) -> bool:
    return asked == "always" or (asked == "auto" and torch.cuda.is_available())


def _due(step: int, every_steps: int, since: float, every_minutes: float) -> bool:
    by_step = bool(every_steps) and step % every_steps == 0
    return by_step or (bool(every_minutes) and time.monotonic() - since >= every_minutes * 60)
