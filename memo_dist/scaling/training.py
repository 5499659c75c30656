"""Training and measuring one cell: a plain loop in one process, on one core or part of a GPU.

The memories of a study are far smaller than those that need ZeRO, and there are many of them: a
cell holds no process group, and a cluster runs as many cells side by side as it has cores.
That is why :mod:`memo_dist.training.loop` is not used: a cell has nothing to agree on with others,
its checkpoint is one small file, it is measured in bits and ends early when its memory is full, and
there is no DeepSpeed engine, ledger or random state to be saved.

AdamW without weight decay, gradients clipped at norm 1, warm-up, then a cosine to zero
(:mod:`memo_dist.scaling.recipe`). The order of reading is a function of seed and step, so a
cell goes on from its checkpoint exactly.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save

from memo_dist.config.scale_schema import GridConfig, ScaleConfig
from memo_dist.io import atomic
from memo_dist.models.scratch import new_scratch_model
from memo_dist.scaling.cells import CHECKPOINT, RESULT, Cell
from memo_dist.scaling.ladder import Shape
from memo_dist.scaling.recipe import BETAS, CLIP, WEIGHT_DECAY, rule_rate
from memo_dist.scaling.rounding import rounded
from memo_dist.scaling.sources import Batch, Knowledge, draw_knowledge
from memo_dist.scaling.sources.types import IGNORE
from memo_dist.training.model import use_bf16

_MOMENTS = ("exp_avg", "exp_avg_sq", "step")
_UNIFORM_SLACK = 1.05
"""A cell whose loss ends above this multiple of a uniform memory's has diverged."""


@dataclass
class Progress:
    """Where a cell is.

    Attributes:
        step: optimizer steps done.
        tokens: that were read in them, without padding.
        seconds: of stepping and measuring, over all starts.
        starts: times that it was started.
        spans: [begun, ended] of each start, in seconds of the epoch.
        bf16: whether it steps in bf16.
        curve: [exposures, bits] at each measurement.
        outcome: ``running``, ``done``, ``full`` or ``diverged``.
    """

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    starts: int = 0
    spans: list[list[float]] = field(default_factory=list)
    bf16: bool = False
    curve: list[list[float]] = field(default_factory=list)
    outcome: str = "running"


def peak_rate(cell: Cell, grid: GridConfig, parameters: int) -> float:
    """The rule's rate for the size, times the cell's ``rate``."""
    return cell.rate * rule_rate(grid.lr, grid.lr_exponent, parameters)


def rate_factor(step: int, steps: int, warmup: float) -> float:
    """Share of the peak rate at a step: linear warm-up, then a cosine that ends at zero."""
    warm = max(1, round(warmup * steps))
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


class CellTraining:
    """One cell in its folder.

    Args:
        cell: its coordinates.
        scale: the study's configuration.
        folder: holds the checkpoint while it runs, ``result.json`` in the end.
        device: where it runs.
    """

    def __init__(self, cell: Cell, scale: ScaleConfig, folder: Path, device: torch.device) -> None:
        self.cell, self.scale, self.folder, self.device = cell, scale, folder, device
        self.grid: GridConfig = getattr(scale, cell.source)
        self.knowledge, self.shape = draw_knowledge(cell, scale)
        self.model: Any = new_scratch_model(self.shape.config(), cell.seed).to(device)
        self.bf16 = use_bf16(scale.precision, key="scale.precision")
        rate = peak_rate(cell, self.grid, self.shape.parameters)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=rate, betas=BETAS, weight_decay=WEIGHT_DECAY, fused=True
        )
        self.rate = rate
        self.batches = self.knowledge.batches(self.grid.batch_tokens)
        self.steps = self.batches * cell.exposures
        self.progress = Progress(bf16=self.bf16)

    def run(self, stop: Callable[[], bool]) -> dict[str, Any] | None:
        """Train to the end and measure; None where ``stop`` asked to end: a checkpoint is there.

        The result (also ``result.json``) says how the cell ended: ``done``; ``full``: all
        knowledge was memorised before the last exposure; ``diverged``: the loss became NaN, or
        ended above that of a memory that knows nothing.
        """
        self.knowledge.prepare(self.score)
        self._restore()
        self.progress.starts += 1
        self.progress.spans.append([time.time(), time.time()])
        started = time.monotonic()
        before = self.progress.seconds
        every = max(1, self.steps // self.scale.measurements)
        saved = started
        while self.progress.step < self.steps and self.progress.outcome == "running":
            self._step()
            now = time.monotonic()
            self._count_time(before + now - started)
            if self.progress.step % every == 0 and self.progress.step < self.steps:
                self._measure_on_the_way()
            if stop():
                self._save()
                return None
            if now - saved >= 60 * self.scale.checkpoint_minutes:
                self._save()
                saved = time.monotonic()
        self._save()  # measuring may take long
        result = self._result(lambda: self._count_time(before + time.monotonic() - started))
        atomic.write_json(self.folder / RESULT, result)
        (self.folder / CHECKPOINT).unlink(missing_ok=True)
        return result

    def score(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """See :data:`memo_dist.scaling.sources.types.Score`."""
        targets = batch.targets.to(self.device)
        with torch.no_grad():
            logits = self._logits(batch.tokens).double()
        wanted = targets.clamp_min(0)
        nats = logits.logsumexp(-1) - logits.gather(-1, wanted[..., None])[..., 0]
        given = targets == IGNORE
        hits = (logits.argmax(-1) == wanted) | given
        return nats.masked_fill(given, 0.0).cpu(), hits.cpu()

    def _logits(self, tokens: torch.Tensor) -> torch.Tensor:
        """[rows, length, vocabulary]; rows are padded on the right, so causality is all the mask
        that is needed."""
        logits: torch.Tensor = self.model(input_ids=tokens.to(self.device), use_cache=False).logits
        return logits

    def _step(self) -> None:
        progress, model = self.progress, self.model
        epoch, index = divmod(progress.step, self.batches)
        batch = self.knowledge.batch(epoch, index, self.grid.batch_tokens)
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate * rate_factor(
                progress.step, self.steps, self.scale.warmup_fraction
            )
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            logits = self._logits(batch.tokens)
        loss = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1).float(), batch.targets.flatten().to(self.device)
        )
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        self.optimizer.step()
        self.optimizer.zero_grad()
        progress.step += 1
        progress.tokens += batch.read
        if not bool(torch.isfinite(norm)):
            progress.outcome = "diverged"

    def _measure_on_the_way(self) -> None:
        bits = self.knowledge.held_bits(self.score)
        self.progress.curve.append([round(self.progress.step / self.batches, 2), round(bits, 1)])
        full = self.scale.full
        if full and bits >= full * self.knowledge.bits:
            self.progress.outcome = "full"

    def _count_time(self, seconds: float) -> None:
        self.progress.seconds = seconds
        self.progress.spans[-1][1] = time.time()

    def _result(self, count_time: Callable[[], None]) -> dict[str, Any]:
        progress, knowledge = self.progress, self.knowledge
        measured: dict[str, dict[str, float]] = {}
        if progress.outcome != "diverged" and self._is_worse_than_nothing():
            progress.outcome = "diverged"
        if progress.outcome != "diverged":
            for precision in self.scale.precisions:
                with rounded(self.model, precision):
                    measured[precision] = knowledge.measure(self.score)
        if progress.outcome == "running":
            progress.outcome = "done"
        count_time()
        return {
            "schema_version": 1,
            "cell": asdict(self.cell),
            "outcome": progress.outcome,
            "parameters": self.shape.parameters,
            "embedding_parameters": self.shape.embedding_parameters,
            "shape": asdict(self.shape),
            "items": knowledge.items,
            "volume_bits": knowledge.bits,
            "measured": measured,
            "curve": progress.curve,
            "exposures": progress.step / self.batches,
            "steps": progress.step,
            "learning_rate": self.rate,
            "tokens": progress.tokens,
            "flops": self.shape.flops(progress.tokens, knowledge.length),
            "seconds": round(progress.seconds, 2),
            "starts": progress.starts,
            "spans": progress.spans,
            "precision": "bf16" if self.bf16 else "fp32",
            "device": self._device_name(),
        }

    def _is_worse_than_nothing(self) -> bool:
        """Whether the loss on a first batch is above a uniform memory's."""
        batch = self.knowledge.batch(0, 0, self.grid.batch_tokens)
        nats, _ = self.score(batch)
        predicted = int((batch.targets != IGNORE).sum())
        uniform = math.log(self.shape.vocabulary)
        return not float(nats.sum()) / predicted <= _UNIFORM_SLACK * uniform

    def _device_name(self) -> str:
        if self.device.type == "cuda":
            return torch.cuda.get_device_name(self.device)
        return f"cpu, {torch.get_num_threads()} thread(s)"

    def _save(self) -> None:
        """Weights, moments and progress in one file: it is whole or it is not there."""
        tensors = {f"weight.{name}": p for name, p in self._parameters()}
        for name, parameter in self._parameters():
            state = self.optimizer.state[parameter]
            tensors |= {f"{moment}.{name}": state[moment] for moment in _MOMENTS}
        values = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
        metadata = {"progress": atomic.json_line(asdict(self.progress)).decode()}
        atomic.write_bytes(self.folder / CHECKPOINT, save(values, metadata))

    def _restore(self) -> None:
        path = self.folder / CHECKPOINT
        if not path.exists():
            return
        with safe_open(path, "pt", str(self.device)) as file, torch.no_grad():
            found = Progress(**json.loads(file.metadata()["progress"]))
            if found.bf16 != self.bf16:
                return  # begun on another kind of device: one result has one precision
            if found.step and not found.tokens:
                return  # begun by a version that did not count them
            self.progress = found
            for name, parameter in self._parameters():
                parameter.copy_(file.get_tensor(f"weight.{name}"))
                self.optimizer.state[parameter] = {
                    moment: file.get_tensor(f"{moment}.{name}") for moment in _MOMENTS
                }

    def _parameters(self) -> list[tuple[str, torch.nn.Parameter]]:
        return list(self.model.named_parameters())


def step_seconds(shape: Shape, knowledge: Knowledge, tokens: int, steps: int = 3) -> float:
    """Seconds of one training step of this shape on this machine's CPU: the fastest of a few."""
    model: Any = new_scratch_model(shape.config(), 0)
    times = []
    for index in range(steps + 1):
        batch = knowledge.batch(0, index % knowledge.batches(tokens), tokens)
        started = time.perf_counter()
        logits = model(input_ids=batch.tokens, use_cache=False).logits
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch.targets.flatten()).backward()
        times.append(time.perf_counter() - started)
    return min(times[1:])
