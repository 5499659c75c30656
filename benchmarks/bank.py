"""A bank of K shards against one memory: the same corpus, the same tokens for each reflection.

    python benchmarks/bank.py [--shards 4] [--documents 8] [--epochs 10]
        [--abstain 1.0] [--question-loss auto] [--question-weight W] [--out FILE]

Encodes documents of the demo's corpus twice through the command line, as K = 1 and as K shards,
with memories from scratch, and asks both their trained questions, wordings of trained facts that
training did not see, and questions that are to be refused. `own` is what the shard that was
trained on a question answers, so bank - own is what composition loses or gains. About five
minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from cli import memo_dist
from recall import abstentions, facts, load, recall, refused, sample, split

from memo_dist.io import atomic
from memo_dist.io.runfolder import RunFolder
from memo_dist.memory.bank import Bank
from memo_dist.runs import library_versions

HELD_OUT = 192
SAMPLE = 400
STEP_TOKENS = 1024
LIMIT = 3600


def main() -> None:
    """Run both arms and print how far they are apart."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--shards", type=int, default=4)
    parser.add_argument("--documents", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument(
        "--abstain", type=float, default=1.0, help="synthesis.abstain_fraction of both arms"
    )
    parser.add_argument(
        "--question-loss", default="auto", help="train.question_loss of both arms: auto, yes, no"
    )
    parser.add_argument(
        "--question-weight", type=float, default=0.1, help="train.question_weight of both arms"
    )
    parser.add_argument("--seed", type=int, default=17)
    parser.add_argument("--folder", type=Path, help="keep the runs here")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="memo-bank-") as name:
        folder = options.folder or Path(name)
        arms = {
            f"K={shards}": _arm(folder / f"k{shards}", shards, options)
            for shards in (1, options.shards)
        }
    one, many = arms["K=1"], arms[f"K={options.shards}"]
    points = {
        key: round(100 * (many[key]["bank"] - one[key]["bank"]), 1)
        for key in ("trained", "unseen wordings")
    }
    report = {
        "arms": arms,
        "points": points,
        "machine": platform.machine(),
        "versions": library_versions(),
    }
    print(json.dumps(report, indent=2))
    if options.out:
        atomic.write_json(options.out, report)


def _arm(folder: Path, shards: int, options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Encode with K shards and ask."""
    documents = Path(str(files("memo_dist.demo") / "data" / "documents"))
    started = time.monotonic()
    done = memo_dist(
        "encode", documents, "--run", folder, *_settings(shards, options), seconds=LIMIT
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    minutes = (time.monotonic() - started) / 60
    trained, held = split(RunFolder(folder), shards)
    bank = load(folder)
    asked = sample(facts(trained), SAMPLE, options.seed)
    states = [
        atomic.read_json(folder / "train" / f"shard-{k}" / "final" / "state.json")
        for k in range(shards)
    ]
    return {
        "trained": asdict(recall(bank, asked)),
        "unseen wordings": asdict(recall(bank, facts(held))),
        "refused": {
            "trained": refused(bank, abstentions(trained)),
            "held out": refused(bank, abstentions(held)),
        },
        "a question": _cost(bank, [row.question for row in asked]),
        "training": {
            "reflections": len(trained),
            "tokens": sum(state["consumed_tokens"] for state in states),
            "minutes of the encode": round(minutes, 1),
        },
    }


def _cost(bank: Bank, questions: Sequence[str]) -> dict[str, float]:
    """What an answer costs, all shards together."""
    answers = bank.answer(questions, 64)
    return {
        "milliseconds": round(1000 * statistics.mean(answer.seconds for answer in answers), 2),
        "tokens": round(statistics.mean(answer.tokens for answer in answers), 1),
    }


def _settings(shards: int, options: argparse.Namespace) -> list[str]:
    return [
        f"run.seed={options.seed}",
        f"corpus.shards={shards}",
        f"corpus.max_documents={options.documents}",
        f"synthesis.abstain_fraction={options.abstain}",
        f"train.question_loss={options.question_loss}",
        f"train.question_weight={options.question_weight}",
        "memory.base=scratch",
        "memory.scratch.vocabulary=1024",
        "memory.scratch.hidden_size=128",
        "memory.scratch.layers=2",
        "memory.scratch.heads=4",
        "memory.scratch.intermediate_size=352",
        "memory.max_answer_tokens=32",
        f"memory.calibration_facts={HELD_OUT // shards}",
        f"train.epochs={options.epochs}",
        "train.lr=3e-3",
        "train.schedule=cosine",
        # A shard has 1/K of the tokens: steps of 1/K of the size leave it as many as K = 1 makes.
        f"train.batch_tokens={STEP_TOKENS // shards}",
        f"train.micro_batch_tokens={min(512, STEP_TOKENS // shards)}",
        "train.checkpoint_minutes=0",
    ]


if __name__ == "__main__":
    main()
