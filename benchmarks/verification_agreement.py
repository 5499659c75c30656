"""Does verification of many pairs a call agree with one pair a call?

    python benchmarks/verification_agreement.py $DATA/musique/smoke --url http://127.0.0.1:8080/v1 \
        --model NAME --replies OUT.jsonl [--pairs 200] [--batch 20] [--out OUT.json]

Half of the pairs are read off the documents by the rules generator, half are spoiled: the
title replaced by a pronoun, the answer taken from elsewhere, or a word about the passage. Each
pair is judged once alone and once in its document's batch; agreement is the share of pairs with
the same decision (keep, or rewrite or drop). Accuracy against what was planted is printed too:
agreement alone says nothing about a model that keeps everything. Replies are kept in
``--replies``: the same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

from machine import machine
from openai_backend import OpenAIBackend

from memo_dist.config import load_config
from memo_dist.corpus.types import Document
from memo_dist.io.atomic import read_jsonl, write_json
from memo_dist.llm.requests import Response
from memo_dist.synthesis.prompted import LanguageModelGenerator
from memo_dist.synthesis.prompted.reading import Reading, readings
from memo_dist.synthesis.prompted.verify import VerifyStep
from memo_dist.synthesis.rules import RulesGenerator
from memo_dist.synthesis.types import Reflection
from memo_dist.testing.dialogues import make_unit

Planted = tuple[bool, Reflection]
"""Whether the pair is good, and the pair."""


def spoil(
    row: Reflection, title: str, others: list[Reflection], chance: random.Random
) -> Reflection:
    """One of three faults, as far as the pair allows it."""
    if title in row.question and chance.random() < 1 / 3:
        return replace(row, question=row.question.replace(title, "it"))
    if chance.random() < 1 / 3:
        return replace(row, question=row.question.rstrip("?") + " according to the passage?")
    return replace(row, answer=chance.choice(others).answer)


def planted(
    documents: list[Document], count: int, batch: int
) -> list[tuple[Reading, list[Planted]]]:
    """``batch`` pairs a document, good and spoiled in turn, until there are ``count``."""
    config = load_config([], [])
    step = RulesGenerator(config.synthesis, seed=17).steps()["direct"]
    made = []
    for document in documents:
        unit = make_unit([document], 0, config)
        rows = [row for row in step.run(unit, []).reflections if row.chunks]
        made.append((document, unit, rows[:batch]))
    everything = [row for _, _, rows in made for row in rows]
    chance, cases, left = random.Random(1), [], count
    for document, unit, rows in made:
        others = [row for row in everything if row.sources != (document.id,)]
        pairs = [
            (n % 2 == 0, row if n % 2 == 0 else spoil(row, document.title, others, chance))
            for n, row in enumerate(rows[:left])
        ]
        left -= len(pairs)
        if pairs:
            cases.append((readings(unit, 1 << 30)[0], pairs))
    return cases


def decisions(
    step: VerifyStep, reading: Reading, pairs: list[Planted], backend: OpenAIBackend
) -> list[str]:
    """keep, change (rewrite or drop), or none for each pair, in one call."""
    reply = backend("verify", step.request(reading, [(1, row) for _, row in pairs]))
    found = dict.fromkeys(range(1, len(pairs) + 1), "none")
    if isinstance(reply, Response):
        for verdict in reversed(reply.value["verdicts"]):
            if verdict["pair"] in found:
                found[verdict["pair"]] = "keep" if verdict["verdict"] == "keep" else "change"
    return list(found.values())


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Judge every pair both ways."""
    documents = [
        Document(row["id"], row["title"], row["text"])
        for row in read_jsonl(options.folder / "corpus.jsonl")
    ]
    settings = load_config([], []).synthesis
    step = LanguageModelGenerator(settings, options.model, 17).steps()["verify"]
    assert isinstance(step, VerifyStep)
    backend, tally = OpenAIBackend(options.url, options.replies), Counter[str]()
    for reading, pairs in planted(documents, options.pairs, options.batch):
        together = decisions(step, reading, pairs, backend)
        alone = [decisions(step, reading, [pair], backend)[0] for pair in pairs]
        for (good, _), one, other in zip(pairs, alone, together, strict=True):
            tally["pairs"] += 1
            tally["agree"] += one == other
            tally["alone right"] += (one == "keep") == good
            tally["together right"] += (other == "keep") == good
            tally[f"{'good' if good else 'bad'}: alone {one}, together {other}"] += 1
    return {"model": options.model, "batch": options.batch, **tally, "machine": machine()}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="holds corpus.jsonl")
    parser.add_argument("--url", required=True, help="base URL that ends in /v1")
    parser.add_argument("--model", required=True)
    parser.add_argument("--replies", type=Path, required=True)
    parser.add_argument("--pairs", type=int, default=200)
    parser.add_argument("--batch", type=int, default=20)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    report = measure(options)
    for name, value in report.items():
        print(f"{name}: {value}")
    if options.out:
        write_json(options.out, report)


if __name__ == "__main__":
    main()
