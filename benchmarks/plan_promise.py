"""Does a memory that `plan` proposes reach the recall that it promises, and a smaller one not?

    python benchmarks/plan_promise.py CORPUS --work FOLDER [--out FILE]

Reflections of the corpus, a recall law of ten of its documents, a plan by the law; then the memory
that the plan proposes is trained with the overrides that it prints, and one of a quarter of its
parameters the same way. All goes through the command line; the same command goes on where it was
stopped. Recall is of wordings that were held out of training, 256 of them. Wanted: the proposed
memory within the promised interval, the small one below it.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from machine import machine
from safetensors import safe_open

from memo_dist.io import atomic
from memo_dist.scaling.ladder import Shape, choose_shape
from memo_dist.scaling.recipe import rule_rate

STUDY = Path(__file__).parent.parent / "configs" / "scale" / "reflections.yaml"
SCRATCH = "memory.base=scratch"
MEASURED = ("memory.calibration_facts=256", "train.eval_sample=256", "train.eval_minutes=4")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--work", type=Path, required=True, help="folder of all runs")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    report = measure(options.corpus, options.work)
    print(json.dumps(report, indent=2))
    if options.out:
        atomic.write_json(options.out, report)
    low, _, high = report["promised"]
    proposed, quarter = (report[name]["recall_held_out"] for name in ("proposed", "quarter"))
    sys.exit(0 if low <= proposed <= high and quarter < low else 1)


def measure(corpus: Path, work: Path) -> dict[str, Any]:
    run, law = work / "run", work / "law"
    memo_dist("synthesize", str(corpus), "--run", str(run), SCRATCH)
    memo_dist("scale", "run", str(STUDY), f"scale.reflections.run={run}", "--run", str(law))
    lawful = f"plan.law={law / 'recall-law.json'}"
    plan = json.loads(memo_dist("plan", str(corpus), SCRATCH, lawful, "--json"))
    promised = plan["quantities"]["recall"]
    proposed = dict(text.split("=", 1) for text in plan["overrides"])
    return {
        **machine(),
        "corpus": corpus.parent.parent.name,
        "facts": plan["quantities"]["facts"]["value"],
        "promised": [promised[key] for key in ("low", "value", "high")],
        "proposed": trained(run, work / "proposed", proposed),
        "quarter": trained(run, work / "quarter", quarter_of(proposed, plan)),
    }


def quarter_of(proposed: dict[str, str], plan: dict[str, Any]) -> dict[str, str]:
    """The overrides of the ladder's memory of a quarter of the parameters, and its rate."""
    recipe = plan["law"]["recipe"]
    size = round(plan["quantities"]["shard_parameters"]["value"] / 4)
    shape: Shape = choose_shape(size, recipe["vocabulary"], recipe["least_layers"])
    rate = rule_rate(recipe["lr"], recipe["lr_exponent"], shape.parameters)
    return proposed | {
        "memory.scratch.hidden_size": str(shape.hidden),
        "memory.scratch.layers": str(shape.layers),
        "memory.scratch.heads": str(shape.heads),
        "memory.scratch.intermediate_size": str(shape.intermediate),
        "train.lr": f"{rate:.3g}",
    }


def trained(source: Path, run: Path, overrides: dict[str, str]) -> dict[str, Any]:
    """Train in a copy of a run; its recalls, parameters and minutes."""
    if not run.exists():
        copy = run.with_name(f"{run.name}.part")
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(source, copy)
        copy.rename(run)
    keys = [f"{key}={value}" for key, value in overrides.items()]
    memo_dist("train", str(run), *keys, *MEASURED)
    shard = run / "train" / "shard-0"
    rows = list(atomic.read_jsonl(shard / "metrics.jsonl"))
    last = [row for row in rows if "recall" in row][-1]
    return {
        "parameters": parameters(shard / "final" / "model.safetensors"),
        "recall": last["recall"],
        "recall_held_out": last["recall_held_out"],
        "epochs": last["epoch"],
        "minutes": rows[-1]["seconds"] / 60,
        "overrides": keys,
    }


def parameters(weights: Path) -> int:
    with safe_open(weights, "pt") as file:
        return sum(file.get_tensor(name).numel() for name in file.keys())  # noqa: SIM118


def memo_dist(*arguments: str) -> str:
    return subprocess.run(
        [sys.executable, "-m", "memo_dist", *arguments],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout


if __name__ == "__main__":
    main()
