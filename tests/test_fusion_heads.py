"""Tokenizers that know more tokens than the head of their model, and banks of too many memories."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch
from fused_models import GATES, request
from peft import LoraConfig, get_peft_model
from trained_bank import SHAPE
from transformers import AutoTokenizer

from memo_dist.answering import modes
from memo_dist.errors import UsageError
from memo_dist.fusion import ops
from memo_dist.fusion.logits import CachedModel, LogitFusion, Settings, Source, TokenMap, answering
from memo_dist.fusion.logits import stage as gates
from memo_dist.io.runfolder import RunFolder
from memo_dist.models.chat_format import ChatFormat
from memo_dist.models.scratch import new_scratch_model, scratch_model_config, train_tokenizer

QUESTION = "Who keeps the mill?"


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """A tokenizer with one token more than the heads of two models."""
    folder = tmp_path_factory.mktemp("heads")
    texts = [QUESTION, "Ida keeps the mill by the river.", "I don't know."]
    train_tokenizer(texts, SHAPE.vocabulary, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    size = len(tokenizer)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|more|>"]})
    assert len(tokenizer) == size + 1
    heads = (size, size + 7)  # the second one's rows are padded
    loaded = [
        new_scratch_model(scratch_model_config(SHAPE, heads[i]), seed=i).eval() for i in (0, 1)
    ]
    return tokenizer, size, loaded


def sources(tokenizer, loaded):
    chat = ChatFormat.from_tokenizer(tokenizer)
    return [Source(CachedModel(model, chat.pad_id), chat.prompt_ids) for model in loaded]


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("sample", [False, True])
def test_a_tokenizer_longer_than_the_head_is_mixed(parts, gate, sample):
    tokenizer, size, loaded = parts
    first, second = sources(tokenizer, loaded)
    for order in ((first, second), (second, first)):  # either one may be the narrower
        fused = LogitFusion(order[0], [order[1]], GATES[gate], tokenizer)
        asked = [request(QUESTION, 1)]
        for how in ("parallel", "sequential"):
            (text,) = fused.generate(asked, Settings(6, sample, order=how))
            assert text.tokens
            assert all(token < size for token in text.tokens)


def test_an_adapters_head_is_its_base_models(parts):
    tokenizer, size, loaded = parts
    config = LoraConfig(r=2, target_modules=["q_proj"])
    peft = get_peft_model(copy.deepcopy(loaded[0]), config, adapter_name="shard-0").eval()
    chat = ChatFormat.from_tokenizer(tokenizer)
    shared = CachedModel(peft, chat.pad_id)
    assert shared.width == size
    rows = [Source(shared, chat.prompt_ids, name) for name in ("__base__", "shard-0")]
    fused = LogitFusion(rows[0], rows[1:], GATES["constant"], tokenizer)
    assert fused.generate([request(QUESTION, 1)], Settings(4))[0].tokens


def test_a_token_that_the_memory_cannot_write_has_no_partner(parts):
    """Nor is it ever read by the memory, whose embedding has no row for it."""
    tokenizer, size, loaded = parts
    head = size - 5
    tokens = TokenMap(tokenizer, tokenizer, head)
    mapped, lost = tokens.to_backbone(torch.zeros(2, head))
    assert mapped.shape[-1] >= size
    assert torch.isinf(mapped[:, head:]).all()
    assert (lost >= 0).all()
    assert all(token < head for i in range(size) for token in tokens.to_source(i) if i >= head)
    chat = ChatFormat.from_tokenizer(tokenizer)
    first, second = loaded
    memory = CachedModel(first, chat.pad_id)
    joined = Source(memory, chat.prompt_ids, None, TokenMap(tokenizer, tokenizer, memory.width))
    backbone = Source(CachedModel(second, chat.pad_id), chat.prompt_ids)
    fused = LogitFusion(backbone, [joined], GATES["constant"], tokenizer)
    assert fused.generate([request(QUESTION, 1)], Settings(4))[0].tokens


@pytest.mark.parametrize("shards", [ops.MAX_SOURCES - 1, ops.MAX_SOURCES, 100])
def test_a_bank_of_too_many_memories_is_refused_before_it_is_loaded(tmp_path, monkeypatch, shards):
    manifest = SimpleNamespace(shards=[None] * shards)
    monkeypatch.setattr(answering, "load_manifest", lambda folder: manifest)
    monkeypatch.setattr(gates, "load_manifest", lambda folder: manifest)
    monkeypatch.setattr(gates, "check_same_reflections", lambda *_: None)
    run = RunFolder(tmp_path)

    def load(*_, **__):
        raise LookupError("loaded")

    for module, name in ((answering, "find_backbone"), (modes, "_bank")):
        monkeypatch.setattr(module, name, load)
    monkeypatch.setattr(gates, "find_backbone", lambda *_: None)
    monkeypatch.setattr(gates.Bank, "of_run", load)
    config = SimpleNamespace(fusion=None)
    for begin in (
        lambda: modes.LogitsAnswerer(run, config, None),
        lambda: answering.FusedBank.load(run, config, None),
        lambda: gates.fit_run_gate(run, config),
    ):
        if shards < ops.MAX_SOURCES:
            with pytest.raises(LookupError, match="loaded"):
                begin()
        else:
            with pytest.raises(UsageError, match=rf"{shards} shards.*at most 31.*--shards 31"):
                begin()
