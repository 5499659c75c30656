"""Recall after each method of merging, beside the bank of shards and one joint training.

    python benchmarks/merge_methods.py [--shards 2 4 8] [--documents 32] [--epochs 20] [--out FILE]

Scratch memories over generated documents about people. Recall: taught questions, 4 a document,
answered with the taught answer, abstentions by what the memory wrote. What FILE holds already is
not measured again, so that the table can be made in parts.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from changing_corpus import SETTINGS
from here import encode, succeed
from machine import machine
from revisions import people

from memo_dist.change.merge_recall import document_recall, taught_questions
from memo_dist.change.merged import Recall
from memo_dist.io import atomic
from memo_dist.memory.bank import Bank
from memo_dist.models.merging import METHODS
from memo_dist.synthesis.types import Reflection


def main() -> None:
    """Print the table; always exit 0: it is a measurement."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--shards", type=int, nargs="+", default=[2, 4, 8])
    parser.add_argument("--documents", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    asked = {"documents": options.documents, "epochs": options.epochs}
    report: dict[str, Any] = {"recall": {}, "options": asked, **machine()}
    if options.out and options.out.exists():
        report = atomic.read_json(options.out)
        if report["options"] != asked:
            parser.error(f"{options.out} was measured with {report['options']}")
    with tempfile.TemporaryDirectory(prefix="memo-merge-") as name:
        folder = Path(name)
        corpus = folder / "people.jsonl"
        atomic.write_jsonl(corpus, people(options.documents))
        for shards in options.shards:
            if str(shards) not in report["recall"]:
                report["recall"][str(shards)] = _of_bank(folder, corpus, shards, options.epochs)
                _keep(report, options.out)
        if "joint training" not in report:
            report["joint training"] = _joint(folder, corpus, options.epochs)
            _keep(report, options.out)
    print(json.dumps(report, indent=2))


def _keep(report: dict[str, Any], out: Path | None) -> None:
    if out:
        atomic.write_json(out, report)


def _of_bank(folder: Path, corpus: Path, shards: int, epochs: int) -> dict[str, Any]:
    settings = (*SETTINGS, f"train.epochs={epochs}", f"corpus.shards={shards}",
                "train.question_loss=yes")  # fmt: skip
    run = encode(corpus, folder / f"bank-{shards}", *settings)
    rows: dict[str, Any] = {}
    for method in METHODS:
        out = folder / "merged"
        scale = str(1.0 if method == "regmean" else 0.7)
        succeed("merge", run.root, "--out", out, "--method", method, "--scale", scale)
        record = atomic.read_json(out / "memory" / "merge.json")
        rows["bank"] = _share(record["union"])
        rows[method] = _share(record["recall"])
        shutil.rmtree(out)
    return rows


def _joint(folder: Path, corpus: Path, epochs: int) -> dict[str, float]:
    """Of one memory that was trained on everything."""
    settings = (*SETTINGS, f"train.epochs={epochs}", "corpus.shards=1")
    run = encode(corpus, folder / "joint", *settings)
    rows = taught_questions(map(Reflection.from_json, atomic.read_jsonl(run.reflections)), 4)
    bank = Bank.load(run.memory, run.trained_reflections)
    answers = bank.answer([row.question for row in rows])
    return _share(document_recall(rows, [answer.text or answer.refused for answer in answers]))


def _share(recall: Recall) -> dict[str, float]:
    right, asked = (sum(part) for part in zip(*recall.values(), strict=True))
    return {"recall": round(right / asked, 4), "n": asked}


if __name__ == "__main__":
    main()
