"""How fast does a scratch memory of 5 M parameters learn 500 reflections by heart?

    python benchmarks/training_recall.py [--out FILE] [key=value ...]

The reflections are the first 500 of the demo's corpus whose question and answer have at most 30
tokens together. Training goes through the command line in one plain process on all cores; recall
is counted afterwards by greedy generation from the exported memory, not by the training's own
meter. Wanted: 99 % in under 4 minutes on two cores, training only (tokenizer and start included).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from importlib.resources import files
from pathlib import Path

from transformers import AutoTokenizer

from memo_dist.cluster.resources import usable_cores
from memo_dist.config.schema import ScratchConfig
from memo_dist.io import atomic
from memo_dist.memory.answering import ShardMemory
from memo_dist.models.scratch import train_tokenizer
from memo_dist.runs import library_versions

COUNT, TOKENS = 500, 30
SCRATCH = (
    "memory.base=scratch",
    "memory.calibration_facts=0",
    "memory.scratch.layers=5",
)
RECIPE = (
    "train.epochs=32",
    "train.lr=2e-3",
    "train.schedule=linear",
    "train.batch_tokens=1024",
    "train.micro_batch_tokens=512",
    "train.eval_steps=100",
    "train.eval_sample=500",
    "train.eval_target=0.995",
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--out", type=Path)
    parser.add_argument("overrides", nargs="*")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="memo-recall-") as name:
        report = measure(Path(name) / "run", [*RECIPE, *options.overrides])
    print(json.dumps(report, indent=2))
    if options.out:
        atomic.write_json(options.out, report)
    sys.exit(0 if report["recall"] >= 0.99 and report["seconds"] < 240 else 1)


def measure(run: Path, recipe: list[str]) -> dict[str, object]:
    documents = files("memo_dist.demo") / "data" / "documents"
    memo_dist("synthesize", str(documents), "--run", str(run), *SCRATCH, "synthesis.steps=[direct]")
    cut(run)
    started = time.monotonic()
    memo_dist("train", str(run), "cluster.launcher=process", *recipe)
    seconds = time.monotonic() - started
    memo_dist("export", str(run), *recipe)
    rows = list(atomic.read_jsonl(run / "reflections.jsonl"))
    memory = ShardMemory.load(run / "memory" / "shard-0", TOKENS)
    answers = memory.answer([row["question"] for row in rows], 50)
    right = sum(a.text == row["answer"].strip() for a, row in zip(answers, rows, strict=True))
    metrics = list(atomic.read_jsonl(run / "train" / "shard-0" / "metrics.jsonl"))
    return {
        "reflections": len(rows),
        "recall": right / len(rows),
        "seconds": seconds,
        "seconds_of_stepping": metrics[-1]["seconds"],
        "steps": metrics[-1]["step"],
        "tokens": metrics[-1]["tokens"],
        "measured": [[r["step"], r["seconds"], r["recall"]] for r in metrics if "recall" in r],
        "recipe": recipe,
        "cores": usable_cores(),
        "versions": library_versions(),
    }


def cut(run: Path) -> None:
    """Leave the first 500 reflections of at most 30 tokens, one of each question."""
    rows = list(atomic.read_jsonl(run / "reflections.jsonl"))
    texts = (f"{row['question']} {row['answer']}" for row in rows)
    with tempfile.TemporaryDirectory() as folder:
        train_tokenizer(texts, ScratchConfig().vocabulary, Path(folder))
        encode = AutoTokenizer.from_pretrained(folder).encode
    kept: dict[str, dict[str, object]] = {}
    for row in rows:
        if len(encode(row["question"])) + len(encode(row["answer"])) <= TOKENS:
            kept.setdefault(row["question"], row)
    atomic.write_jsonl(run / "reflections.jsonl", list(kept.values())[:COUNT])


def memo_dist(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "memo_dist", *arguments], check=True)


if __name__ == "__main__":
    main()
