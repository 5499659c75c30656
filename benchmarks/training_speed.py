"""Examples a second against TRL's SFTTrainer, on the same token ids and in the same precision.

    python benchmarks/training_speed.py --model smollm2-135m|scratch|qwen2.5-1.5b [--rounds 3]
        [--out benchmarks/results/training_speed-MODEL.json]

Arms, each a process of its own, interleaved round by round:

- ``trl_published``: the published MeMo recipe: no packing, padded batches, gradient checkpointing;
- ``trl_packed``: TRL's own packing (bfd), no gradient checkpointing;
- ``ours``: this project's loop (one rank, no Ray), packed rows.

All train fully, in fp32 on CPUs and bf16 on GPUs (precision and checkpointing are set explicitly
on both sides), with AdamW at lr 2e-5 on the demo's reflections, about as many examples a step and
as many steps, on all cores. The first two steps (warm-up) are left out. ``loss`` is the mean loss
a trained token over all examples after the run, computed the same way for every arm.
``qwen2.5-1.5b`` has that model's shape with random weights and is meant for a GPU; there the
published arm also offloads its optimizer (DeepSpeed ZeRO 2). Needs the extra ``benchmark``.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from memo_dist.cluster.rendezvous import adopt_ranks
from memo_dist.cluster.resources import usable_cores
from memo_dist.config.schema import ScratchConfig, TrainConfig
from memo_dist.io import atomic
from memo_dist.models.base import resolve_base
from memo_dist.models.chat_format import ChatFormat
from memo_dist.models.scratch import new_scratch_model, scratch_model_config, train_tokenizer
from memo_dist.runs import library_versions
from memo_dist.synthesis.types import Reflection
from memo_dist.training.examples import Examples, tokenize
from memo_dist.training.job import TrainJob
from memo_dist.training.packing import rows_in_order

ARMS = ("trl_published", "trl_packed", "ours")
WARM_UP = 2
LR = 2e-5
GPU = torch.cuda.is_available()
DTYPE = torch.bfloat16 if GPU else torch.float32
OFFLOAD = {
    "zero_optimization": {"stage": 2, "offload_optimizer": {"device": "cpu"}},
    "bf16": {"enabled": True},
    "train_micro_batch_size_per_gpu": "auto",
    "gradient_accumulation_steps": "auto",
    "gradient_clipping": "auto",
}
"""The published configuration's DeepSpeed settings."""


@dataclass(frozen=True)
class Setting:
    """Sizes of one model's comparison: tokens of a packed row, rows and examples a step."""

    row_tokens: int
    rows: int
    batch: int
    examples: int


SETTINGS = {
    "smollm2-135m": Setting(row_tokens=512, rows=1, batch=14, examples=105),
    "qwen2.5-1.5b": Setting(row_tokens=8192, rows=4, batch=950, examples=950 * 8),
    "scratch": Setting(row_tokens=1024, rows=2, batch=59, examples=59 * 14),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model", choices=SETTINGS, required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--arm", choices=ARMS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.arm:
        print(json.dumps(run_arm(options.arm, options.folder, SETTINGS[options.model])))
        return
    with tempfile.TemporaryDirectory(prefix="memo-speed-") as name:
        report = compare(options.model, options.rounds, Path(name))
    print(json.dumps(report, indent=2))
    if options.out:
        atomic.write_json(options.out, report)


def compare(model: str, rounds: int, folder: Path) -> dict[str, Any]:
    prepare(model, folder, SETTINGS[model].examples)
    found: dict[str, list[dict[str, float]]] = {arm: [] for arm in ARMS}
    for index in range(rounds):
        for arm in ARMS:
            command = [sys.executable, __file__, "--model", model, "--arm", arm]
            done = subprocess.run(
                [*command, "--folder", str(folder)], check=True, capture_output=True, text=True
            )
            found[arm].append(json.loads(done.stdout.splitlines()[-1]))
            print(f"round {index} {arm}: {found[arm][-1]}", file=sys.stderr, flush=True)
    speed = {a: [r["examples_per_second"] for r in rows] for a, rows in found.items()}
    ratios = {
        a: statistics.median(o / t for o, t in zip(speed["ours"], speed[a], strict=True))
        for a in ARMS[:2]
    }
    return {
        "model": model,
        "setting": vars(SETTINGS[model]),
        "examples_per_second": {a: statistics.median(values) for a, values in speed.items()},
        "ours_over": ratios,
        "loss": {a: rows[0]["loss"] for a, rows in found.items()},
        "rounds": found,
        "cores": usable_cores(),
        "versions": library_versions(),
    }


def prepare(model: str, folder: Path, count: int) -> None:
    """The base, and the first examples of the demo's reflections as token ids."""
    documents = str(files("memo_dist.demo") / "data" / "documents")
    run = folder / "run"
    command = [sys.executable, "-m", "memo_dist", "synthesize", documents, "--run", str(run)]
    subprocess.run([*command, "synthesis.steps=[direct]"], check=True, capture_output=True)
    rows = [Reflection.from_json(r) for r in atomic.read_jsonl(run / "reflections.jsonl")]
    base = folder / "base"
    if model == "qwen2.5-1.5b":
        train_tokenizer((f"{row.question} {row.answer}" for row in rows), 4096, base)
        qwen_shape().save_pretrained(base)
        rows = rows * -(-count // len(rows))
    elif model == "scratch":
        texts = (f"{row.question} {row.answer}" for row in rows)
        scratch = ScratchConfig(layers=5)
        size = train_tokenizer(texts, scratch.vocabulary, base)
        new_scratch_model(scratch_model_config(scratch, size), 1).save_pretrained(base)
    else:
        base.symlink_to(resolve_base(model).path)
    chat = ChatFormat.from_tokenizer(AutoTokenizer.from_pretrained(base))
    tokenize(rows[:count], chat, 512)[0].save(folder / "examples.safetensors")


def qwen_shape() -> Any:
    """Qwen2.5-1.5B's shape with random weights, in bf16."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    shape = Qwen2Config(
        vocab_size=151_936, hidden_size=1536, intermediate_size=8960, num_hidden_layers=28,
        num_attention_heads=12, num_key_value_heads=2, max_position_embeddings=32_768,
        tie_word_embeddings=True,
    )  # fmt: skip
    torch.manual_seed(1)
    return Qwen2ForCausalLM(shape).to(torch.bfloat16)


def run_arm(arm: str, folder: Path, setting: Setting) -> dict[str, float]:
    torch.set_num_threads(usable_cores())
    examples = Examples.load(folder / "examples.safetensors")
    with tempfile.TemporaryDirectory() as name:
        arguments = (folder, Path(name), setting, examples)
        seconds, done, trained, steps = (
            ours(*arguments) if arm == "ours" else trl(*arguments, packed=arm == "trl_packed")
        )
        return {
            "examples_per_second": done / seconds,
            "seconds": seconds,
            "steps": steps,
            "loss": mean_loss(trained, examples, setting.row_tokens),
        }


def ours(
    folder: Path, out: Path, setting: Setting, examples: Examples
) -> tuple[float, float, torch.nn.Module, int]:
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    adopt_ranks(out, 60)
    from memo_dist.training.worker import train_rank

    train = TrainConfig(
        epochs=1, lr=LR, warmup_fraction=0.0, micro_batch_tokens=setting.row_tokens,
        batch_tokens=setting.row_tokens * setting.rows, precision="auto", checkpoint_minutes=0,
    )  # fmt: skip
    job = TrainJob(
        str(out), str(folder / "base"), str(folder / "examples.safetensors"), (), train, 1, "x",
        usable_cores(),
    )  # fmt: skip
    train_rank(job.to_json())
    rows = list(atomic.read_jsonl(out / "metrics.jsonl"))
    seconds = rows[-1]["seconds"] - rows[WARM_UP - 1]["seconds"]
    tokens = rows[-1]["tokens"] - rows[WARM_UP - 1]["tokens"]
    model = AutoModelForCausalLM.from_pretrained(job.final, dtype=DTYPE)
    mfu = [row["mfu"] for row in rows[WARM_UP:] if row["mfu"] is not None]
    if mfu:
        print(f"MFU {statistics.median(mfu):.3f}", file=sys.stderr)
    return seconds, tokens / float(examples.lengths.mean()), model, len(rows)


def trl(
    folder: Path, out: Path, setting: Setting, examples: Examples, packed: bool
) -> tuple[float, float, torch.nn.Module, int]:
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import SFTConfig, SFTTrainer

    times: list[float] = []
    tokens: list[int] = []

    class Clock(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            times.append(time.perf_counter())

    class Counted(SFTTrainer):
        def training_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            mask = inputs.get("attention_mask")
            tokens.append(int(mask.sum()) if mask is not None else inputs["input_ids"].numel())
            return super().training_step(model, inputs, *args, **kwargs)

    data = Dataset.from_dict(
        {
            "input_ids": [examples.tokens(i).tolist() for i in range(len(examples))],
            "completion_mask": [
                [0] * int(p) + [1] * int(n)
                for p, n in zip(examples.prompts, examples.trained, strict=True)
            ],
        }
    )
    config = SFTConfig(
        output_dir=str(out), num_train_epochs=1, learning_rate=LR, lr_scheduler_type="constant",
        weight_decay=0.01, adam_beta2=0.95, max_grad_norm=1.0, bf16=GPU, fp16=False,
        use_cpu=not GPU, deepspeed=OFFLOAD if GPU and not packed else None,
        gradient_checkpointing=not packed, packing=packed, packing_strategy="bfd",
        max_length=setting.row_tokens, completion_only_loss=True, report_to=[], save_strategy="no",
        per_device_train_batch_size=setting.rows if packed else setting.batch, logging_steps=1000,
        disable_tqdm=True, seed=1, dataloader_num_workers=0,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_pretrained(folder / "base", dtype=DTYPE)
    tokenizer = AutoTokenizer.from_pretrained(folder / "base")
    trainer = Counted(
        model=model, args=config, train_dataset=data, processing_class=tokenizer,
        callbacks=[Clock()],
    )  # fmt: skip
    trainer.train()
    done = sum(tokens[WARM_UP:]) / float(examples.lengths.mean())
    return times[-1] - times[WARM_UP - 1], done, trainer.model, len(times)


@torch.no_grad()
def mean_loss(model: Any, examples: Examples, row_tokens: int) -> float:
    """Nats a trained token over all examples, example by example, by the model's own forward."""
    model.eval()
    device = next(model.parameters()).device
    total = 0.0
    for rows in rows_in_order(examples.lengths, row_tokens):
        for index in rows:
            ids = torch.from_numpy(examples.tokens(index).astype(np.int64)).to(device)
            prompt = int(examples.prompts[index])
            logits = model(input_ids=ids[None], use_cache=False).logits[0, prompt - 1 : -1]
            total += float(
                torch.nn.functional.cross_entropy(logits.float(), ids[prompt:], reduction="sum")
            )
    return total / int(examples.trained.sum())


if __name__ == "__main__":
    main()
