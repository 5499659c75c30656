"""Recall without generation equals recall by greedy generation."""

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from memo_dist.cluster.ranks import Ranks
from memo_dist.config.schema import ScratchConfig, TrainConfig
from memo_dist.io import atomic
from memo_dist.models.chat_format import ChatFormat
from memo_dist.models.scratch import new_scratch_model, scratch_model_config, train_tokenizer
from memo_dist.synthesis.types import Reflection
from memo_dist.training.attention import borders
from memo_dist.training.batch import pack_row
from memo_dist.training.examples import tokenize
from memo_dist.training.model import load_rank_model
from memo_dist.training.recall import HELD_OUT, load_meter

ALONE = Ranks(0, 1, 0)
WORDS = ["red", "blue", "green", "old", "new", "far", "near"]


@pytest.fixture
def learnt(tmp_path):
    """A tiny model, its examples, and a step function that trains it on all of them."""
    rows = [
        Reflection(f"What is item {w}?", f"{w} {WORDS[i - 1]}", "direct", ("d",), ("d:0-9",), 0,
                   "g", "1", "r")
        for i, w in enumerate(WORDS)
    ]  # fmt: skip
    size = train_tokenizer((f"{r.question} {r.answer}" for r in rows * 9), 320, tmp_path)
    shape = ScratchConfig(size, hidden_size=32, layers=2, heads=2, intermediate_size=64)
    new_scratch_model(scratch_model_config(shape, size), seed=1).save_pretrained(tmp_path)
    chat = ChatFormat.from_tokenizer(AutoTokenizer.from_pretrained(tmp_path))
    examples, _ = tokenize(rows, chat, 64)
    atomic.write_jsonl(tmp_path / HELD_OUT, [row.to_json() for row in rows[:3]])
    rows_model = load_rank_model(tmp_path, TrainConfig(micro_batch_tokens=64)).rows
    optimizer = torch.optim.AdamW(rows_model.parameters(), lr=3e-3)

    def step():
        row = pack_row(examples, np.arange(len(examples)))
        rows_model(row.inputs, row.position_ids, row.lengths, row.keep, row.targets).backward()
        optimizer.step()
        optimizer.zero_grad()

    return tmp_path, examples, rows_model, step


def by_generation(model, examples, count):
    """Greedy decoding without a cache, one token after the other."""
    right = 0
    for index in range(count):
        tokens, prompt = examples.tokens(index).tolist(), int(examples.prompts[index])
        made = tokens[:prompt]
        while len(made) < len(tokens):
            where = borders([len(made)], torch.device("cpu"))
            positions = torch.arange(len(made))[None]
            with torch.no_grad():
                out = model(torch.tensor([made]), position_ids=positions, use_cache=False, **where)
            made.append(int(out.logits[0, -1].argmax()))
        right += made == tokens
    return right / count


def test_the_meter_counts_what_greedy_generation_would_answer(learnt):
    folder, examples, rows_model, step = learnt
    train = TrainConfig(eval_steps=1, eval_sample=100, micro_batch_tokens=64)
    meter = load_meter(folder, folder, examples, train, 1, ALONE)
    meter.prepare(None, torch.device("cpu"))
    seen = []
    for _ in range(12):
        found = meter.measure(rows_model, torch.device("cpu"))
        seen.append(found.trained)
        assert found.trained == by_generation(rows_model.model, examples, len(examples))
        assert found.held_out == by_generation(rows_model.model, examples, 3)
        for _ in range(8):
            step()
    assert seen[0] == 0.0
    assert seen[-1] > 0.5
    assert any(0 < value < 1 for value in seen), "told right from wrong example by example"


def test_nothing_is_measured_unless_asked_for(learnt):
    folder, examples, _, _ = learnt
    assert load_meter(folder, folder, examples, TrainConfig(), 1, ALONE) is None
