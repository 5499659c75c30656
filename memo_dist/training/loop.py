"""The training loop of one rank, for memories and connectors alike.

How the rank was launched does not matter here, and what it trains is a
:class:`memo_dist.training.trainee.Trainee`, which gives rows, their loss and the result's files.
The loop owns everything else: DeepSpeed's engine, the newest complete checkpoint to continue
from, progress, metrics and status, the ledger, the time cap, checkpoints, and the end.

What ranks must agree on (stop, time is up, save now, measure now) is shared in one small
all-reduce after each step (:class:`StepAgreement`).

A cell of a scaling study (:mod:`memo_dist.scaling.training`) has a loop of its own, and says why.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from typing import Any

import torch

from memo_dist.cluster.ranks import Ranks
from memo_dist.cluster.stop import STOP
from memo_dist.errors import RunError, StoppedError
from memo_dist.io import atomic
from memo_dist.training import checkpoint, recall
from memo_dist.training.deepspeed_seam import Engine, engine_config, zero_stage
from memo_dist.training.flops import peak_flops
from memo_dist.training.fragment_files import FragmentReader
from memo_dist.training.job import STOP_REQUEST, Outcome, RankJob, Watch
from memo_dist.training.ledger import Ledger
from memo_dist.training.progress import Progress
from memo_dist.training.reporting import Reporter, drop_metrics_after, last_metric_step
from memo_dist.training.saver import Saver, find_checkpoint, settle_checkpoint
from memo_dist.training.schedule import Pace, TimeCap, learning_rate
from memo_dist.training.trainee import StepContent, Trainee

_STOP_GRACE = 180.0
"""Seconds after a stop request that ranks wait for rank 0 to finish the result. Less than the 300
(``launch.signal_seconds``) that Slurm leaves them: then the job goes back into the queue."""


@dataclass(frozen=True)
class StepAgreement:
    """What all ranks agree on after a step.

    Attributes:
        pace: rank 0's.
        stop: a stop was requested on any rank: save, and end this launch.
        save: a checkpoint is due.
        late: ``train.max_minutes`` are over: this was the last step.
        measure: a measurement is due.
        unwritten: some rank still writes its files of the checkpoint that is begun.
    """

    pace: Pace
    stop: bool
    save: bool
    late: bool
    measure: bool
    unwritten: bool


class TrainingLoop:
    """One rank of one training.

    Args:
        job: the training's.
        ranks: this rank's place.
        load: makes the trainee, with the random state seeded; called once, after what can be
            refused without a model.
        watch: called on rank 0 after each step.
    """

    def __init__(
        self,
        job: RankJob,
        ranks: Ranks,
        load: Callable[[Ranks], Trainee],
        watch: Watch | None = None,
    ) -> None:
        self._job, self._ranks, self._watch = job, ranks, watch
        if not torch.cuda.is_available():
            torch.set_num_threads(job.threads)
        torch.manual_seed(job.seed)
        self._progress = Progress()
        self._cap = TimeCap(job.train.max_minutes)
        self._ledger = Ledger(job.path, job.identity)
        self._check_progress()
        self._saver = Saver(job, ranks, self._commit)
        self._trainee = load(ranks)
        self._steps, self._meter = self._trainee.steps, self._trainee.meter
        self._engine = self._build()
        self._reporter = self._make_reporter() if ranks.is_first else None

    def run(self) -> Outcome:
        """Train to the end, or until a stop is requested and the state is saved."""
        try:
            self._start()
        except StoppedError:
            self._report("stopped")
            return "stopped"
        finished = self._time_is_up() or self._progress.step >= self._steps
        rows = self._trainee.rows(self._progress.step)
        while not finished:
            started = time.monotonic()
            content = self._trainee.content(self._progress.step)
            loss = self._step(rows, content)
            self._progress.seconds += time.monotonic() - started
            agreed = self._agree()
            finished = agreed.late or self._progress.step >= self._steps
            measured = None
            if agreed.measure or (finished and self._meter is not None):
                measured = self._measure()
                finished = finished or self._is_enough(measured)
            self._record(loss, content, measured)
            self._progress.pace = agreed.pace  # of the next step; this one's is recorded
            self._save(agreed, finished)
            if agreed.stop and not finished:
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

    def _build(self) -> Engine:
        """The engine, with the state of the checkpoint to continue from."""
        train, trainee = self._job.train, self._trainee
        settle_checkpoint(self._job, self._ranks)
        found = find_checkpoint(self._job)
        reader = FragmentReader(found[0]) if found else None
        if reader is not None:
            reader.load_weights(trainee.module, trainee.saved_name)
        config = engine_config(train, trainee.bf16, trainee.micro_batches)
        engine = Engine(trainee.module, train, config, trainee.saved_name)
        if found is not None and reader is not None:
            folder, state = found
            engine.load(reader, state.step)
            checkpoint.restore_random_state(folder, self._ranks.rank)
            self._progress = Progress.of(state)
        return engine

    def _start(self) -> None:
        """Tidy what an earlier launch left, and let the trainee prepare."""
        self._ranks.barrier()
        if self._ranks.is_first:
            checkpoint.prune(self._job.checkpoints, self._job.train.keep_checkpoints)
            self._open_ledger()
        self._running()
        step = self._progress.step
        self._progress.seconds += self._trainee.prepare(self._engine, step, self._running)
        self._running()

    def _open_ledger(self) -> None:
        path, step = self._job.path / "metrics.jsonl", self._progress.step
        reached = last_metric_step(path)
        drop_metrics_after(path, step)
        position = self._trainee.position
        self._ledger.start(
            step, position(step), position(reached),
            ranks=self._ranks.world, zero_stage=zero_stage(self._job.train),
        )  # fmt: skip

    # -- one step ------------------------------------------------------------------------------

    def _step(self, rows: Iterator[Any], content: StepContent) -> float:
        """One optimizer step; returns the mean of its losses in nats."""
        step, world = self._progress.step, self._ranks.world
        count, losses = self._trainee.micro_batches, []
        for index in range(count):
            loss = self._trainee.loss(self._engine, next(rows))
            # DeepSpeed averages gradients over ranks; the loss is a mean over the whole step,
            # hence world / counted.
            self._engine.backward(loss * (world / content.counted), last=index == count - 1)
            losses.append(loss.detach())
        self._engine.step(self._rate(step))
        self._progress.step += 1
        self._progress.trained_tokens += content.trained_tokens
        self._progress.consumed_tokens += content.consumed_tokens
        summed = sum(float(loss) for loss in losses)  # one wait for the GPU a step
        return self._finite(self._ranks.sum(summed, self._engine.device) / content.counted)

    def _finite(self, mean: float) -> float:
        if not math.isfinite(mean):
            raise RunError(
                f"the loss is {mean} at step {self._progress.step}: the training diverged;"
                f" lower {self._trainee.lr_key}={self._job.train.lr}"
            )
        return mean

    def _rate(self, step: int) -> float:
        return learning_rate(self._job.train, step, self._steps, self._progress.pace.spent)

    def _measure(self) -> recall.Measured:
        """Measure recall and keep the best weights; collective."""
        assert self._meter is not None
        self._report("running")  # the driver sees life before what may take minutes
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

    # -- what rank 0 shows ---------------------------------------------------------------------

    def _make_reporter(self) -> Reporter:
        peak = peak_flops(self._engine.device)
        return Reporter(
            self._job.path, self._steps, self._job.train.max_minutes * 60, self._trainee.flops,
            peak and peak * self._ranks.world,
        )  # fmt: skip

    def _record(self, loss: float, content: StepContent, measured: recall.Measured | None) -> None:
        if self._reporter is None:
            return
        values: dict[str, float | int | None] = {
            "epoch": content.epoch,
            "loss": loss,
            "lr": self._rate(self._progress.step - 1),
            "grad_norm": self._engine.grad_norm,
        }
        if measured is not None:
            values |= {"recall": measured.trained, "recall_held_out": measured.held_out}
        self._reporter.step(self._progress, values)
        if self._watch is not None:
            self._watch(self._progress.step, {"loss": loss, **self._reporter.speed(self._progress)})

    def _running(self, **values: float) -> bool:
        """Show where it is; False if a stop was requested."""
        self._report("running", **values)
        return not (STOP() or (self._job.path / STOP_REQUEST).exists())

    def _report(self, state: str, **values: float) -> None:
        if self._reporter is not None:
            self._reporter.state(state, self._progress, **values)

    # -- what the ranks agree on ---------------------------------------------------------------

    def _agree(self) -> StepAgreement:
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
        return StepAgreement(replace(pace, spent=spent), *map(bool, agreed))

    def _time_is_up(self) -> bool:
        """By this rank's clock; equal on all ranks only right after a resume."""
        limit = self._job.train.max_minutes * 60
        return bool(limit) and self._progress.seconds >= limit

    # -- checkpoints and the end ---------------------------------------------------------------

    def _save(self, agreed: StepAgreement, finished: bool) -> None:
        if self._saver.pending and (finished or agreed.stop or not agreed.unwritten):
            self._saver.finish()
        if finished or not (agreed.stop or agreed.save) or self._saver.pending:
            return
        self._saver.begin(self._engine, self._state())
        if agreed.stop or not self._job.train.async_checkpoint:
            self._saver.finish()
        self._progress.last_save = time.monotonic()

    def _commit(self, state: checkpoint.TrainState) -> None:
        self._ledger.commit(state.step, state.position)

    def _state(self) -> checkpoint.TrainState:
        progress = self._progress
        return checkpoint.TrainState(
            step=progress.step,
            consumed_rows=self._trainee.consumed_rows(progress.step),
            position=self._trainee.position(progress.step),
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
        """Write the result; what only a running training needs goes once it exists."""
        self._report("running")
        best = self._saver.best() if self._job.train.select == "recall" else None
        if best is not None:
            self._engine.set_weights(best[2])
        state = replace(self._state(), weights_of_step=best[0] if best else 0)
        new = self._job.final.with_name(f".{self._job.final.name}")
        if self._ranks.is_first:
            self._commit(state)
            shutil.rmtree(new, ignore_errors=True)
            new.mkdir(parents=True)
        self._trainee.write(self._engine, new)
        if self._ranks.is_first:
            atomic.write_json(new / checkpoint.STATE, asdict(state))
            checkpoint.publish(new, self._job.final)
            shutil.rmtree(self._job.checkpoints, ignore_errors=True)
            for file in self._job.working_files:
                file.unlink(missing_ok=True)
        self._ranks.barrier_after_first(f"{self._job.final} is there", _STOP_GRACE)


def _due(step: int, every_steps: int, since: float, every_minutes: float) -> bool:
    by_step = bool(every_steps) and step % every_steps == 0
    return by_step or (bool(every_minutes) and time.monotonic() - since >= every_minutes * 60)
