"""Are answers and confidences of vLLM those of transformers? One bank, both engines, the same
questions: what was taught, other wordings of it, and questions about nothing.

    python benchmarks/serve_engines.py --run RUN --vllm COMMAND [--questions 120] [--out FILE]
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from memo_dist.answers.answer import Answer
from memo_dist.io.atomic import read_jsonl
from memo_dist.io.runfolder import RunFolder
from memo_dist.memory.bank import Bank, Vote
from memo_dist.runs import existing_run
from memo_dist.serve.vllm.bank import opener

BATCH = 16
TURNS = ("{}", "Please tell me: {}", "{} I need to know.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--vllm", default="vllm")
    parser.add_argument("--questions", type=int, default=120)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    run = RunFolder(options.run)
    _, config = existing_run(run.root)
    config = replace(config, serve=replace(config.serve, engine="vllm", vllm_command=options.vllm))
    questions = chosen(run, options.questions)
    alone = asked(Bank.of_run(run, config), questions)
    bank = Bank.of_run(run, config, open_memories=opener(run, config))
    try:
        served = asked(bank, questions)
    finally:
        bank.release()
    found = compared(alone, served)
    print(json.dumps(found, indent=2))
    if options.out:
        options.out.write_text(json.dumps(found, indent=2) + "\n")


def chosen(run: RunFolder, count: int) -> list[str]:
    """Questions spread over the trained ones, in all turns."""
    every = [row["question"] for row in read_jsonl(run.trained_reflections)]
    kept = every[:: max(1, len(every) * len(TURNS) // count)]
    return [turn.format(question) for question in kept for turn in TURNS][:count]


def asked(bank: Bank, questions: list[str]) -> tuple[list[Answer], list[list[Vote]], float]:
    """Answers, all shards' votes, and seconds of the answers in batches."""
    bank.answer(questions[:BATCH], BATCH)
    began, answers = time.monotonic(), []
    for start in range(0, len(questions), BATCH):
        answers += bank.answer(questions[start : start + BATCH], BATCH)
    seconds = time.monotonic() - began
    return answers, bank.votes(questions, BATCH), seconds


def compared(alone: Any, served: Any) -> dict[str, Any]:
    """What is equal, and the largest differences."""
    pairs = list(zip(alone[0], served[0], strict=True))
    votes = [
        (one, {vote.shard.id: vote for vote in other}[one.shard.id])
        for row, other in zip(alone[1], served[1], strict=True)
        for one in row
    ]
    return {
        "questions": len(pairs),
        "not abstained": sum(not one.abstained for one, _ in pairs),
        "equal answers": sum(one.text == other.text for one, other in pairs),
        "equal abstentions": sum(one.abstained == other.abstained for one, other in pairs),
        "equal sources": sum(one.sources == other.sources for one, other in pairs),
        "largest difference of confidences": max(
            abs(one.confidence - other.confidence) for one, other in pairs
        ),
        "votes of shards": len(votes),
        "equal votes": sum(one.raw.text == other.raw.text for one, other in votes),
        "largest difference of votes' confidences": max(
            abs(one.verdict.confidence - other.verdict.confidence) for one, other in votes
        ),
        "questions/s, transformers": round(len(pairs) / alone[2], 2),
        "questions/s, vllm": round(len(pairs) / served[2], 2),
    }


if __name__ == "__main__":
    main()
