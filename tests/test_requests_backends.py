"""Backends against a real HTTP server and a real local model; what the server itself answers."""

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import pytest
from request_toy import PAIRS, request, server

from memo_dist.config.model_schema import GeneratorConfig
from memo_dist.llm.backends.base import (
    Answer,
    RateLimited,
    RequestRefused,
    ServerFault,
)
from memo_dist.llm.backends.make import make_backends
from memo_dist.llm.requests import Message, Request
from memo_dist.llm.validation import fault_of
from memo_dist.testing.answers import answer_text


@pytest.mark.parametrize("kind", ["openai", "anthropic"])
def test_hosted_backends_speak_their_api(kind, tmp_path, monkeypatch):
    monkeypatch.setenv("MEMO_TEST_KEY", "sk-test-1234")
    log = tmp_path / "log"
    with server("--key-env", "MEMO_TEST_KEY", "--log", str(log)) as url:
        base = url if kind == "openai" else url.removesuffix("/v1")
        settings = GeneratorConfig(kind=kind, model="m", urls=[base], api_key_env="MEMO_TEST_KEY")
        text = "The cat sat on the mat. The dog slept all day long."
        turns = (Message("system", "Be brief."), Message("user", text))

        async def run() -> list[Answer]:
            (backend,) = make_backends(settings)
            try:
                one = request("", messages=turns)
                free = replace(one, schema=None)
                return [await backend.complete(r, f"{r.key}-0") for r in (one, free)]
            finally:
                await backend.close()

        structured, free = asyncio.run(run())
    assert fault_of(structured, PAIRS) == fault_of(free, None) == ""
    assert "cat" in structured.text + free.text
    assert structured.usage.prompt >= 12
    assert structured.usage.completion > 5


@pytest.mark.parametrize(
    ("fault", "expected"),
    [("429", RateLimited), ("500", ServerFault), ("reset", ServerFault), ("timeout", ServerFault)],
)
def test_faults_of_a_server_are_told_apart(fault, expected):
    with server("--fault", f"{fault}=1.0", "--retry-after", "3") as url:
        settings = GeneratorConfig(kind="openai", model="m", urls=[url], request_timeout=0.5)

        async def run() -> Answer:
            (backend,) = make_backends(settings)
            try:
                return await backend.complete(request("One."), "a-0")
            finally:
                await backend.close()

        with pytest.raises(expected) as error:
            asyncio.run(run())
    if fault == "429":
        assert error.value.retry_after == 3


@pytest.mark.parametrize("fault", ["slow", "whitespace"])
def test_slow_answers_arrive_and_blank_loops_are_cut_off(fault):
    with server("--fault", f"{fault}=1.0") as url:

        async def run() -> Answer:
            (backend,) = make_backends(GeneratorConfig(kind="openai", model="m", urls=[url]))
            try:
                return await backend.complete(request("The cat sat on the mat."), "a-0")
            finally:
                await backend.close()

        answer = asyncio.run(run())
    found = fault_of(answer, PAIRS)
    assert found == "" if fault == "slow" else found.startswith("truncated")


def test_the_dummy_answers_any_schema_from_the_prompt():
    schema = {
        "type": "object",
        "properties": {
            "names": {"type": "array", "items": {"$ref": "#/$defs/name"}, "minItems": 2},
            "verdict": {"enum": ["yes", "no"]},
            "score": {"type": "integer", "minimum": 1, "maximum": 5},
            "note": {"type": ["string", "null"]},
            "pair": {"anyOf": [{"type": "object", "properties": {"a": {"const": 3}}}]},
        },
        "required": ["names", "verdict", "score", "note", "pair"],
        "additionalProperties": False,
        "$defs": {"name": {"type": "string", "maxLength": 8}},
    }
    text = answer_text("The cat sat on the mat. The dog slept all day.", schema, "seed")
    assert fault_of(Answer(text, "stop"), json.dumps(schema)) == ""
    assert text == answer_text("The cat sat on the mat. The dog slept all day.", schema, "seed")


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory) -> Path:
    """A random Llama of some thousand weights with a byte-level tokenizer."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("model")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: n for n, token in enumerate([*alphabet, "<end>"])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>")
    fast.chat_template = "{% for m in messages %}{{ m['content'] }}\n{% endfor %}"
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 512}
    ends = {"eos_token_id": len(alphabet), "bos_token_id": len(alphabet)}
    config = LlamaConfig(vocab_size=len(vocabulary), **shape, **heads, **ends)
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def test_a_local_model_is_held_to_the_schema(tiny_model):
    """Random weights would write noise: what parses is the grammar's doing."""
    schema = {
        "type": "object",
        "properties": {"yes": {"type": "boolean"}, "kind": {"enum": ["direct", "cross"]}},
        "required": ["yes", "kind"],
        "additionalProperties": False,
    }
    told = request("Is it?", schema=json.dumps(schema), max_tokens=60)

    async def run(structured: str, *requests: Request) -> list[Answer]:
        settings = GeneratorConfig(
            kind="transformers", model=str(tiny_model), structured=structured
        )
        (backend,) = make_backends(settings)
        try:
            return [await backend.complete(one, "a-0") for one in requests]
        finally:
            await backend.close()

    warm = [replace(told, temperature=1.0, seed=seed) for seed in range(3)]
    answers = asyncio.run(run("server", told, *warm))
    assert [fault_of(answer, told.schema) for answer in answers] == [""] * 4
    assert all(" " not in answer.text and "\n" not in answer.text for answer in answers)
    assert answers[0].usage.prompt == 7
    (free,) = asyncio.run(run("prompt", told))
    assert fault_of(free, told.schema) != ""
    assert free.finish_reason == "length"
    with pytest.raises(RequestRefused, match="the prompt has 601 tokens, the model reads 512"):
        asyncio.run(run("server", request("x" * 600)))
