"""Calls and tokens of the synthesis: ours against the published pipeline's scheme.

    python benchmarks/synthesis_cost.py $DATA [--out OUT.json]

Both make the same accepted reflections from the same documents (musique/smoke and 20 of
narrativeqa/dev). Ours: the real steps and prompts, run against replies that are read off the text
by the rules generator. The published scheme (MeMo, arXiv 2605.15156): one call a chunk for
direct and for indirect facts, one a document for consolidation and for entity surfacing, one a
pair for verification, one an anchor and batch of 20 for cross-document synthesis, each with
instructions of the published size. Tokens are SmolLM2's.
"""

from __future__ import annotations

import argparse
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from machine import machine

from memo_dist.config import Config, load_config
from memo_dist.config.steps import StepName
from memo_dist.corpus.types import Document
from memo_dist.io.atomic import read_jsonl, write_json
from memo_dist.io.hashing import stable_modulo
from memo_dist.llm.requests import Reply, Request, Response
from memo_dist.models.base import resolve_base
from memo_dist.synthesis.prompted import LanguageModelGenerator
from memo_dist.synthesis.rules import RulesGenerator
from memo_dist.synthesis.types import Unit
from memo_dist.synthesis.words import content, names
from memo_dist.testing.dialogues import DialogueRun, make_units, run_steps

STEPS = ("direct", "indirect", "consolidate", "verify", "entities", "cross")
INSTRUCTIONS = {
    "direct": 1900,
    "indirect": 2800,
    "consolidate": 2400,
    "verify": 770,
    "entities": 2150,
    "cross": 820,
}
"""Tokens of the published instructions, without what they are applied to."""
CROSS_BATCH = 20
BLOCK = 16
"""Tokens of a block of the prefix cache (vLLM's default)."""
MERGED_OF = 5
"""One consolidated pair for so many pairs of a document."""
ENTITIES = 3
"""Entity pairs a chunk."""
CROSS_PAIRS = 3
"""Cross-document pairs a group."""
REWRITTEN, DROPPED = 12, 8
"""Of 100 verified pairs."""
_PAIR = re.compile(r"^(\d+)\.(?: \[(\d+)\])?(?: \((.*?)\))? (.*\?) -> (.*?)(?: \(suspected: .*)?$")
ASSUMPTIONS = [
    "the same documents, chunks and pairs for both; direct and indirect pairs are those that the"
    " rules generator reads off each chunk",
    f"one consolidated pair for {MERGED_OF} pairs of a document, {ENTITIES} entity pairs a chunk,"
    f" {CROSS_PAIRS} cross-document pairs a group",
    f"verification keeps {100 - REWRITTEN - DROPPED} %, rewrites {REWRITTEN} %, drops {DROPPED} %"
    " of the pairs; entity and cross-document pairs are not verified, in both",
    "accepted reflections: those of our run after its checks; both costs are divided by them",
    "published prompts: instructions, then the chunk (direct, indirect), the document's pairs"
    " (consolidate, entities), the pair alone (verify), anchor and batch (cross)",
    "published cross-document groups: each question's supporting documents; where a question has"
    " one document only, its chunks stand for documents and every question repeats the calls",
    "published reply tokens: those of the same pairs as JSON, 12 for a kept pair",
    f"cache: prefixes in blocks of {BLOCK} tokens; 'whole': kept for the whole run; 'step': kept"
    " within one step; the published instructions come first, so they are cached after one call",
]


@dataclass
class Cost:
    """Sums of one step: prompt is all tokens read, the other two those that no cache held."""

    calls: int = 0
    prompt: int = 0
    uncached_whole: int = 0
    uncached_step: int = 0
    completion: int = 0

    def add(self, other: Cost) -> None:
        for name in vars(self):
            setattr(self, name, getattr(self, name) + getattr(other, name))


@dataclass
class PrefixCache:
    """Blocks of prompts that were read before."""

    seen: set[int] = field(default_factory=set)

    def uncached(self, tokens: Sequence[int]) -> int:
        """Tokens of the prompt behind its longest known prefix; the prompt is known from now."""
        key, hit, known = 0, 0, True
        for end in range(BLOCK, len(tokens) + 1, BLOCK):
            key = hash((key, *tokens[end - BLOCK : end]))
            known = known and key in self.seen
            hit = end if known else hit
            self.seen.add(key)
        return len(tokens) - hit


@cache
def tokenizer() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(resolve_base("smollm2-135m").path)


def tokens_of(text: str) -> list[int]:
    return tokenizer()(text)["input_ids"]


def prompt_tokens(request: Request) -> list[int]:
    turns = [f"<|im_start|>{m.role}\n{m.content}<|im_end|>\n" for m in request.messages]
    return tokens_of("".join(turns) + "<|im_start|>assistant\n")


class TextReader:
    """Replies that a capable model could give, read off the prompt and the chunks."""

    def __init__(self, units: Sequence[Unit]) -> None:
        steps = RulesGenerator(load_config([], []).synthesis, seed=17).steps()
        self.pairs: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self.texts = {chunk.id: chunk.text for unit in units for chunk in unit.chunks}
        for unit in units:
            for name in ("direct", "indirect"):
                for row in steps[name].run(unit, []).reflections:
                    for chunk in row.chunks:
                        pair = {"kind": name, "question": row.question, "answer": row.answer}
                        self.pairs[chunk].append(pair)

    def __call__(self, step: StepName, request: Request) -> Reply:
        prompt = request.messages[-1].content
        value = getattr(self, f"_{step}")(prompt)
        text = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
        return Response(request.key, text, value, "stop")

    def _chunks(self, prompt: str) -> Iterable[tuple[int, str]]:
        found = [(prompt.find(text), name) for name, text in self.texts.items()]
        inside = sorted((at, name) for at, name in found if at >= 0)
        return enumerate((name for _, name in inside), start=1)

    def _direct(self, prompt: str) -> Any:
        rows = [
            {"passage": number, **pair}
            for number, name in self._chunks(prompt)
            for pair in self.pairs[name]
        ]
        return {"pairs": [] if "No pair covers" in prompt else rows}

    def _consolidate(self, prompt: str) -> Any:
        by_passage = defaultdict(list)
        for number, passage, _, question, answer in _listed(prompt):
            by_passage[passage].append((number, question, answer))
        made = []
        for rows in by_passage.values():
            for start in range(0, len(rows) - 1, MERGED_OF):
                (a, question, one), (b, _, two) = rows[start : start + 2]
                text = question.rstrip("?") + ", and what else is known?"
                made.append({"merges": [a, b], "question": text, "answer": f"{one}; {two}"})
        return {"pairs": made}

    def _verify(self, prompt: str) -> Any:
        verdicts: list[dict[str, Any]] = []
        for number, _, _, question, answer in _listed(prompt):
            luck = stable_modulo(question + answer, 100)
            row: dict[str, Any] = {"pair": number, "verdict": "keep"}
            if luck < DROPPED:
                row |= {"verdict": "drop", "problem": "not in the passage"}
            elif luck < DROPPED + REWRITTEN:
                mended = question.rstrip("?") + ", exactly?"
                row |= {"verdict": "rewrite", "question": mended, "answer": answer}
            verdicts.append(row)
        return {"verdicts": verdicts}

    def _entities(self, prompt: str) -> Any:
        made = []
        for number, name in self._chunks(prompt):
            text = self.texts[name]
            for called in names(text)[:ENTITIES]:
                clue = " ".join(sorted(content(text) - content(called))[:14])
                question = f"which one is described by {clue}?"
                made.append({"passage": number, "question": question, "answer": called})
        return {"pairs": made}

    def _cross(self, prompt: str) -> Any:
        rows = list(_listed(prompt))
        first = rows[0]
        others = [row for row in rows if row[2] != first[2]][:CROSS_PAIRS]
        return {
            "pairs": [
                {
                    "merges": [first[0], row[0]],
                    "question": f"{first[3].rstrip('?')}, and {row[3]}",
                    "answer": f"{first[4]}; {row[4]}",
                }
                for row in others
            ]
        }


def _listed(prompt: str) -> Iterable[tuple[int, str, str, str, str]]:
    """(number, passage, title, question, answer) of the pairs that a prompt lists."""
    for line in prompt.splitlines():
        match = _PAIR.match(line)
        if match:
            number, *rest = match.groups()
            yield int(number), *(part or "" for part in rest)


def our_cost(run: DialogueRun, reader: TextReader) -> dict[str, Cost]:
    """Costs of the requests that our steps made."""
    costs = {name: Cost() for name in STEPS}
    whole, by_step = PrefixCache(), {name: PrefixCache() for name in STEPS}
    for step, request in run.requests:
        prompt = prompt_tokens(request)
        reply = reader(step, request)
        assert isinstance(reply, Response)
        costs[step].add(
            Cost(
                calls=1,
                prompt=len(prompt),
                uncached_whole=whole.uncached(prompt),
                uncached_step=by_step[step].uncached(prompt),
                completion=len(tokens_of(reply.text)),
            )
        )
    return costs


@dataclass
class Published:
    """The published scheme over the same chunks and pairs."""

    costs: dict[str, Cost] = field(default_factory=lambda: {name: Cost() for name in STEPS})

    def call(self, step: str, applied_to: int, reply: int, times: int = 1) -> None:
        """``times`` calls with instructions, then ``applied_to`` tokens."""
        first = 0 if self.costs[step].calls else INSTRUCTIONS[step]
        self.costs[step].add(
            Cost(
                calls=times,
                prompt=times * (INSTRUCTIONS[step] + applied_to),
                uncached_whole=first + times * applied_to,
                uncached_step=first + times * applied_to,
                completion=times * reply,
            )
        )


def published_cost(
    units: Sequence[Unit], run: DialogueRun, questions: list[dict[str, Any]]
) -> dict[str, Cost]:
    """Costs of the published scheme for the pairs that our run made."""
    scheme = Published()
    by_chunk, by_document, members = _pair_sizes(run)
    for sizes in by_document.values():
        for size in sizes:
            scheme.call("verify", size, 12)
    for unit in units:
        for chunk in unit.chunks:
            size = len(tokens_of(chunk.text))
            for kind in ("direct", "indirect"):
                scheme.call(kind, size, by_chunk[chunk.id][kind])
        for document in unit.documents:
            made = [by_chunk[chunk.id] for chunk in unit.chunks if chunk.document == document.id]
            merged = sum(row["consolidated"] for row in made)
            listed = sum(by_document[document.id])
            scheme.call("consolidate", listed - merged, merged)
            scheme.call("entities", listed, sum(row["entity"] for row in made))
    mean = sum(map(sum, by_document.values())) // max(1, sum(map(len, by_document.values())))
    _cross(scheme, questions, members, mean)
    return scheme.costs


def _pair_sizes(run: DialogueRun) -> tuple[Any, Any, Any]:
    """Tokens by chunk and kind; of each pair to verify by document; pairs by document and chunk."""
    by_chunk: dict[str, dict[str, int]] = defaultdict(Counter)
    by_document: dict[str, list[int]] = defaultdict(list)
    members: dict[str, dict[str, int]] = defaultdict(Counter)
    for step in ("direct", "consolidate", "entities"):
        for row in run.results[step].reflections:
            size = len(tokens_of(json.dumps({"question": row.question, "answer": row.answer})))
            members[row.sources[0]][row.chunks[0]] += 1
            by_chunk[row.chunks[0]][row.kind] += size
            if step != "entities":
                by_document[row.sources[0]].append(size)
    return by_chunk, by_document, members


def _cross(scheme: Published, questions: list[dict[str, Any]], members: Any, mean: int) -> None:
    for question in questions:
        groups = [sum(members[name].values()) for name in question["supporting_ids"]]
        if len(groups) < 2:
            groups = list(members[question["supporting_ids"][0]].values())
        calls = sum(own * -(-(sum(groups) - own) // CROSS_BATCH) for own in groups)
        if calls:
            scheme.call("cross", mean * (1 + CROSS_BATCH), 2 * mean, calls)


def total(costs: dict[str, Cost], without: str = "") -> Cost:
    """The sum over the steps."""
    found = Cost()
    for name, cost in costs.items():
        if name != without:
            found.add(cost)
    return found


def measure(
    name: str, documents: list[Document], questions: list[dict[str, Any]], config: Config
) -> dict[str, Any]:
    """Both costs on one data set, printed and returned."""
    units = make_units(documents, config)
    reader = TextReader(units)
    run = run_steps(LanguageModelGenerator(config.synthesis, "any", 17), units, config, reader)
    accepted = len(run.cleaned(config).kept)
    ours, published = our_cost(run, reader), published_cost(units, run, questions)
    rows = {step: (published[step], ours[step]) for step in STEPS}
    rows["all but cross"] = (total(published, "cross"), total(ours, "cross"))
    rows["all"] = (total(published), total(ours))
    print(f"\n{name}: {len(documents)} documents, {accepted} accepted reflections")
    print(f"{'':14}{'':10}" + "".join(f"{key:>16}" for key in vars(Cost())))
    for step, (theirs, mine) in rows.items():
        for label, cost in (("published", theirs), ("ours", mine)):
            print(f"{step:14}{label:10}" + "".join(f"{v:>16,}" for v in vars(cost).values()))
        ratios = {k: v / max(1, getattr(mine, k)) for k, v in vars(theirs).items()}
        print(f"{'':14}{'ratio':10}" + "".join(f"{value:>16.1f}" for value in ratios.values()))
    for label, cost in (("published", rows["all"][0]), ("ours", rows["all"][1])):
        both = (cost.prompt + cost.completion) / accepted
        print(
            f"{label}: {cost.calls / accepted:.3f} calls and {both:,.0f} prompt + output tokens "
            "an accepted reflection"
        )
    return {
        "documents": len(documents),
        "accepted": accepted,
        "steps": {k: {"published": vars(a), "ours": vars(b)} for k, (a, b) in rows.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", type=Path, help="holds musique/smoke and narrativeqa/dev")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--set", dest="overrides", nargs="*", default=[], metavar="KEY=VALUE")
    options = parser.parse_args()
    config = load_config([], [f"synthesis.steps=[{','.join(STEPS)}]", *options.overrides])
    print("Assumptions, equal for both:", *(f"- {line}" for line in ASSUMPTIONS), sep="\n")
    report: dict[str, Any] = {"assumptions": ASSUMPTIONS, "machine": machine()}
    for name in ("musique/smoke", "narrativeqa/dev"):
        rows = list(read_jsonl(options.data / name / "corpus.jsonl"))[:54]
        documents = [Document(row["id"], row["title"], row["text"]) for row in rows]
        questions = list(read_jsonl(options.data / name / "questions.jsonl"))
        report[name] = measure(name, documents, questions, config)
    if options.out:
        write_json(options.out, report)


if __name__ == "__main__":
    main()
