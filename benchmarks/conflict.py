"""When memory and backbone disagree: four cells, each with at least 50 questions.

    python benchmarks/conflict.py [--steps 2000] [--out FILE]

Models of one small vocabulary, trained from scratch in this script. The backbone knows 240 facts
(NAME's trade); the memory is trained from the same base on documents of its own:

- ``agree``: the memory was taught what the backbone knows;
- ``newer``: the memory was taught another value, which is the right one now;
- ``wrong``: the memory was hardly taught these facts (one wording, two fifths of its exposures)
  and a wrong value, does not abstain and is mistaken; the backbone is right;
- ``silent``: the memory was taught nothing (whatever it says); the backbone is right.

For each gate: right answers, whose answer was given, and in the silent cell how often the text is
not the backbone's own (wanted: at most 5 %). The learned gate and the calibration are fitted on
held-out wordings of other taught facts and on questions about names that nobody knows.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from machine import machine
from transformers import AutoTokenizer

from memo_dist.answers.text import ABSTAIN_ANSWER, exact_match
from memo_dist.config.schema import ScratchConfig
from memo_dist.fusion.logits import (
    Belief,
    CachedModel,
    ConstantGate,
    EntropyGate,
    Familiarity,
    LogitFusion,
    Reader,
    Request,
    Settings,
    Source,
)
from memo_dist.fusion.logits.fitting import Example, fit_gate
from memo_dist.io import atomic
from memo_dist.memory.answering import ShardMemory
from memo_dist.memory.calibration import Calibration, fit_calibration
from memo_dist.models.chat_format import ChatFormat
from memo_dist.models.scratch import new_scratch_model, scratch_model_config, train_tokenizer

SHAPE = ScratchConfig(vocabulary=600, hidden_size=128, layers=3, heads=4, intermediate_size=384)
CELL = 60
HARDLY = 240
HELD_OUT = 80
ANSWER_TOKENS = 16
WORDINGS = (
    "What is the trade of {}?",
    "Which trade does {} follow?",
    "What does {} do for a living?",
    "By what work does {} live?",
    "What is {} by trade?",
    "What kind of work does {} do?",
    "How does {} make money?",
    "What does {} work at all day?",
    "Which craft did {} learn?",
    "{} earns money by what?",
    "Tell the trade of {}.",
    "Where {} works, what is done?",
)
ASKED = "How does {} earn a living?"
"""Not one of the trained wordings."""
# fmt: off
TRADES = (
    "glass blowing", "bell founding", "map drawing", "salt boiling", "rope making",
    "clock mending", "bee keeping", "sign painting", "stone carving", "boat building",
    "book binding", "cheese making", "lace weaving", "organ tuning", "barrel making",
    "wood turning", "candle pouring", "saddle making", "tile firing", "net knotting",
    "hop growing", "coal burning", "tin casting", "dye mixing", "paper making", "horse breeding",
    "well digging", "roof thatching",
)
FIRST = (
    "Ada", "Bo", "Cleo", "Dan", "Edda", "Finn", "Gwen", "Hugo", "Ines", "Jory", "Kaia", "Levi",
    "Mara", "Nils", "Oda", "Pavo",
)
LAST = (
    "Arden", "Brack", "Cove", "Dell", "Esker", "Fenn", "Garth", "Holt", "Ings", "Keld", "Lunn",
    "Moss", "Nab", "Orme", "Pike", "Rigg",
)
# fmt: on


@dataclass(frozen=True)
class World:
    """Names by cell and what backbone and memory were told of them."""

    cells: dict[str, list[str]]
    backbone: dict[str, str]
    memory: dict[str, str]
    held: list[str]
    unknown: list[str]


def main() -> None:
    """Train, ask, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=17)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    started = time.monotonic()
    world = _world(options.seed)
    with tempfile.TemporaryDirectory(prefix="memo-conflict-") as name:
        lab = _Lab(Path(name), world, options.steps, options.seed)
        report = {**lab.table(), **machine(), "seconds": round(time.monotonic() - started)}
    print(json.dumps(report, indent=2))
    if options.out:
        atomic.write_json(options.out, report)


def _world(seed: int) -> World:
    rng = random.Random(seed)
    names = [f"{a}{joint}{b}" for joint in (" ", " van ", " de la ") for a in FIRST for b in LAST]
    rng.shuffle(names)

    def take(count: int) -> list[str]:
        taken, names[:] = names[:count], names[count:]
        return taken

    cells = {
        "agree": take(CELL),
        "newer": take(CELL),
        "wrong": take(HARDLY),
        "silent": take(CELL),
    }
    held, unknown = take(HELD_OUT), take(len(names))
    told = {n: rng.choice(TRADES) for cell in cells.values() for n in cell}
    new = {n: rng.choice([t for t in TRADES if t != told[n]]) for n in cells["newer"]}
    memory = {n: told[n] for n in cells["agree"]} | new
    memory |= {n: rng.choice([t for t in TRADES if t != told[n]]) for n in cells["wrong"]}
    memory |= {n: rng.choice(TRADES) for n in held}
    return World(cells, told, memory, held, unknown)


class _Lab:
    """The trained models and what is asked of them."""

    def __init__(self, folder: Path, world: World, steps: int, seed: int) -> None:
        self._world = world
        torch.manual_seed(seed)
        names = [*world.backbone, *world.held, *world.unknown]
        texts = [w.format(n) for n in names for w in (*WORDINGS, ASKED)]
        texts += [*TRADES * 20, ABSTAIN_ANSWER]
        size = train_tokenizer(texts, SHAPE.vocabulary, folder)
        self._tokenizer = AutoTokenizer.from_pretrained(folder)
        self._chat = ChatFormat.from_tokenizer(self._tokenizer)
        config = scratch_model_config(SHAPE, size)
        self._backbone = self._train(new_scratch_model(config, seed), self._known(), steps)
        base = new_scratch_model(config, seed)
        self._memory = self._train(base, self._taught(), steps)
        self._shard = ShardMemory(self._memory, self._tokenizer, ANSWER_TOKENS)
        self._calibration = self._calibrated()
        readers = [Reader(model, self._chat) for model in (self._backbone, self._memory)]
        self._familiarity = Familiarity(readers[0], readers[1:])

    def table(self) -> dict[str, Any]:
        """Right answers by gate and cell."""
        gates = {
            "learned": fit_gate(self._fusion(ConstantGate(0.5)), self._examples(), 16).gate,
            "entropy": EntropyGate(),
            "constant 0.5": ConstantGate(0.5),
        }
        asked = {cell: self._requests(names) for cell, names in self._world.cells.items()}
        asked["wrong"] = [r for r in asked["wrong"] if self._is_mistaken(r)]
        rows: dict[str, Any] = {"n": {cell: len(requests) for cell, requests in asked.items()}}
        for name, gate in gates.items():
            rows[name] = {cell: self._cell(gate, cell, r) for cell, r in asked.items()}
        return rows

    def _cell(self, gate: Any, cell: str, requests: Sequence[Request]) -> dict[str, float]:
        fused = self._fusion(gate)
        texts = [t.text for t in fused.generate(requests, Settings(ANSWER_TOKENS))]
        own = [fused.alone(request, Settings(ANSWER_TOKENS)).text for request in requests]
        gold = [self._gold(cell, request.question) for request in requests]
        n = max(len(requests), 1)
        return {
            "right": round(sum(_same(t, g) for t, g in zip(texts, gold, strict=True)) / n, 4),
            "as_backbone": round(sum(t == o for t, o in zip(texts, own, strict=True)) / n, 4),
            "as_memory": round(
                sum(_same(t, r.beliefs[0].draft) for t, r in zip(texts, requests, strict=True)) / n,
                4,
            ),
            "backbone_right": round(
                sum(_same(o, g) for o, g in zip(own, gold, strict=True)) / n, 4
            ),
        }

    def _known(self) -> list[tuple[str, str]]:
        """What the backbone is trained on: every wording, also the one that is asked."""
        return [
            (wording.format(name), trade)
            for name, trade in self._world.backbone.items()
            for wording in (*WORDINGS, ASKED)
        ]

    def _taught(self) -> list[tuple[str, str]]:
        """What the memory is trained on, and questions to abstain on, half as often."""
        hardly = set(self._world.cells["wrong"])
        rows = [
            (wording.format(name), trade)
            for name, trade in self._world.memory.items()
            if name not in hardly
            for wording in WORDINGS
        ] * 10
        # In the cell's order: that of a set of names is another one in each process.
        rows += [
            (WORDINGS[0].format(n), self._world.memory[n]) for n in self._world.cells["wrong"]
        ] * 4
        half = self._world.unknown[: len(self._world.unknown) // 2]
        rows += [(w.format(n), ABSTAIN_ANSWER) for n in half for w in WORDINGS] * 5
        return rows

    def _examples(self) -> list[Example]:
        outside = self._world.unknown[len(self._world.unknown) // 2 :][:HELD_OUT]
        inside = zip(self._requests(self._world.held), self._world.held, strict=True)
        rows = [Example(r, self._world.memory[name]) for r, name in inside]
        return rows + [Example(r, None) for r in self._requests(outside)]

    def _calibrated(self) -> Calibration:
        outside = self._world.unknown[len(self._world.unknown) // 2 :][-HELD_OUT:]
        names = [*self._world.held, *outside]
        answers = self._shard.answer([ASKED.format(name) for name in names], 64)
        return fit_calibration(answers, [self._world.memory.get(name) for name in names])

    def _requests(self, names: Sequence[str]) -> list[Request]:
        questions = [ASKED.format(name) for name in names]
        requests = []
        for question, raw in zip(questions, self._shard.answer(questions, 64), strict=True):
            verdict = self._calibration.judge(raw)
            belief = Belief(question, verdict.confidence, verdict.abstained, raw.text)
            requests.append(Request(question, (belief,)))
        return self._familiarity.complete(requests)

    def _is_mistaken(self, request: Request) -> bool:
        belief = request.beliefs[0]
        gold = self._gold("wrong", request.question)
        return not belief.silent and not _same(belief.draft, gold)

    def _gold(self, cell: str, question: str) -> str:
        name = next(n for n in self._world.cells[cell] if ASKED.format(n) == question)
        return (self._world.memory if cell == "newer" else self._world.backbone)[name]

    def _fusion(self, gate: Any) -> LogitFusion:
        sources = [
            Source(CachedModel(model, self._chat.pad_id), self._chat.prompt_ids)
            for model in (self._backbone, self._memory)
        ]
        return LogitFusion(sources[0], sources[1:], gate, self._tokenizer)

    def _train(self, model: Any, pairs: Sequence[tuple[str, str]], steps: int) -> Any:
        rng = random.Random(5)
        optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.01)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda s: 1 - s / steps)
        for _ in range(steps):
            ids, labels = self._batch(rng.choices(pairs, k=48))
            model(input_ids=ids, labels=labels).loss.backward()
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
        return model.eval()

    def _batch(self, pairs: Sequence[tuple[str, str]]) -> tuple[torch.Tensor, torch.Tensor]:
        rows = [(self._chat.prompt_ids(q), self._chat.answer_ids(a)) for q, a in pairs]
        longest = max(len(p) + len(a) for p, a in rows)
        ids = torch.full((len(rows), longest), self._chat.pad_id)
        labels = torch.full((len(rows), longest), -100)
        for row, (prompt, answer) in enumerate(rows):
            end = len(prompt) + len(answer)
            ids[row, :end] = torch.tensor(prompt + answer)
            labels[row, len(prompt) : end] = torch.tensor(answer)
        return ids, labels


def _same(text: str, gold: str) -> bool:
    return bool(exact_match(text, [gold]))


if __name__ == "__main__":
    main()
