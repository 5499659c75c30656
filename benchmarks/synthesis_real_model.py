"""Run the synthesis steps over some documents with a real model, and count each step's yield.

    python benchmarks/synthesis_real_model.py $DATA/musique/smoke --url http://127.0.0.1:8080/v1 \
        --model NAME --replies OUT.jsonl [--documents 54] [--out OUT.json] [--set key=value ...]

The server must be OpenAI-compatible and honour ``response_format: json_schema``. One request at
a time. Replies are kept in ``--replies``: the same command goes on where it was stopped, and
repeats its result without the server. ``--set`` sets configuration keys.
"""

from __future__ import annotations

import argparse
import random
from collections import Counter
from pathlib import Path
from typing import Any

from machine import machine
from openai_backend import OpenAIBackend

from memo_dist.config import Config, load_config
from memo_dist.corpus.types import Document
from memo_dist.io.atomic import read_jsonl, write_json
from memo_dist.synthesis.coverage import cover_documents
from memo_dist.synthesis.prompted import LanguageModelGenerator
from memo_dist.testing.dialogues import DialogueRun, make_units, run_steps

STEPS = "[direct,indirect,consolidate,verify,entities,cross]"


def step_table(run: DialogueRun, replies: OpenAIBackend) -> dict[str, dict[str, Any]]:
    """Calls, tokens, seconds, reflections and rejections of each step."""
    table = {}
    for name, result in run.results.items():
        sent = {request.key for step, request in run.requests if step == name}
        rows = [replies.rows[key] for key in sent]
        table[name] = {
            "calls": len(rows),
            "prompt": sum(row["prompt"] for row in rows),
            "cached": sum(row["cached"] for row in rows),
            "completion": sum(row["completion"] for row in rows),
            "cut_off": sum(row["finish_reason"] != "stop" for row in rows),
            "seconds": round(sum(row["seconds"] for row in rows), 1),
            "reflections": len(result.reflections),
            "by_kind": dict(Counter(row.kind for row in result.reflections)),
            "rewritten": sum(row.parent is not None for row in result.reflections),
            "rejected": dict(Counter(_short(row.reason) for row in result.rejected)),
        }
    return table


def measure(folder: Path, config: Config, options: argparse.Namespace) -> dict[str, Any]:
    """Run the steps and count."""
    rows = read_jsonl(folder / "corpus.jsonl")
    documents = [Document(row["id"], row["title"], row["text"]) for row in rows]
    documents = documents[: options.documents]
    units = make_units(documents, config)
    replies = OpenAIBackend(options.url, options.replies)
    generator = LanguageModelGenerator(config.synthesis, options.model, config.run.seed)
    run = run_steps(generator, units, config, replies)
    cleaned = run.cleaned(config)
    covered = cover_documents(documents, cleaned.kept)
    if options.sample:
        for row in random.Random(options.seed).sample(
            cleaned.kept, min(options.sample, len(cleaned.kept))
        ):
            print(f"[{row.kind}] {row.question} -> {row.answer}   ({', '.join(row.sources)})")
    return {
        "documents": len(documents),
        "settings": vars(config.synthesis),
        "steps": step_table(run, replies),
        "kept": len(cleaned.kept),
        "kept_by_kind": dict(Counter(row.kind for row in cleaned.kept)),
        "dropped": dict(Counter(_short(row.reason) for row in cleaned.dropped)),
        "sentences": sum(item.sentences for item in covered),
        "covered": sum(item.covered for item in covered),
        "machine": machine(),
    }


def _short(reason: str) -> str:
    return (
        ":".join(reason.split(":")[:2])
        if reason.startswith("verify: kept")
        else (":".join(part[:40] for part in reason.split(":")[:2]))
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="holds corpus.jsonl")
    parser.add_argument("--url", required=True, help="base URL that ends in /v1")
    parser.add_argument("--model", required=True)
    parser.add_argument("--replies", type=Path, required=True)
    parser.add_argument("--documents", type=int, default=None)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--sample", type=int, default=0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--set", dest="overrides", nargs="*", default=[], metavar="KEY=VALUE")
    options = parser.parse_args()
    config = load_config([], [f"synthesis.steps={STEPS}", *options.overrides])
    report = measure(options.folder, config, options)
    for name, row in report["steps"].items():
        print(name, row)
    print({key: value for key, value in report.items() if key != "steps"})
    if options.out:
        write_json(options.out, report)


if __name__ == "__main__":
    main()
