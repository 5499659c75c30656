"""Measure the rules generator on a data set: gold answers covered, sentences covered, speed.

    python benchmarks/rules_generator.py DATA_FOLDER [--out OUT] [--sample 50] [--seed 1]

DATA_FOLDER holds ``corpus.jsonl`` (id, title, text) and ``questions.jsonl`` (question, answer,
aliases, supporting_ids). A gold answer counts as covered when it, or an alias, stands
(normalised) in the answer of some reflection of its supporting documents. The ceiling counts
gold answers that stand in the supporting text itself. ``--sample`` prints reflections to read.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import string
import time
from collections import Counter
from pathlib import Path
from typing import Any

from memo_dist.config.schema import SynthesisConfig
from memo_dist.corpus.types import Chunk, Document
from memo_dist.io.atomic import read_jsonl, write_json
from memo_dist.synthesis.rules import RulesGenerator
from memo_dist.synthesis.rules.collect import document_facts
from memo_dist.synthesis.types import Reflection, Rejected, Unit

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_SHORT_WORDS = 8
_UNIT_DOCUMENTS = 8


def normalise(text: str) -> str:
    """Lower case, no punctuation, no articles, single spaces (the SQuAD rule)."""
    plain = "".join(" " if c in string.punctuation + "’‘“”–" else c for c in text.lower())
    return " ".join(_ARTICLES.sub(" ", plain).split())


def holds(text: str, answers: list[str]) -> bool:
    """Whether one of the (normalised) answers stands in the text as whole words."""
    padded = f" {normalise(text)} "
    return any(answer and f" {answer} " in padded for answer in answers)


def generate(documents: list[Document]) -> tuple[list[Reflection], list[Rejected]]:
    """Run all steps over units of a few documents."""
    steps = RulesGenerator(SynthesisConfig(), seed=17).steps()
    reflections: list[Reflection] = []
    rejected: list[Rejected] = []
    for at in range(0, len(documents), _UNIT_DOCUMENTS):
        group = tuple(documents[at : at + _UNIT_DOCUMENTS])
        chunks = tuple(Chunk(d.id, 0, len(d.text), d.text) for d in group)
        unit = Unit(f"unit-{at}", 0, group, chunks, seed=at)
        made: list[Reflection] = []
        for step in steps.values():
            result = step.run(unit, made)
            made += result.reflections
            rejected += result.rejected
        reflections += made
    return reflections, rejected


def coverage(
    questions: list[dict[str, Any]], documents: list[Document], reflections: list[Reflection]
) -> dict[str, Any]:
    """Shares of answerable questions whose gold answer is covered, and the literal ceiling."""
    texts = {document.id: document.text for document in documents}
    answers: dict[str, list[str]] = {}
    for item in reflections:
        for source in item.sources:
            answers.setdefault(source, []).append(item.answer)
    counts: Counter[str] = Counter()
    for row in questions:
        gold = [normalise(text) for text in [row["answer"], *row.get("aliases", [])]]
        if not row.get("answerable", True) or not any(gold):
            continue
        supporting = [s for s in row["supporting_ids"] if s in texts]
        counts["n"] += 1
        counts["ceiling"] += any(holds(texts[s], gold) for s in supporting)
        found = [a for s in supporting for a in set(answers.get(s, [])) if holds(a, gold)]
        counts["covered"] += bool(found)
        counts["covered_short"] += any(len(a.split()) <= _SHORT_WORDS for a in found)
    total = max(counts["n"], 1)
    shares = {k: round(counts[k] / total, 4) for k in ("ceiling", "covered", "covered_short")}
    return {"questions": counts["n"], **shares}


def measure(folder: Path, sample: int, seed: int) -> dict[str, Any]:
    """All numbers of one data set; prints the sample."""
    rows = list(read_jsonl(folder / "corpus.jsonl"))
    documents = [Document(r["id"], r["title"], r["text"], r.get("date")) for r in rows]
    generate(documents[:1])
    started = time.perf_counter()
    reflections, rejected = generate(documents)
    seconds = time.perf_counter() - started
    facts = [document_facts(document) for document in documents]
    questions = list(read_jsonl(folder / "questions.jsonl"))
    show(reflections, sample, seed)
    return {
        "data": "/".join(folder.resolve().parts[-2:]),
        "documents": len(documents),
        "sentences": sum(f.sentences for f in facts),
        "sentences_covered": round(
            sum(f.covered for f in facts) / max(sum(f.sentences for f in facts), 1), 4
        ),
        "reflections_per_document": round(len(reflections) / max(len(documents), 1), 1),
        "kinds": dict(sorted(Counter(item.kind for item in reflections).items())),
        "rejected": dict(Counter(item.reason for item in rejected).most_common()),
        "seconds": round(seconds, 2),
        **coverage(questions, documents, reflections),
    }


def show(reflections: list[Reflection], count: int, seed: int) -> None:
    """Print a random sample to be read by a person."""
    chosen = random.Random(seed).sample(reflections, min(count, len(reflections)))
    for number, item in enumerate(chosen, start=1):
        print(f"{number:3} [{item.kind}] {item.question} => {item.answer}")


def main() -> None:
    """Parse arguments, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, default=None, help="where the numbers are written")
    parser.add_argument("--sample", type=int, default=0, help="reflections to print")
    parser.add_argument("--seed", type=int, default=1, help="seed of the sample")
    options = parser.parse_args()
    numbers = measure(options.folder, options.sample, options.seed)
    for key, value in numbers.items():
        print(f"{key:26} {json.dumps(value) if isinstance(value, dict) else value}")
    if options.out:
        write_json(options.out, numbers)


if __name__ == "__main__":
    main()
