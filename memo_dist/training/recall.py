"""Exact recall measured while training: would a greedy answer be the trained one, token by token?

No text is generated: a greedy answer equals the gold one exactly if, fed the gold answer, the
model ranks each of its tokens first, so one forward pass over packed examples tells.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import AutoTokenizer

from memo_dist.cluster.ranks import Ranks
from memo_dist.config.schema import TrainConfig
from memo_dist.io import atomic
from memo_dist.models.chat_format import ChatFormat
from memo_dist.synthesis.types import Reflection
from memo_dist.training.batch import pack_row
from memo_dist.training.examples import Examples, tokenize
from memo_dist.training.frozen import FrozenLayers
from memo_dist.training.packing import rows_in_order

HELD_OUT = "held-out.jsonl"
PEOPLES = "held-out-questions.jsonl"
"""People's questions that take the place of held-out wordings (``train.held_out_questions``)."""


@dataclass(frozen=True)
class Measured:
    """Fractions recalled exactly; held_out is None where no wording is held out."""

    trained: float
    held_out: float | None

    @property
    def score(self) -> float:
        """What weights are chosen by: recall of held-out wordings, else of trained ones."""
        return self.trained if self.held_out is None else self.held_out


@dataclass(frozen=True)
class Sample:
    """Examples of one kind, and their activations where frozen layers are cut off."""

    examples: Examples
    activations: np.ndarray | None


def wanted(train: TrainConfig) -> bool:
    """Whether anything asks for recall during training."""
    return bool(train.eval_steps or train.eval_minutes)


class RecallMeter:
    """Measures recall on a fixed sample of trained examples and of held-out wordings."""

    def __init__(
        self, trained: Examples, held_out: Examples | None, row_tokens: int, ranks: Ranks
    ) -> None:
        self._examples = {"trained": trained, "held_out": held_out}
        self._row_tokens, self._ranks = row_tokens, ranks
        self._samples: dict[str, Sample] = {}

    def prepare(self, frozen: FrozenLayers | None, device: torch.device) -> None:
        """Run the frozen layers over the samples, once."""
        for name, examples in self._examples.items():
            if examples is not None:
                made = frozen.of(examples, self._row_tokens, device) if frozen else None
                self._samples[name] = Sample(examples, made)

    def measure(self, module: torch.nn.Module, device: torch.device) -> Measured:
        """Collective: every rank takes its share of the rows."""
        module.eval()
        found = {n: self._recall(s, module, device) for n, s in self._samples.items()}
        module.train()
        return Measured(found["trained"], found.get("held_out"))

    @torch.no_grad()
    def _recall(self, sample: Sample, module: torch.nn.Module, device: torch.device) -> float:
        rows = rows_in_order(sample.examples.lengths, self._row_tokens)
        world, right = self._ranks.world, 0.0
        for first in range(0, len(rows), world):
            index = first + self._ranks.rank
            indices = rows[index] if index < len(rows) else range(0)
            row = pack_row(sample.examples, indices, sample.activations).to(device)
            hits = module(*row.loss_inputs, want="hits").cpu()
            trained = sample.examples.trained[list(indices)].tolist()
            right += sum(bool(part.all()) for part in hits.split(trained)) if trained else 0
        return self._ranks.sum(right, device) / len(sample.examples)


def load_meter(  # noqa: PLR0913
    folder: Path, base: Path, examples: Examples, train: TrainConfig, seed: int, ranks: Ranks
) -> RecallMeter | None:  # fmt: skip
    """The meter of a shard: a seeded sample of its examples, and its held-out wordings.

    Args:
        folder: of the shard, with ``held-out.jsonl`` or people's questions.
        base: of the base model, for its tokenizer.
        examples: the trained ones.
        train: what and how often to measure.
        seed: of the sample.
        ranks: this rank's place.

    Returns:
        None where nothing asks for recall.
    """
    if not wanted(train):
        return None
    chance = np.random.default_rng([seed, len(examples)])
    count = min(train.eval_sample, len(examples))
    chosen = np.sort(chance.choice(len(examples), count, replace=False))
    held = folder / (PEOPLES if train.held_out_questions else HELD_OUT)
    rows = [Reflection.from_json(row) for row in atomic.read_jsonl(held)] if held.exists() else []
    rows = [row for row in rows if row.kind != "abstain"][: train.eval_sample]
    held_out = None
    if rows:
        chat = ChatFormat.from_tokenizer(AutoTokenizer.from_pretrained(base))
        held_out, _ = tokenize(rows, chat, train.micro_batch_tokens)
    sample = examples.subset(chosen).answers_only()
    return RecallMeter(sample, held_out, train.micro_batch_tokens, ranks)
