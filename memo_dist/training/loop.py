"""The training loop of one rank. How it was launched does not matter here.

A rank computes the whole plan, loads the newest complete checkpoint, and steps through the
rest. What ranks must agree on (stop, time is up, save now) is decided by rank 0 and shared in
one small all-reduce at each step's border.
"""

from __future__ import annotations

import math
import shutil
import time
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import save_file
from transformers import AutoTokenizer

from memo_dist.cluster.ranks import Ranks
from memo_dist.errors import RunError
from memo_dist.io import atomic
from memo_dist.observability.status import StatusWriter
from memo_dist.training import checkpoint
from memo_dist.training.batch import pack_row, summed_loss
from memo_dist.training.deepspeed_seam import Engine, engine_config, zero_stage
from memo_dist.training.examples import Examples
from memo_dist.training.format import ChatFormat
from memo_dist.training.job import STOP_REQUEST, TrainJob, make_plan, total_steps
from memo_dist.training.model import load_model, use_bf16
from memo_dist.training.packing import Plan
from memo_dist.training.schedule import learning_rate
from memo_dist.training.weight_files import write_model

Outcome = Literal["done", "stopped"]


@dataclass
class _Progress:
    """Where the training stands; mirrors ``checkpoint.TrainState``."""

    step: int = 0
    consumed_tokens: int = 0
    trained_tokens: int = 0
    seconds: float = 0.0
    last_save: float = field(default_factory=time.monotonic)


class Trainer:
    """One rank of one shard's training."""

    def __init__(self, job: TrainJob, ranks: Ranks) -> None:
        self._job = job
        self._ranks = ranks
        if not torch.cuda.is_available():
            torch.set_num_threads(job.threads)
        torch.manual_seed(job.seed)
        self._examples = Examples.load(Path(job.examples))
        self._plan: Plan = make_plan(job, self._examples.lengths, ranks.world)
        self._steps = total_steps(job.train, self._plan)
        self._progress = _Progress()
        self._status = StatusWriter(job.path) if ranks.is_first else None
        config = engine_config(
            job.train, use_bf16(job.train.precision), self._plan.rows_per_step // ranks.world
        )
        self._model = load_model(Path(job.base), job.train)
        self._engine = Engine(self._model, job.train, config)

    def run(self) -> Outcome:
        """Train to the end, or until a stop is requested and the state is saved."""
        self._resume()
        self._report("running")
        finished = self._time_is_up() or self._progress.step >= self._steps
        while not finished:
            started = time.monotonic()
            loss = self._step()
            self._progress.seconds += time.monotonic() - started
            self._record(loss)
            stop, save, late = self._agree()
            finished = late or self._progress.step >= self._steps
            if (stop or save) and not finished:
                self._save()
            if stop and not finished:
                self._report("stopped")
                return "stopped"
        self._write_final()
        self._report("done")
        return "done"

    def _time_is_up(self) -> bool:
        """By this rank's clock; equal on all ranks only right after a resume."""
        limit = self._job.train.max_minutes * 60
        return bool(limit) and self._progress.seconds >= limit

    def _step(self) -> float:
        """One optimizer step; returns the mean loss over its trained tokens, in nats."""
        step, world = self._progress.step, self._ranks.world
        rows = self._plan.step_rows(step)
        used = [index for row in rows for index in row]
        trained = int(self._examples.trained[used].sum())
        lr = learning_rate(self._job.train, step, self._steps)
        summed = 0.0
        for indices in self._plan.rank_rows(step, self._ranks.rank, world):
            row = pack_row(self._examples, indices).to(self._engine.device)
            loss = summed_loss(self._engine.module, row)
            # DeepSpeed averages gradients over ranks; the loss is a mean over the trained
            # tokens of the whole step, hence world / trained.
            self._engine.backward(loss * (world / trained))
            self._engine.step(lr)
            summed += float(loss.detach())
        self._progress.step += 1
        self._progress.trained_tokens += trained
        self._progress.consumed_tokens += int(self._examples.lengths[used].sum())
        mean = self._ranks.sum(summed, self._engine.device) / trained
        if not math.isfinite(mean):
            raise RunError(
                f"the loss is {mean} at step {self._progress.step}: the training diverged;"
                f" lower train.lr={self._job.train.lr}"
            )
        return mean

    def _record(self, loss: float) -> None:
        if self._status is None:
            return
        progress, plan = self._progress, self._plan
        row = {
            "step": progress.step,
            "epoch": plan.epoch(progress.step - 1),
            "loss": loss,
            "lr": learning_rate(self._job.train, progress.step - 1, self._steps),
            "grad_norm": self._engine.grad_norm,
            "tokens": progress.consumed_tokens,
            "trained_tokens": progress.trained_tokens,
            "seconds": progress.seconds,
            "tokens_per_second": progress.consumed_tokens / max(progress.seconds, 1e-9),
        }
        self._status.metric(**row)
        self._report("running", loss=loss)

    def _report(self, state: str, **values: float) -> None:
        if self._status is None:
            return
        progress = self._progress
        self._status.status(
            state,
            step=progress.step,
            steps=self._steps,
            seconds=progress.seconds,
            tokens_per_second=progress.consumed_tokens / max(progress.seconds, 1e-9),
            trained_tokens=progress.trained_tokens,
            **values,
        )

    def _agree(self) -> tuple[bool, bool, bool]:
        """(stop now, save now, time is up): rank 0 looks, all ranks learn, in one all-reduce."""
        train, first = self._job.train, self._ranks.is_first
        minutes = (time.monotonic() - self._progress.last_save) / 60
        by_time = bool(train.checkpoint_minutes) and minutes >= train.checkpoint_minutes
        by_step = bool(train.checkpoint_steps) and self._progress.step % train.checkpoint_steps == 0
        requested = (self._job.path / STOP_REQUEST).exists()
        looks = (requested, by_time or by_step, self._time_is_up())
        stop, save, late = self._ranks.any([first and look for look in looks], self._engine.device)
        return stop, save, late

    # -- checkpoints ---------------------------------------------------------------------------

    def _resume(self) -> None:
        """Load the newest complete checkpoint (or the one asked for), on every rank."""
        found = self._checkpoint_to_load()
        if found is not None:
            state = checkpoint.read_state(found)
            self._check_same(state, found)
            self._engine.load(found.parent, found.name)
            checkpoint.read_rank_files(found, self._ranks.rank)
            self._progress = _Progress(
                state.step, state.consumed_tokens, state.trained_tokens, state.seconds
            )
        self._ranks.barrier()
        if self._ranks.is_first:
            checkpoint.prune(self._job.checkpoints, self._job.train.keep_checkpoints)
            _drop_metrics_after(self._job.path / "metrics.jsonl", self._progress.step)

    def _checkpoint_to_load(self) -> Path | None:
        resume = self._job.resume
        if resume in ("auto", "must"):
            return checkpoint.latest(self._job.checkpoints)
        return Path(resume)

    def _check_same(self, state: checkpoint.TrainState, folder: Path) -> None:
        here = {
            "job": self._job.identity,
            "world_size": self._ranks.world,
            "zero_stage": zero_stage(self._job.train),
        }
        for name, value in here.items():
            then = getattr(state, name)
            if then != value:
                raise RunError(
                    f"checkpoint {folder.name} was written with {name}={then}, this launch has"
                    f" {value}: start with the same, or remove {folder.parent} to train anew"
                )

    def _save(self) -> None:
        folder = self._job.checkpoints / checkpoint.tag(self._progress.step)
        self._engine.save(folder.parent, folder.name)
        checkpoint.write_rank_files(folder, self._ranks.rank)
        self._ranks.barrier()
        if self._ranks.is_first:
            checkpoint.complete(folder, self._state())
            checkpoint.prune(folder.parent, self._job.train.keep_checkpoints)
        self._ranks.barrier()
        self._progress.last_save = time.monotonic()

    def _state(self) -> checkpoint.TrainState:
        progress = self._progress
        return checkpoint.TrainState(
            step=progress.step,
            consumed_rows=progress.step * self._plan.rows_per_step,
            consumed_tokens=progress.consumed_tokens,
            trained_tokens=progress.trained_tokens,
            seconds=progress.seconds,
            seed=self._job.seed,
            job=self._job.identity,
            world_size=self._ranks.world,
            zero_stage=zero_stage(self._job.train),
            threads=self._job.threads,
            versions={name: version(name) for name in ("torch", "deepspeed", "transformers")},
        )

    # -- the end -------------------------------------------------------------------------------

    def _write_final(self) -> None:
        """Write trained weights, tokenizer and probe logits; checkpoints go once they exist."""
        probe = self._probe_logits()
        final, first = self._job.final, self._ranks.is_first
        if first:
            shutil.rmtree(final, ignore_errors=True)
        write_model(self._model, self._engine.named_weights(), final if first else None)
        if first:
            tokenizer = AutoTokenizer.from_pretrained(self._job.base)
            ChatFormat.from_tokenizer(tokenizer).install(tokenizer)
            tokenizer.save_pretrained(final)
            save_file(probe, final / "probe.safetensors")
            atomic.write_json(final / checkpoint.STATE, vars(self._state()))
            checkpoint.mark_complete(final)
            shutil.rmtree(self._job.checkpoints, ignore_errors=True)
        self._ranks.barrier()

    def _probe_logits(self) -> dict[str, torch.Tensor]:
        """Last-position logits of each probe prompt, fp32 [vocabulary], for the export's check."""
        self._model.eval()
        probe = {}
        with torch.no_grad():
            for index, ids in enumerate(self._job.probe):
                tokens = torch.tensor([ids], device=self._engine.device)
                output = self._engine.module(
                    input_ids=tokens, logits_to_keep=torch.tensor([len(ids) - 1]), use_cache=False
                )
                probe[f"ids.{index}"] = tokens[0].cpu()
                probe[f"logits.{index}"] = output.logits[0, 0].float().cpu().contiguous()
        return probe


def _drop_metrics_after(path: Path, step: int) -> None:
    """Forget metrics of steps that a resume repeats, and a half-written last line."""
    if not path.exists():
        return
    kept = []
    for line in path.read_bytes().splitlines(keepends=True):
        if line.endswith(b"\n") and f'"step": {step + 1},'.encode() not in line:
            kept.append(line)
        else:
            break
    atomic.write_bytes(path, b"".join(kept))
