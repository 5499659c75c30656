"""Measures the question writer and its reader on passages that the training held out.

    python benchmarks/question_writer.py --data SQUADSHIFTS [--passages 20] [--samples FILE]

- reader: exact match and F1 on people's questions; "Not stated" on questions about other passages
  and on people's own questions;
- round trip: a question written for a person's span, answered by the reader: exact match, and the
  share that agrees with the span and stands alone, which is what the generator keeps;
- --samples: what the generator writes about each passage, for a person to grade.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
from train_question_writer import SOURCES, Passage, place, split, unstated

from memo_dist.answers.text import exact_match, token_f1
from memo_dist.corpus.types import Document
from memo_dist.models.branches import BranchModel
from memo_dist.models.sampling import Sampling
from memo_dist.models.smollm2 import load_smollm2
from memo_dist.synthesis.writer.checks import agree, question_fault
from memo_dist.synthesis.writer.generator import writer_model
from memo_dist.synthesis.writer.prompts import (
    NOT_STATED,
    TARGET_END,
    prefix,
    reader_branch,
    writer_branch,
)
from memo_dist.synthesis.writer.written import READING, DocumentWriter

ASKING = Sampling(most_tokens=32)


@dataclass
class Scores:
    """Sums over questions; ``mean`` makes percentages of them."""

    values: dict[str, list[float]] = field(default_factory=dict)

    def add(self, name: str, value: float) -> None:
        self.values.setdefault(name, []).append(value)

    def mean(self) -> dict[str, str]:
        return {
            name: f"{100 * sum(found) / len(found):.1f} % of {len(found)}"
            for name, found in self.values.items()
        }


def measure(
    model: BranchModel, passage: Passage, rest: list[Passage], rng: random.Random, scores: Scores
) -> None:
    """Add one passage's scores."""
    others = unstated(passage, rest, 3, rng)
    spans = passage.self_contained()[:5]
    manner = SOURCES[passage.source]
    with model.reading(prefix(passage.title, passage.text)):
        asked = passage.asked[:6]
        read = model.write([reader_branch(a.question) for a in asked], READING)
        for person, answers in zip(asked, read, strict=True):
            answer = answers[0] if answers else ""
            scores.add("reader, exact match", exact_match(answer, person.answers))
            scores.add("reader, F1", token_f1(answer, person.answers))
            scores.add("reader, not stated though asked here", answer == NOT_STATED)
        for answers in model.write([reader_branch(question) for question in others], READING):
            scores.add("reader, not stated, asked elsewhere", answers == [NOT_STATED])
        prompts = [writer_branch(passage.text, *place(passage, a), manner) for a in spans]
        written = [texts[0] if texts else "" for texts in model.write(prompts, ASKING)]
        read = model.write([reader_branch(question) for question in written], READING)
    for person, question, answers in zip(spans, written, read, strict=True):
        answer, span = answers[0] if answers else "", person.answers[0]
        fits = agree(answer, span)
        alone = not question_fault(question, span, passage.title, passage.text)
        scores.add("round trip, exact match", exact_match(answer, [span]))
        scores.add("round trip, agrees", fits)
        scores.add("round trip, agrees and stands alone", fits and alone)


def samples(model: BranchModel, passages: list[Passage], count: int, rng: random.Random) -> str:
    """Passage, span and question of ``count`` pairs that the generator keeps, as Markdown."""
    writer, lines, words, pairs = DocumentWriter(model, 3), [], 0, 0
    started = time.monotonic()
    found = []
    for passage in passages:
        document = Document(passage.id, passage.title, passage.text)
        written = writer.write(document, 0)
        words += len(passage.text.split())
        kept = [(fact.answer, q) for fact in written.facts for q in fact.questions]
        pairs += len(kept)
        found.append((passage, kept))
    seconds = time.monotonic() - started
    lines.append(f"{pairs} pairs of {words} words in {seconds:.0f} s.\n")
    share = -(-count // len(found))
    for passage, kept in found:
        chosen = rng.sample(kept, min(share, len(kept)))
        lines.append(f"## {passage.title}\n\n{passage.text}\n")
        lines += [f"- span: {answer} | question: {question}" for answer, question in chosen]
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    """Parse the arguments, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of SQuADShifts")
    parser.add_argument("--passages", type=int, default=20)
    parser.add_argument("--adapter", type=Path, help="instead of the one in the package")
    parser.add_argument("--samples", type=Path, help="Markdown file of pairs to grade")
    parser.add_argument("--sampled", type=int, default=12, help="passages that pairs come from")
    parser.add_argument("--pairs", type=int, default=100)
    given = parser.parse_args()
    torch.set_num_threads(1)
    model = (
        BranchModel.load(load_smollm2().path, given.adapter, TARGET_END)
        if given.adapter
        else writer_model()
    )
    rng = random.Random(0)
    _, held, rest = split(given.data)
    chosen = rng.sample(held, min(given.passages, len(held)))
    scores = Scores()
    for passage in chosen:
        measure(model, passage, rest, rng, scores)
    print(json.dumps(scores.mean(), indent=1), flush=True)
    if given.samples:
        wiki = [passage for passage in chosen if passage.source == "wiki"]
        given.samples.write_text(samples(model, wiki[: given.sampled], given.pairs, rng), "utf-8")


if __name__ == "__main__":
    main()
