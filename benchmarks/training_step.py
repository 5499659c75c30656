"""CPU seconds of a training step on SmolLM2-135M, by what the loop does differently.

    python benchmarks/training_step.py EXAMPLES [--layers 15] [--out FILE]

EXAMPLES is the ``examples.safetensors`` of a run on that base. On one thread, by CPU time, so that
other work on the machine disturbs little; the best of three steps after one that warms up.

- ``plain``: a packed row through transformers' own model: dense block mask, logits at trained
  positions, AdamW tensor by tensor (foreach);
- ``loop``: attention by example, output layer and loss in one, fused AdamW;
- ``kept``: the same, starting from kept activations of the frozen layers (only with ``--layers``).
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from memo_dist.config.schema import TrainConfig
from memo_dist.io import atomic
from memo_dist.models.base import resolve_base
from memo_dist.runs import library_versions
from memo_dist.training.batch import Row, pack_row
from memo_dist.training.examples import Examples
from memo_dist.training.model import freeze_below, load_rank_model
from memo_dist.training.packing import plan_training

ROW_TOKENS, STEPS = 512, 4
Loss = Callable[[Row], torch.Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("examples", type=Path)
    parser.add_argument("--layers", type=int, default=15)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    examples = Examples.load(options.examples)
    speed = measure(examples, options.layers)
    report = {"tokens_per_cpu_second": speed, "versions": library_versions()}
    print(json.dumps(report, indent=2))
    if options.out:
        atomic.write_json(options.out, report)


def measure(examples: Examples, layers: int) -> dict[str, float]:
    base = resolve_base("smollm2-135m").path
    train = TrainConfig(trained_layers=layers, micro_batch_tokens=ROW_TOKENS, precision="fp32")
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    if layers:
        freeze_below(plain, layers)
    found = {"plain": time_steps(plain, plain_loss(plain), examples, fused=False)}
    del plain
    whole = load_rank_model(base, train).rows
    found["loop"] = time_steps(whole, loop_loss(whole), examples)
    del whole
    if layers:
        cut = load_rank_model(base, train, keep_activations=True)
        shape = (len(examples.ids), cut.config.hidden_size)
        made = np.random.default_rng(0).standard_normal(shape, np.float32)
        found["kept"] = time_steps(cut.rows, loop_loss(cut.rows), examples, made)
    return found


def plain_loss(model: Any) -> Loss:
    def loss(row: Row) -> torch.Tensor:
        out = model(
            input_ids=row.inputs, position_ids=row.position_ids, logits_to_keep=row.keep,
            use_cache=False,
        )  # fmt: skip
        return torch.nn.functional.cross_entropy(out.logits[0].float(), row.targets)

    return loss


def loop_loss(rows: torch.nn.Module) -> Loss:
    def loss(row: Row) -> torch.Tensor:
        summed = rows(row.inputs, row.position_ids, row.lengths, row.keep, row.targets)
        return summed / len(row.targets)

    return loss


def time_steps(
    model: torch.nn.Module, loss: Loss, examples: Examples, kept: Any = None, fused: bool = True
) -> float:
    """Tokens a CPU second."""
    plan = plan_training(examples.lengths, ROW_TOKENS, 1, 1, seed=1)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-5, fused=fused, foreach=not fused)
    best = 0.0
    for index in range(STEPS):
        row = pack_row(examples, plan.row(index), kept)
        started = time.process_time()
        loss(row).backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if index:
            best = max(best, sum(row.lengths) / (time.process_time() - started))
    return best


if __name__ == "__main__":
    main()
