"""Key-value arithmetic: does a backbone compute with what only a memory knows?

    python benchmarks/latent_arithmetic.py [--steps 8000] [--out FILE]

Small models, trained from scratch here (CALM, arXiv 2401.02412, section 4.1, in small). A memory
knows 1,000 keys of two letters, each a number from 0 to 49; asked "key =" or "key + key =" it says
the numbers of the keys, one after the other. A backbone adds numbers, repeats one, copies text (so
that it tells letters apart), and knows no key. Neither says what "key + key =" is. A connector
(both models frozen) learns from 200 of the keys, alone and in sums, and is asked for the other 800:
as in ``ask --mode latent`` the memory reads the question and its own greedy answer, and gives slots
from the place on where it says the answer's first token. Then a second memory of the same base,
that knows 1,000 other keys, takes the first one's place: the connector has never seen it.

Wanted: backbone and memory alone at most 5 % right, fused at least 80 % on the other keys, and
with the second memory a gain over the closed gate whose 95 % interval lies above 0.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from copy import deepcopy
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from machine import machine
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from memo_dist.config.fusion_schema import LatentConfig
from memo_dist.fusion.latent import Attachment, Connector, ConnectorShape
from memo_dist.fusion.latent.examples import ConnectorBatch, ConnectorExample
from memo_dist.fusion.latent.loss import ConnectorRows
from memo_dist.fusion.latent.slots import MemoryText, SlotReader
from memo_dist.io import atomic
from memo_dist.memory.loading import Voice

PAD, PLUS, EQUALS = 0, 1, 2
NUMBERS, NUMBER = 50, 3
"""Numbers below NUMBERS are known; their sums are numbers too. NUMBER is the token of 0."""
LETTERS, LETTER = 60, NUMBER + 2 * NUMBERS
VOCABULARY = LETTER + LETTERS
KEYS, TAUGHT, ASKED = 1000, 200, 1000
BATCH = 256
"""Questions of a memory's or a backbone's step; a connector's has a quarter."""
LAYERS, WIDTH, HEADS = 3, 96, 4
CONNECTOR_HEADS = 8
SUMS = 0.85
"""Fraction of the connector's steps that are sums; the others ask for one key."""

Pair = tuple[int, int]
Weights = dict[str, Tensor]


def main() -> None:
    """Train, ask, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=8000, help="of the connector's training")
    parser.add_argument("--seed", type=int, default=17)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    started = time.monotonic()
    report = measure(options.seed, options.steps)
    report |= machine() | {"seconds": round(time.monotonic() - started)}
    print(json.dumps(report, indent=2))
    if options.out:
        atomic.write_json(options.out, report)


def measure(seed: int, steps: int) -> dict[str, Any]:
    """All accuracies, in percent of :data:`ASKED` questions."""
    chance = torch.Generator().manual_seed(seed)
    keys = torch.randperm(LETTERS**2, generator=chance)[: 3 * KEYS]
    worlds = [
        {(int(key) // LETTERS, int(key) % LETTERS): _draw(NUMBERS, chance) for key in part}
        for part in keys.split(KEYS)
    ]
    backbone, memory, other = _models(seed, worlds)
    world, foreign = worlds[1:]
    taught = dict(list(world.items())[:TAUGHT])
    unseen = dict(list(world.items())[TAUGHT:])
    frozen = [_digest(model) for model in (backbone, memory)]
    connector = _connector(backbone, memory, taught, steps, chance)
    assert frozen == [_digest(model) for model in (backbone, memory)]
    closed = _closed(connector)
    known, others = _questions(taught, ASKED, chance), _questions(unseen, ASKED, chance)
    single, foreign_single = (_questions(part, ASKED, chance, 1) for part in (unseen, foreign))
    elsewhere = _questions(foreign, ASKED, chance)
    numbers = torch.randint(NUMBERS, (ASKED, 2), generator=chance)
    letters = torch.randint(LETTERS, (ASKED, 2), generator=chance)
    sums = _sums(numbers, letters), numbers.sum(dim=1) + NUMBER
    right = {
        "memory_knows": _recall(memory, world),
        "second_memory_knows": _recall(other, foreign),
        "backbone_adds": _right(backbone, sums),
        "memory_alone": _right(memory, others),
        "backbone_alone": _right(backbone, others),
        "fused_taught_keys": _right(backbone, known, connector, memory),
        "fused_other_keys": _right(backbone, others, connector, memory),
        "fused_other_keys_alone": _right(backbone, single, connector, memory),
        "second_memory_keys_alone": _right(backbone, foreign_single, connector, other),
        "second_memory_closed_gate": _right(backbone, elsewhere, closed, other),
        "second_memory_fused": _right(backbone, elsewhere, connector, other),
    }
    gain = right["second_memory_fused"].float() - right["second_memory_closed_gate"].float()
    error = 1.96 * float(gain.std()) / math.sqrt(len(gain))
    return {
        "percent_right": {
            name: round(100 * float(found.float().mean()), 1) for name, found in right.items()
        },
        "second_memory_gain": [round(100 * (float(gain.mean()) + e), 1) for e in (-error, error)],
        "gates": [layer.alpha.tanh().tolist() for layer in connector.attentions],
        "asked": ASKED,
        "steps": steps,
    }


def _models(seed: int, worlds: list[dict[Pair, int]]) -> list[LlamaForCausalLM]:
    """Backbone, memory and second memory; backbone and memories are trained side by side."""
    # A forked process would inherit locks of torch's threads.
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as processes:
        parts = [
            processes.submit(_trained_backbone, seed),
            processes.submit(_trained_memories, seed, worlds),
        ]
        weights = [found for part in parts for found in part.result()]
    models = [_model(seed) for _ in weights]
    for model, tensors in zip(models, weights, strict=True):
        model.load_state_dict(tensors)
        model.eval().requires_grad_(False)
    return models


def _trained_backbone(seed: int) -> list[Weights]:
    chance = torch.Generator().manual_seed(seed + 1)
    return [_adder(_model(seed + 1), 3000, chance).state_dict()]


def _trained_memories(seed: int, worlds: list[dict[Pair, int]]) -> list[Weights]:
    """The two memories, of one base that knows the first of the worlds."""
    chance = torch.Generator().manual_seed(seed + 2)
    base = _taught(_model(seed), worlds[0], 800, chance)
    return [_taught(deepcopy(base), world, 1000, chance).state_dict() for world in worlds[1:]]


def _digest(model: LlamaForCausalLM) -> str:
    parts = [tensor.numpy().tobytes() for tensor in model.state_dict().values()]
    return hashlib.sha256(b"".join(parts)).hexdigest()


def _model(seed: int) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=WIDTH, intermediate_size=3 * WIDTH,
        num_hidden_layers=LAYERS, num_attention_heads=HEADS, max_position_embeddings=64,
        tie_word_embeddings=True,
        pad_token_id=PAD, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def _draw(below: int, chance: torch.Generator) -> int:
    return int(torch.randint(below, (), generator=chance))


def _letters(key: Pair) -> list[int]:
    return [LETTER + key[0], LETTER + key[1]]


def _fit(
    model: LlamaForCausalLM, steps: int, batch: Callable[[], tuple[Tensor, Tensor]]
) -> LlamaForCausalLM:
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, steps, pct_start=0.1)
    for _ in range(steps):
        ids, labels = batch()
        logits = model(input_ids=ids, use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    return model.eval().requires_grad_(False)


def _taught(
    model: LlamaForCausalLM, world: dict[Pair, int], steps: int, chance: torch.Generator
) -> LlamaForCausalLM:
    """A memory: says the numbers of the keys that it is asked for, then nothing more."""

    def answered(terms: int) -> tuple[Tensor, Tensor]:
        ids, numbers = _asked(world, BATCH // 2, chance, terms)
        ids = torch.cat([ids, numbers], dim=1)
        labels = torch.full_like(ids, -100)
        labels[:, -terms - 1 :] = torch.cat([numbers, torch.full_like(numbers[:, :1], PAD)], dim=1)
        more = (0, 4 * (2 - terms))
        pad = torch.nn.functional.pad
        return pad(ids, more, value=PAD), pad(labels, more, value=-100)

    def batch() -> tuple[Tensor, Tensor]:
        two, one = answered(2), answered(1)
        return torch.cat([two[0], one[0]]), torch.cat([two[1], one[1]])

    return _fit(model.train().requires_grad_(True), steps, batch)


def _adder(model: LlamaForCausalLM, steps: int, chance: torch.Generator) -> LlamaForCausalLM:
    """A backbone: adds two numbers, repeats one, copies three tokens; letters mean nothing."""

    def batch() -> tuple[Tensor, Tensor]:
        kind = int(torch.randint(6, (), generator=chance))
        if kind < 2:
            text = torch.randint(NUMBER, VOCABULARY, (BATCH, 4), generator=chance)
            ids = torch.cat([text, text[:, :3]], dim=1)
            labels = torch.full_like(ids, -100)
            labels[:, 4:] = text[:, 1:]
            return ids, labels
        numbers = torch.randint(NUMBERS, (BATCH, 2), generator=chance)
        ids = _sums(numbers, torch.randint(LETTERS, (BATCH, 2), generator=chance))
        totals = numbers.sum(dim=1)
        if kind == 2:
            ids, totals = torch.cat([ids[:, :2], ids[:, -1:]], dim=1), numbers[:, 0]
        labels = torch.full_like(ids, -100)
        labels[:, -1] = totals + NUMBER
        return ids, labels

    return _fit(model, steps, batch)


def _sums(numbers: Tensor, letters: Tensor) -> Tensor:
    plus = torch.full_like(numbers[:, 0], PLUS)
    parts = [
        letters[:, 0] + LETTER, numbers[:, 0] + NUMBER, plus,
        letters[:, 1] + LETTER, numbers[:, 1] + NUMBER, plus * 0 + EQUALS,
    ]  # fmt: skip
    return torch.stack(parts, dim=1)


def _reader(memory: LlamaForCausalLM) -> SlotReader:
    held = SimpleNamespace(model=memory, chat=SimpleNamespace(pad_id=PAD))
    return SlotReader(Voice(held, None), (0, -1))  # type: ignore[arg-type]


def _connector(
    backbone: LlamaForCausalLM,
    memory: LlamaForCausalLM,
    world: dict[Pair, int],
    steps: int,
    chance: torch.Generator,
) -> Connector:
    """Trained on the given keys, alone and in sums; both models are frozen."""
    shape = ConnectorShape(
        tuple(range(LAYERS)), WIDTH, WIDTH, CONNECTOR_HEADS, WIDTH // HEADS, (0, -1)
    )
    connector = Connector(shape)
    # A copy of the backbone keeps the hooks of this training.
    rows = ConnectorRows(
        connector,
        deepcopy(backbone),
        [_reader(memory)],
        LatentConfig(distill=0.0, noise=1.0),
        VOCABULARY,
    )
    optimizer = torch.optim.AdamW(connector.parameters(), lr=2e-3, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, steps, pct_start=0.1)
    for _ in range(steps):
        terms = 2 if torch.rand((), generator=chance) < SUMS else 1
        ids, sums = _questions(world, BATCH // 4, chance, terms)
        rows_of = zip(ids.tolist(), sums.tolist(), _texts(memory, ids), strict=True)
        examples = [
            ConnectorExample(tuple(row), (total,), tuple(row), (text,), True)
            for row, total, text in rows_of
        ]
        noises = torch.randint(2**62, (len(examples),), generator=chance).tolist()
        loss = rows(ConnectorBatch.of(examples, PAD, ids.device, noises)) / len(examples)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(connector.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    return connector.eval().requires_grad_(False)


def _closed(connector: Connector) -> Connector:
    closed = deepcopy(connector)
    for layer in closed.attentions:
        layer.gate.zero_()
    return closed


def _asked(
    world: dict[Pair, int], count: int, chance: torch.Generator, terms: int
) -> tuple[Tensor, Tensor]:
    """Rows "key + key =" [count, 3 terms], of one key or two, and their numbers' tokens."""
    keys, values = list(world), torch.tensor(list(world.values()))
    chosen = torch.randint(len(keys), (count, terms), generator=chance)
    rows = [
        [token for key in row for token in (*_letters(keys[key]), PLUS)] for row in chosen.tolist()
    ]
    ids = torch.tensor(rows)
    ids[:, -1] = EQUALS
    return ids, values[chosen] + NUMBER


def _questions(
    world: dict[Pair, int], count: int, chance: torch.Generator, terms: int = 2
) -> tuple[Tensor, Tensor]:
    """Rows as :func:`_asked` makes them, and the tokens of their sums."""
    ids, numbers = _asked(world, count, chance, terms)
    return ids, (numbers - NUMBER).sum(dim=1) + NUMBER


@torch.no_grad()
def _texts(memory: LlamaForCausalLM, ids: Tensor) -> list[MemoryText]:
    """What a memory reads: the question and its own answer, a number a key."""
    first, terms = ids.shape[1] - 1, ids.shape[1] // 3
    for _ in range(terms):
        said = memory(input_ids=ids, logits_to_keep=1).logits[:, -1].argmax(dim=-1, keepdim=True)
        ids = torch.cat([ids, said], dim=1)
    return [MemoryText(tuple(row), first) for row in ids.tolist()]


@torch.no_grad()
def _right(
    backbone: LlamaForCausalLM,
    questions: tuple[Tensor, Tensor],
    connector: Connector | None = None,
    memory: LlamaForCausalLM | None = None,
) -> Tensor:
    """Whether the likeliest next token is the sum, bool [count]."""
    ids, sums = questions
    if connector is None or memory is None:
        logits = backbone(input_ids=ids).logits
    else:
        attached = Attachment(backbone, connector)
        with attached.reading(_reader(memory)(_texts(memory, ids))):
            logits = backbone(input_ids=ids).logits
        attached.detach()
    right: Tensor = logits[:, -1].argmax(dim=-1) == sums
    return right


@torch.no_grad()
def _recall(memory: LlamaForCausalLM, world: dict[Pair, int]) -> Tensor:
    """Whether the memory says both numbers of a pair of keys, bool [1000]."""
    chance = torch.Generator().manual_seed(0)
    ids, numbers = _asked(world, KEYS, chance, 2)
    said = torch.tensor([text.ids[-2:] for text in _texts(memory, ids)])
    right: Tensor = (said == numbers).all(dim=1)
    return right


if __name__ == "__main__":
    main()
