"""The connector of a backbone and a memory, as what the training loop trains.

Every rank holds the whole backbone and all memories, which never change, and DeepSpeed cuts the
connector, its gradients and its optimizer state as in the training of memories
(:mod:`memo_dist.training.loop`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save_file
from transformers import AutoTokenizer

from memo_dist.cluster.ranks import Ranks
from memo_dist.config.fusion_schema import LatentConfig
from memo_dist.errors import UsageError
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
from memo_dist.training.deepspeed_seam import Engine
from memo_dist.training.model import decoder_layers, use_bf16
from memo_dist.training.trainee import Report, StepContent

Nats = dict[str, dict[str, float]]
"""{inside or outside: {arm: nats/token}} of held-out examples."""


class _Row(NamedTuple):
    """The examples of a micro-batch, and a seed for the noise on each; none: no noise."""

    examples: Sequence[ConnectorExample]
    noises: Sequence[int]


class ConnectorTrainee:
    """One rank's connector and examples; see :class:`memo_dist.training.trainee.Trainee`.

    A row is a micro-batch of ``fusion.latent.micro_batch`` examples.
    """

    lr_key = "fusion.latent.lr"
    flops = None
    meter = None

    def __init__(self, job: ConnectorJob, ranks: Ranks) -> None:
        self._job, self._ranks = job, ranks
        self._examples = read_examples(job.path / TRAINED)
        self.steps = total_steps(job.latent, len(self._examples))
        self.micro_batches = micro_batches(job.latent, ranks.world)
        backbone = load_frozen(Path(job.backbone), "auto").eval().requires_grad_(False)
        tokenizer = AutoTokenizer.from_pretrained(job.backbone, trust_remote_code=False)
        self._pad = ChatFormat.from_tokenizer(tokenizer).pad_id
        voices = list(Bank.load(Path(job.memory)).voices().values())
        self._shape = connector_shape(job.latent, backbone, voices[0].memory.model)
        connector = Connector(self._shape, job.seed).to(backbone.device)
        readers = [SlotReader(voice, self._shape.memory_layers) for voice in voices]
        self.module = ConnectorRows(connector, backbone, readers, job.latent, len(tokenizer))
        self.bf16 = use_bf16(job.train.precision)
        self._before: Nats = {}

    def saved_name(self, name: str) -> str:
        """The connector's own name of a parameter."""
        return name.removeprefix("connector.")

    def position(self, step: int) -> int:
        """Examples consumed after ``step`` steps."""
        return step * self._job.latent.batch

    def consumed_rows(self, step: int) -> int:
        """Examples, too: a checkpoint may be continued with other micro-batches."""
        return self.position(step)

    def content(self, step: int) -> StepContent:
        """The same number of examples in every step."""
        epoch = self.position(step) // len(self._examples)
        return StepContent(counted=self._job.latent.batch, epoch=epoch)

    def prepare(self, engine: Engine, step: int, report: Report) -> float:
        """Measure the new connector; a launch that continues a training reads what was measured."""
        file = self._job.before
        self._before = atomic.read_json(file) if step and file.exists() else self._measure(engine)
        if self._ranks.is_first:
            atomic.write_json(file, self._before)
        return 0.0

    def rows(self, step: int) -> Iterator[_Row]:
        """This rank's micro-batches."""
        latent, ranks = self._job.latent, self._ranks
        for now in range(step, self.steps):
            chosen = step_examples(now, len(self._examples), latent, self._job.seed)
            for part in rank_batches(chosen, ranks.rank, ranks.world, latent):
                examples = [self._examples[index] for index in part]
                noises = self._noises(now, part) if latent.noise else ()
                yield _Row(examples, noises)

    def _noises(self, step: int, chosen: Sequence[int]) -> list[int]:
        """A seed for each example of a step, whichever rank has it."""
        return [int(short_hash([self._job.seed, step, i]), 16) for i in chosen]

    def loss(self, engine: Engine, row: _Row) -> torch.Tensor:
        """The sum of the examples' losses."""
        batch = ConnectorBatch.of(row.examples, self._pad, engine.device, row.noises)
        loss: torch.Tensor = engine.module(batch)
        return loss

    def write(self, engine: Engine, folder: Path) -> None:
        """The connector and its card, with held-out losses before and after."""
        after = self._measure(engine)
        weights = {
            name: value.to("cpu", torch.float32, copy=True)
            for name, value in engine.weights(trained_only=True)
        }
        if self._ranks.is_first:
            save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
            nats = {"before": self._before, "after": after}
            save_card(folder, self._job.card, self._shape, self._job.latent, nats)

    @torch.no_grad()
    def _measure(self, engine: Engine) -> Nats:
        """Held-out losses of facts and of questions from outside; collective."""
        examples = read_examples(self._job.path / HELD_OUT)
        found: dict[bool, list[torch.Tensor]] = {True: [], False: []}
        size = self._job.latent.micro_batch
        for start in range(0, len(examples), size):
            part = examples[start : start + size]
            batch = ConnectorBatch.of(part, self._pad, engine.device)
            arms = engine.module(batch, want="arms").float().cpu()
            for example, row in zip(part, arms, strict=True):
                found[example.inside].append(row)
        return {
            name: dict(zip(ARMS, torch.stack(rows).mean(dim=0).tolist(), strict=True))
            for name, rows in (("inside", found[True]), ("outside", found[False]))
            if rows
        }


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
