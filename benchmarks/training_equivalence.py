"""Trainings that must be equal, through the real command line, on CPU in fp32.

    python benchmarks/training_equivalence.py [--steps 50] [--ranks 4] [--precision fp32]
        [--limit 1e-3] [--out benchmarks/results/training_equivalence.json]

One scratch model on the demo's first documents, ``--steps`` optimizer steps, started with
torchrun; loss and gradient norm of every step are compared with one rank's. Reported is the
largest relative difference of each, over the whole run and over its last quarter (a drift would
grow). Wanted: at most 1e-3 everywhere; resumed = unbroken to the bit; folded = attached adapters
within 1e-4. Cases with more than ``--ranks`` ranks are left out.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from cli import TINY, environment, memo_dist, tiny_corpus

from memo_dist.io import atomic
from memo_dist.io.hashing import hash_file
from memo_dist.runs import library_versions
from memo_dist.training.job import STOP_REQUEST
from memo_dist.training.lora import folded_weights

FOLD_LIMIT = 1e-4
BASE = (
    "train.epochs=100",
    "train.batch_tokens=512",
    "train.micro_batch_tokens=128",
    "train.lr=1e-3",
    "train.checkpoint_steps=0",
    "train.checkpoint_minutes=0",
    "cluster.threads=1",
)
CASES: dict[str, tuple[int, tuple[str, ...]]] = {
    "2 ranks, ZeRO 0": (2, ()),
    "2 ranks, ZeRO 1": (2, ("train.zero_stage=1",)),
    "2 ranks, ZeRO 2": (2, ("train.zero_stage=2",)),
    "2 ranks, ZeRO 3": (2, ("train.zero_stage=3",)),
    "4 ranks": (4, ()),
    "gradient checkpointing": (1, ("train.gradient_checkpointing=true",)),
}
CHANGES: dict[str, tuple[int, int, int, int]] = {
    "2 ranks -> 1": (2, 0, 1, 0),
    "2 ranks -> 4": (2, 0, 4, 0),
    "ZeRO 3 on 2 ranks -> ZeRO 0 on 1": (2, 3, 1, 0),
    "ZeRO 1 on 1 rank -> ZeRO 3 on 2": (1, 1, 2, 3),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--ranks", type=int, default=4)
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--limit", type=float, default=1e-3)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    keys = (*BASE, f"train.max_steps={options.steps}", f"train.precision={options.precision}")
    with tempfile.TemporaryDirectory(prefix="memo-equal-") as name:
        report = Study(Path(name), options.steps, keys).all(options.ranks, options.limit)
    report["versions"] = library_versions()
    print(json.dumps(report, indent=2))
    if options.out:
        atomic.write_json(options.out, report)
    sys.exit(0 if report["equal"] else 1)


class Study:
    """All comparisons, on copies of one run folder with its reflections."""

    def __init__(self, folder: Path, steps: int, keys: tuple[str, ...]) -> None:
        self._folder, self._steps, self._keys = folder, steps, keys
        self._seed = folder / "seed"
        corpus = tiny_corpus(folder / "corpus")
        done = memo_dist("synthesize", corpus, "--run", self._seed, *TINY, *keys)
        assert done.returncode == 0, done.stderr

    def all(self, ranks: int, limit: float) -> dict[str, Any]:
        one = self.train("one", 1)
        wanted = self.series(one)
        found = {c: self.compare(c, *case, wanted) for c, case in CASES.items() if case[0] <= ranks}
        found |= {
            name: self.change(name, *shape, wanted)
            for name, shape in CHANGES.items()
            if max(shape[0], shape[2]) <= ranks
        }
        found["packed = one example a row"] = self.unpacked()
        resumed = self.change("resumed", 1, 0, 1, 0, wanted)
        weights = "train/shard-0/final/model.safetensors"
        same = hash_file(one / weights) == hash_file(self._folder / "resumed" / weights)
        fold = self.fold(min(2, ranks))
        worst = max(max(v["loss"], v["grad_norm"]) for v in [*found.values(), resumed])
        return {
            "steps": len(wanted["loss"]),
            "relative_differences": found,
            "resumed_equals_unbroken_bitwise": same,
            "folded_against_attached": fold,
            "equal": worst <= limit and same and fold <= FOLD_LIMIT,
        }

    def train(self, name: str, ranks: int, *keys: str, stop: bool = False) -> Path:
        run = self._folder / name
        if not run.exists():
            shutil.copytree(self._seed, run)
        command = ["train", str(run), *self._keys, *keys]
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
        process = subprocess.Popen(
            [sys.executable, *launcher, "-m", "memo_dist", *command],
            env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        if stop:
            self.request_stop(run, process)
        output, _ = process.communicate(timeout=900)
        finished = (run / "train/shard-0/final/COMPLETE").exists()
        assert finished != stop, output[-3000:]
        return run

    def request_stop(self, run: Path, process: subprocess.Popen[str]) -> None:
        """Ask for a stop once a third of the steps is done."""
        metrics = run / "train/shard-0/metrics.jsonl"
        while process.poll() is None:
            if metrics.exists() and metrics.read_text().count("\n") >= self._steps // 3:
                (metrics.parent / STOP_REQUEST).touch()
                break
            time.sleep(0.02)
        process.wait(300)
        (metrics.parent / STOP_REQUEST).unlink(missing_ok=True)

    def series(self, run: Path) -> dict[str, list[float]]:
        rows = list(atomic.read_jsonl(run / "train/shard-0/metrics.jsonl"))
        return {key: [row[key] for row in rows] for key in ("loss", "grad_norm")}

    def compare(
        self, case: str, ranks: int, keys: tuple[str, ...], wanted: dict[str, list[float]]
    ) -> dict[str, float]:
        return difference(self.series(self.train(case, ranks, *keys)), wanted)

    def change(  # noqa: PLR0913
        self, case: str, ranks: int, stage: int, then: int, then_stage: int,
        wanted: dict[str, list[float]],
    ) -> dict[str, float]:  # fmt: skip
        """Stop after a third, go on with other ranks and another ZeRO stage."""
        self.train(case, ranks, f"train.zero_stage={stage}", stop=True)
        run = self.train(case, then, f"train.zero_stage={then_stage}")
        return difference(self.series(run), wanted)

    def unpacked(self) -> dict[str, float]:
        """The loss of packed rows against the same examples in rows of their own."""
        from memo_dist.config.schema import TrainConfig
        from memo_dist.training.batch import pack_row
        from memo_dist.training.examples import Examples
        from memo_dist.training.model import load_rank_model

        shard = self._folder / "one/train/shard-0"
        examples = Examples.load(shard / "examples.safetensors")
        trained = load_rank_model(shard / "final", TrainConfig(micro_batch_tokens=128)).rows
        losses, norms = [], []
        for rows in ([[i] for i in range(12)], [list(range(12))]):
            trained.zero_grad()
            total = torch.zeros(())
            for indices in rows:
                row = pack_row(examples, indices)
                total = total + trained(
                    row.inputs, row.position_ids, row.lengths, row.keep, row.targets
                )
            total.backward()
            losses.append(float(total.detach()))
            norms.append(
                float(torch.nn.utils.get_total_norm([p.grad for p in trained.parameters()]))
            )
        return difference(
            {"loss": losses[:1], "grad_norm": norms[:1]},
            {"loss": losses[1:], "grad_norm": norms[1:]},
        )

    def fold(self, ranks: int) -> float:
        """Largest difference of logits, adapters folded against attached."""
        run = self.train("lora", ranks, "train.method=lora", "train.lr=1e-2", "train.zero_stage=3")
        final, base = run / "train/shard-0/final", run / "train/base"
        attached = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), final)
        folded = AutoModelForCausalLM.from_pretrained(base)
        folded.load_state_dict(dict(folded_weights(base, final)), strict=False)
        ids = load_file(final / "probe.safetensors")["ids.0"][None]
        with torch.no_grad():
            both = [model.eval()(ids).logits for model in (attached, folded)]
        return float((both[0] - both[1]).abs().max())


def difference(found: dict[str, list[float]], wanted: dict[str, list[float]]) -> dict[str, float]:
    report = {}
    for key in ("loss", "grad_norm"):
        pairs = list(zip(found[key], wanted[key], strict=True))
        relative = [abs(a - b) / abs(b) for a, b in pairs]
        report[key] = max(relative)
        report[f"{key}_last_quarter"] = max(relative[-max(1, len(relative) // 4) :])
    return report


if __name__ == "__main__":
    main()
