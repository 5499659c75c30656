"""Why reflections: the same base trained on reflections and on the documents' raw text.

    python benchmarks/source_comparison.py [--base smollm2-135m|scratch] [--steps 40] [--out FILE]

Three documents of the demo through the command line, once as ``train.source=reflections`` and once
as ``train.source=documents``, with the same number of tokens read (optimizer steps of equal size).
Both answer questions that training on reflections saw, wordings that it did not see, and the demo's
questions that people wrote about these documents. Greedy answers; abstention is left out, so that
only what the memory knows counts. About eight minutes on two cores with the default base.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from cli import memo_dist, tiny_corpus, tiny_questions
from recall import facts, recall, sample, split

from memo_dist.answers.text import contains
from memo_dist.io import atomic
from memo_dist.io.runfolder import RunFolder
from memo_dist.memory.bank import Bank
from memo_dist.runs import library_versions

SOURCES = ("reflections", "documents")
LIMIT = 3600


def main() -> None:
    """Train both and print what each knows."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--base", default="smollm2-135m")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--lr", type=float, default=5e-4)
    parser.add_argument("--seed", type=int, default=17)
    parser.add_argument("--folder", type=Path, help="keep the runs here")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="memo-source-") as name:
        folder = options.folder or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "documents").exists():
            tiny_corpus(folder / "documents")
        questions = tiny_questions(folder / "questions.jsonl")
        arms = {source: _arm(folder, source, questions, options) for source in SOURCES}
    report = {
        "base": options.base,
        "arms": arms,
        "machine": platform.machine(),
        "versions": library_versions(),
    }
    print(json.dumps(report, indent=2))
    if options.out:
        atomic.write_json(options.out, report)


def _arm(folder: Path, source: str, questions: Path, options: argparse.Namespace) -> dict[str, Any]:
    run = folder / f"run-{source}"
    done = memo_dist(
        "encode", folder / "documents", "--run", run, *_settings(source, options), seconds=LIMIT
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    trained, held = split(RunFolder(run), 1)
    bank = Bank.load(RunFolder(run).memory)
    people = [row for row in atomic.read_jsonl(questions) if row["answerable"]]
    votes = bank.votes([row["question"] for row in people])
    right = [
        contains(vote[0].raw.text, [row["answer"], *row["aliases"]])
        for row, vote in zip(people, votes, strict=True)
    ]
    state = atomic.read_json(run / "train" / "shard-0" / "final" / "state.json")
    seen = recall(bank, sample(facts(trained), 100, options.seed))
    unseen = recall(bank, facts(held))
    return {
        "reflections": {"recall": round(seen.spoken, 3), "n": seen.n},
        "unseen wordings": {"recall": round(unseen.spoken, 3), "n": unseen.n},
        "people's questions": {"contains": round(sum(right) / len(people), 3), "n": len(people)},
        "tokens read": state["consumed_tokens"],
        "tokens trained": state["trained_tokens"],
        "minutes of stepping": round(state["seconds"] / 60, 2),
    }


def _settings(source: str, options: argparse.Namespace) -> list[str]:
    return [
        f"run.seed={options.seed}",
        f"memory.base={options.base}",
        "memory.max_answer_tokens=32",
        f"train.source={source}",
        "train.epochs=200",
        f"train.max_steps={options.steps}",
        f"train.lr={options.lr}",
        "train.schedule=linear",
        "train.batch_tokens=512",
        "train.micro_batch_tokens=512",
        "train.checkpoint_minutes=0",
    ]


if __name__ == "__main__":
    main()
