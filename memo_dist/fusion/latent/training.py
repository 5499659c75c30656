"""Training a connector, as one rank; backbone and memories stay frozen.

Every rank holds the whole backbone and all memories, which never change, and DeepSpeed cuts the
connector, its gradients and its optimizer state as in the training of memories.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file
from transformers import AutoTokenizer

from memo_dist.cluster.ranks import Ranks
from memo_dist.cluster.stop import STOP
from memo_dist.config.fusion_schema import LatentConfig
from memo_dist.errors import RunError, UsageError
from memo_dist.fusion.latent.connector import Connector, ConnectorShape, attached_layers
from memo_dist.fusion.latent.examples import ConnectorBatch, ConnectorExample, read_examples
from memo_dist.fusion.latent.job import (
    HELD_OUT,
    TRAINED,
    ConnectorJob,
    micro_batches,
    rank_batches,
    step_examples,
    total_steps,
)
from memo_dist.fusion.latent.loss import ARMS, ConnectorRows
from memo_dist.fusion.latent.slots import SlotReader
from memo_dist.fusion.latent.store import WEIGHTS, save_card
from memo_dist.io import atomic
from memo_dist.io.hashing import short_hash
from memo_dist.memory.bank import Bank
from memo_dist.models.chat_format import ChatFormat
from memo_dist.models.loading import load_frozen
from memo_dist.observability.status import StatusWriter
from memo_dist.training import checkpoint
from memo_dist.training.deepspeed_seam import Engine, engine_config, zero_stage
from memo_dist.training.fragment_files import FragmentReader
from memo_dist.training.job import STOP_REQUEST
from memo_dist.training.model import decoder_layers, use_bf16
from memo_dist.training.reporting import drop_metrics_after
from memo_dist.training.saver import Saver, find_checkpoint
from memo_dist.training.schedule import learning_rate

Outcome = Literal["done", "stopped"]
Watch = Callable[[int, dict[str, float]], None]
"""What rank 0 calls after each step: (steps done, numbers to show)."""


def connector_shape(latent: LatentConfig, backbone: Any, memory: Any) -> ConnectorShape:
    """What the configuration makes of two causal LMs, the backbone and a memory.

    Raises:
        UsageError: the memory has no such layer.
    """
    depth = int(memory.config.num_hidden_layers)
    wrong = [layer for layer in latent.memory_layers if not -depth - 1 <= layer <= depth]
    if wrong:
        raise UsageError(
            f"fusion.latent.memory_layers={latent.memory_layers}: the memory has hidden layers 0 to"
            f" {depth}, or -1 to {-depth - 1} from its end"
        )
    return ConnectorShape(
        attached_layers(len(decoder_layers(backbone)), latent.every),
        int(backbone.config.hidden_size),
        int(memory.config.hidden_size),
        latent.heads,
        latent.head_width,
        tuple(latent.memory_layers),
    )


class ConnectorTrainer:
    """One rank of one connector's training."""

    def __init__(self, job: ConnectorJob, ranks: Ranks, watch: Watch | None = None) -> None:
        """Load everything, and the newest checkpoint."""
        self._job, self._ranks, self._watch = job, ranks, watch
        if not torch.cuda.is_available():
            torch.set_num_threads(job.threads)
        torch.manual_seed(job.seed)
        self._examples = read_examples(job.path / TRAINED)
        self._steps = total_steps(job.latent, len(self._examples))
        self._step = 0
        self._seconds = 0.0
        self._last_save = time.monotonic()
        self._saver = Saver(job, ranks, lambda state: None)
        self._status = StatusWriter(job.path) if ranks.is_first else None
        self._rows, self._engine = self._build()

    def run(self) -> Outcome:
        """Train to the end, or until a stop is requested and the state is saved."""
        self._tidy()
        before = self._measure()
        while self._step < self._steps:
            started = time.monotonic()
            loss = self._train_step()
            self._seconds += time.monotonic() - started
            self._record(loss)
            if self._border():
                self._report("stopped")
                return "stopped"
        self._saver.finish()
        self._end(before)
        self._report("done")
        return "done"

    def _build(self) -> tuple[ConnectorRows, Engine]:
        job = self._job
        backbone = load_frozen(Path(job.backbone), "auto").eval().requires_grad_(False)
        tokenizer = AutoTokenizer.from_pretrained(job.backbone, trust_remote_code=False)
        self._pad = ChatFormat.from_tokenizer(tokenizer).pad_id
        voices = list(Bank.load(Path(job.memory)).voices().values())
        shape = connector_shape(job.latent, backbone, voices[0].memory.model)
        connector = Connector(shape, job.seed).to(backbone.device)
        readers = [SlotReader(voice, shape.memory_layers) for voice in voices]
        self._shape = shape
        rows = ConnectorRows(connector, backbone, readers, job.latent, len(tokenizer))
        bf16 = use_bf16(job.train.precision)
        found = find_checkpoint(job)
        reader = FragmentReader(found[0]) if found else None
        if reader is not None:
            reader.load_weights(rows, _plain)
        config = engine_config(job.train, bf16, micro_batches(job.latent, self._ranks.world))
        engine = Engine(rows, job.train, config, _plain)
        if found is not None and reader is not None:
            folder, state = found
            engine.load(reader, state.step)
            checkpoint.restore_random_state(folder, self._ranks.rank)
            self._step, self._seconds = state.step, state.seconds
        return rows, engine

    def _tidy(self) -> None:
        self._ranks.barrier()
        if self._ranks.is_first:
            checkpoint.prune(self._job.checkpoints, self._job.train.keep_checkpoints)
            drop_metrics_after(self._job.path / "metrics.jsonl", self._step)
        self._report("running")

    def _train_step(self) -> float:
        """One optimizer step; returns the mean loss of its examples."""
        job, ranks = self._job, self._ranks
        chosen = step_examples(self._step, len(self._examples), job.latent, job.seed)
        parts = list(rank_batches(chosen, ranks.rank, ranks.world, job.latent))
        losses = []
        for place, part in enumerate(parts):
            noises = self._noises(part) if job.latent.noise else ()
            loss = self._engine.module(self._batch([self._examples[i] for i in part], noises))
            # DeepSpeed averages gradients over ranks; the loss is a mean over the step's examples.
            share = ranks.world / job.latent.batch
            self._engine.backward(loss * share, last=place == len(parts) - 1)
            losses.append(loss.detach())
        self._engine.step(learning_rate(job.train, self._step, self._steps))
        self._step += 1
        summed = sum(float(loss) for loss in losses)
        mean = ranks.sum(summed, self._engine.device) / job.latent.batch
        if not math.isfinite(mean):
            raise RunError(
                f"the loss is {mean} at step {self._step}: the training diverged; lower"
                f" fusion.latent.lr={job.train.lr}"
            )
        return mean

    def _batch(
        self, examples: Sequence[ConnectorExample], noises: Sequence[int] = ()
    ) -> ConnectorBatch:
        return ConnectorBatch.of(examples, self._pad, self._engine.device, noises)

    def _noises(self, chosen: Sequence[int]) -> list[int]:
        """A seed for each example of this step, whichever rank has it."""
        return [int(short_hash([self._job.seed, self._step, i]), 16) for i in chosen]

    @torch.no_grad()
    def _measure(self) -> dict[str, dict[str, float]]:
        """{inside or outside: {arm: nats a token}} of facts and questions that nothing is
        learned from; collective."""
        examples = read_examples(self._job.path / HELD_OUT)
        found: dict[bool, list[torch.Tensor]] = {True: [], False: []}
        size = self._job.latent.micro_batch
        for start in range(0, len(examples), size):
            part = examples[start : start + size]
            arms = self._engine.module(self._batch(part), want="arms").float().cpu()
            for example, row in zip(part, arms, strict=True):
                found[example.inside].append(row)
        return {
            name: dict(zip(ARMS, torch.stack(rows).mean(dim=0).tolist(), strict=True))
            for name, rows in (("inside", found[True]), ("outside", found[False]))
            if rows
        }

    def _border(self) -> bool:
        """Save where it is time; whether to stop. One all-reduce."""
        train, first = self._job.train, self._ranks.is_first
        minutes = time.monotonic() - self._last_save >= train.checkpoint_minutes * 60
        steps = bool(train.checkpoint_steps) and self._step % train.checkpoint_steps == 0
        save = first and (steps or (bool(train.checkpoint_minutes) and minutes))
        requested = STOP() or (first and (self._job.path / STOP_REQUEST).exists())
        flags = (requested, save, self._saver.unwritten)
        stop, save, unwritten = self._ranks.any(flags, self._engine.device)
        finished = self._step >= self._steps
        if self._saver.pending and (stop or finished or not unwritten):
            self._saver.finish()
        if not finished and (stop or save) and not self._saver.pending:
            self._saver.begin(self._engine, self._state())
            if stop or not train.async_checkpoint:
                self._saver.finish()
            self._last_save = time.monotonic()
        return stop and not finished

    def _state(self) -> checkpoint.TrainState:
        job, read = self._job, self._step * self._job.latent.batch
        return checkpoint.TrainState(
            step=self._step,
            consumed_rows=read,
            position=read,
            consumed_tokens=0,
            trained_tokens=0,
            seconds=self._seconds,
            seed=job.seed,
            job=job.identity,
            world_size=self._ranks.world,
            zero_stage=zero_stage(job.train),
            threads=job.threads,
            versions={name: version(name) for name in ("torch", "deepspeed", "transformers")},
        )

    def _end(self, before: dict[str, dict[str, float]]) -> None:
        """Write the connector and its card; checkpoints go once they exist. Collective."""
        after = self._measure()
        weights = {
            name: value.to("cpu", torch.float32, copy=True)
            for name, value in self._engine.weights(trained_only=True)
        }
        if self._ranks.is_first:
            job, new = self._job, self._job.path / f".{self._job.final.name}"
            shutil.rmtree(new, ignore_errors=True)
            new.mkdir(parents=True)
            save_file(weights, new / WEIGHTS, metadata={"format": "pt"})
            atomic.write_json(new / checkpoint.STATE, asdict(self._state()))
            save_card(new, job.card, self._shape, job.latent, {"before": before, "after": after})
            checkpoint.mark_complete(new)
            shutil.rmtree(job.final, ignore_errors=True)
            new.replace(job.final)
            shutil.rmtree(job.checkpoints, ignore_errors=True)
        self._ranks.barrier()

    def _record(self, loss: float) -> None:
        if self._status is None:
            return
        values = {"loss": loss, "grad_norm": self._engine.grad_norm}
        self._status.metric(step=self._step, **values, seconds=self._seconds)
        self._report("running", loss=loss)
        if self._watch is not None:
            self._watch(self._step, {"loss": loss})

    def _report(self, state: str, **values: float) -> None:
        if self._status is not None:
            self._status.status(
                state, step=self._step, steps=self._steps, seconds=self._seconds, **values
            )


def _plain(name: str) -> str:
    """The connector's own name of one of the rows' parameters."""
    return name.removeprefix("connector.")
