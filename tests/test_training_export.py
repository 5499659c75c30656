"""Exported folders: names and files as transformers and vLLM read them, verified by a reload."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from trained_bank import adapter_entry
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    MixtralConfig,
    Qwen2Config,
)

from memo_dist.config import load_config
from memo_dist.errors import RunError, UsageError
from memo_dist.io import atomic
from memo_dist.memory.answering import FEATURES
from memo_dist.memory.bank import Bank
from memo_dist.memory.loading import AdapterShards, SharedBases, adapter_name, choose_loaded
from memo_dist.memory.manifest import BankManifest, BaseRef
from memo_dist.models.chat_format import ChatFormat
from memo_dist.models.identity import identify, weight_files
from memo_dist.models.scratch import train_tokenizer
from memo_dist.models.weight_files import StoredWeights, WeightWriter, add_weights
from memo_dist.training.export import build_folder
from memo_dist.training.lora import folded_weights
from memo_dist.training.verify import PROBE, PROBE_DTYPE, verify_model

QUESTIONS = ["Who runs Tarn?", "When did the Oder plant open to the public?", "Why?"]
SIZES = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}
FAMILIES = {
    "llama-tied": lambda size: LlamaConfig(vocab_size=size, tie_word_embeddings=True, **SIZES),
    "qwen2": lambda size: Qwen2Config(vocab_size=size, tie_word_embeddings=False, **SIZES),
    "mixtral": lambda size: MixtralConfig(vocab_size=size, num_local_experts=4, **SIZES),
}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(QUESTIONS, 300, folder)
    return folder


def new_model(family: str, tokenizer: Path) -> torch.nn.Module:
    config = FAMILIES[family](len(AutoTokenizer.from_pretrained(tokenizer)))
    torch.manual_seed(7)
    return AutoModelForCausalLM.from_config(config).float().eval()


def write_whole(model, folder: Path) -> None:
    writer = WeightWriter(folder)
    add_weights(writer, model, model.state_dict().items())
    writer.close()
    model.config.dtype = str(model.dtype).removeprefix("torch.")
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(folder)
    model.generation_config.save_pretrained(folder)


def write_final(model, tokenizer: Path, folder: Path) -> Path:
    """A training's ``final/``: weights (or an adapter), tokenizer with its template, probes."""
    loaded = AutoTokenizer.from_pretrained(tokenizer)
    chat = ChatFormat.from_tokenizer(loaded)
    chat.install(loaded)
    if isinstance(model, PeftModel):
        model.save_pretrained(folder)
    else:
        write_whole(model, folder)
    loaded.save_pretrained(folder)
    probe = {}
    for index, question in enumerate(QUESTIONS):
        ids = torch.tensor(chat.prompt_ids(question))
        with torch.no_grad():
            probe[f"ids.{index}"] = ids
            probe[f"logits.{index}"] = model(input_ids=ids[None]).logits[0, -1].clone()
    dtype = str(next(model.parameters()).dtype).removeprefix("torch.")
    save_file(probe, folder / PROBE, {PROBE_DTYPE: dtype})
    return folder


def disturb(final: Path, noise: float) -> None:
    """Noise of so many standard deviations on the logits that the trainer recorded."""
    probe = load_file(final / PROBE)
    with safe_open(final / PROBE, "pt") as file:
        metadata = file.metadata()
    generator = torch.Generator().manual_seed(3)
    for name in [name for name in probe if name.startswith("logits")]:
        logits = probe[name].float()
        probe[name] = logits + noise * logits.std() * torch.randn(logits.shape, generator=generator)
    save_file(probe, final / PROBE, metadata)


def adapter_of(base: Path, seed: int):
    """A base with a LoRA adapter that changes something."""
    model = AutoModelForCausalLM.from_pretrained(base)
    lora = LoraConfig(r=4, lora_alpha=12, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(model, lora)
    generator = torch.Generator().manual_seed(seed)
    for name, value in model.named_parameters():
        if "lora_B" in name:
            value.data = 0.2 * torch.randn(value.shape, generator=generator)
    return model.eval()


@pytest.fixture(scope="module")
def base(tokenizer, tmp_path_factory):
    """A base model folder with a tokenizer."""
    folder = tmp_path_factory.mktemp("base") / "base"
    model = new_model("llama-tied", tokenizer)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(tokenizer).save_pretrained(folder)
    return identify("tiny", folder)


@pytest.mark.parametrize("family", FAMILIES)
def test_layout_and_names_are_those_of_the_model_class(family, tokenizer, base, tmp_path):
    """What vLLM's loader needs: config.json with the class, plain names, one set of weights."""
    model = new_model(family, tokenizer)
    final = write_final(model, tokenizer, tmp_path / "final")
    build_folder(final, tmp_path / "memory", load_config(), base)
    theirs = tmp_path / "theirs"
    model.save_pretrained(theirs)
    ours = StoredWeights(tmp_path / "memory")
    assert set(ours.names) == set(StoredWeights(theirs).names)
    files = {path.name for path in (tmp_path / "memory").iterdir()}
    assert {"config.json", "generation_config.json", "model.safetensors"} <= files
    assert {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja"} <= files
    assert not [name for name in files if name.endswith((".bin", ".pt", ".py"))]
    config = atomic.read_json(tmp_path / "memory" / "config.json")
    assert config["architectures"] == [type(model).__name__]
    assert config["dtype"] == "float32"
    assert "auto_map" not in config
    reloaded = AutoModelForCausalLM.from_pretrained(tmp_path / "memory").eval()
    ids = torch.tensor([[1, 5, 9, 4]])
    assert torch.allclose(reloaded(ids).logits, model(ids).logits, atol=1e-5)


def test_many_files_have_an_index_and_load_alike(tokenizer, tmp_path):
    model = new_model("qwen2", tokenizer)
    writer = WeightWriter(tmp_path / "split", file_bytes=40_000)
    for name, tensor in model.state_dict().items():
        writer.add(name, tensor)
    writer.close()
    model.config.save_pretrained(tmp_path / "split")
    files = weight_files(tmp_path / "split")
    assert len(files) > 2
    assert files[0].name == f"model-00001-of-{len(files):05d}.safetensors"
    assert all(file.stat().st_size < 45_000 for file in files)
    index = json.loads((tmp_path / "split" / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"]) == set(model.state_dict())
    assert index["metadata"]["total_size"] == sum(v.nbytes for v in model.state_dict().values())
    assert not list((tmp_path / "split").glob(".tmp*"))
    reloaded = AutoModelForCausalLM.from_pretrained(tmp_path / "split")
    for name, value in reloaded.state_dict().items():
        assert torch.equal(value, model.state_dict()[name]), name


def test_bfloat16_is_stored_and_verified(tokenizer, base, tmp_path):
    final = write_final(new_model("qwen2", tokenizer), tokenizer, tmp_path / "final")
    config = load_config([], ["export.dtype=bfloat16"])
    build_folder(final, tmp_path / "memory", config, base)
    reloaded = AutoModelForCausalLM.from_pretrained(tmp_path / "memory", dtype="auto")
    assert reloaded.dtype == torch.bfloat16


def damage(folder: Path, edit) -> None:
    path = folder / "model.safetensors"
    weights = load_file(path)
    edit(weights)
    save_file(weights, path, metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda w: w["model.norm.weight"].add_(1e-3), "model.norm.weight differs"),
        (lambda w: w.pop("model.norm.weight"), "missing or unknown: model.norm.weight"),
        (lambda w: w.update(extra=torch.zeros(2)), "missing or unknown: extra"),
        (lambda w: w.update({"model.norm.weight": torch.zeros(0)}), "model.norm.weight has shape"),
    ],
)
def test_wrong_weights_are_found(edit, message, tokenizer, base, tmp_path):
    final = write_final(new_model("qwen2", tokenizer), tokenizer, tmp_path / "final")
    build_folder(final, tmp_path / "memory", load_config(), base)
    damage(tmp_path / "memory", edit)
    with pytest.raises(RunError, match=message):
        verify_model(final, StoredWeights(final), tmp_path / "memory")


def test_wrong_logits_are_found(tokenizer, base, tmp_path):
    final = write_final(new_model("qwen2", tokenizer), tokenizer, tmp_path / "final")
    damage(final, lambda weights: weights["lm_head.weight"].mul_(1.1))
    with pytest.raises(RunError, match="logits of 3 probes differ"):
        build_folder(final, tmp_path / "memory", load_config(), base)


@pytest.mark.parametrize("noise", [0.03, 0.5])
def test_half_precision_may_round_single_logits_but_not_all(noise, tokenizer, base, tmp_path):
    """Two attentions over equal bfloat16 weights differ by more than 0.25 in some logits."""
    final = write_final(new_model("qwen2", tokenizer).bfloat16(), tokenizer, tmp_path / "final")
    disturb(final, noise)
    if noise < 0.1:
        build_folder(final, tmp_path / "memory", load_config(), base)
    else:
        with pytest.raises(RunError, match="logits of 3 probes differ"):
            build_folder(final, tmp_path / "memory", load_config(), base)


@pytest.mark.parametrize("adapter", ["folded", "kept"])
def test_an_adapter_of_a_bfloat16_training_is_exported_on_a_float32_base(
    adapter, tokenizer, base, tmp_path
):
    final = write_final(adapter_of(base.path, seed=1).bfloat16(), tokenizer, tmp_path / "final")
    disturb(final, 0.03)
    build_folder(final, tmp_path / "memory", load_config([], [f"export.adapter={adapter}"]), base)
    disturb(final, 0.5)
    with pytest.raises(RunError, match="logits of 3 probes differ"):
        build_folder(
            final, tmp_path / "again", load_config([], [f"export.adapter={adapter}"]), base
        )


def test_folded_adapter_equals_attached_adapter(tokenizer, base, tmp_path):
    attached = adapter_of(base.path, seed=1)
    final = write_final(attached, tokenizer, tmp_path / "final")
    build_folder(final, tmp_path / "memory", load_config(), base)
    folded = AutoModelForCausalLM.from_pretrained(tmp_path / "memory").eval()
    plain = AutoModelForCausalLM.from_pretrained(base.path).eval()
    ids = torch.randint(0, 200, (3, 20), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        logits = attached(input_ids=ids).logits
        assert torch.allclose(folded(ids).logits, logits, atol=1e-4)
        assert not torch.allclose(plain(ids).logits, logits, atol=1e-2)
    theirs = attached.merge_and_unload().state_dict()
    for name, value in folded.state_dict().items():
        assert torch.allclose(value, theirs[name], atol=1e-6), name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"use_dora": True}, "use_dora=True cannot be folded"),
        ({"peft_type": "IA3"}, "type IA3"),
    ],
)
def test_other_adapters_are_not_folded(change, message, tokenizer, base, tmp_path):
    final = write_final(adapter_of(base.path, seed=1), tokenizer, tmp_path / "final")
    path = final / "adapter_config.json"
    atomic.write_json(path, {**atomic.read_json(path), **change})
    with pytest.raises(RunError, match=message):
        list(folded_weights(base.path, final))


def test_adapter_of_another_base_is_not_folded(tokenizer, base, tmp_path):
    final = write_final(adapter_of(base.path, seed=1), tokenizer, tmp_path / "final")
    other = tmp_path / "other"
    write_whole(new_model("mixtral", tokenizer), other)
    with pytest.raises(RunError, match="does not have"):
        list(folded_weights(other, final))


@pytest.fixture(scope="module")
def adapters(tokenizer, base, tmp_path_factory) -> dict[int, Path]:
    """Three exported adapters of one base."""
    root = tmp_path_factory.mktemp("adapters")
    config = load_config([], ["export.adapter=kept"])
    folders = {}
    for shard in (0, 1, 2):
        final = write_final(adapter_of(base.path, shard), tokenizer, root / f"final-{shard}")
        folders[shard] = root / "memory" / f"shard-{shard}"
        build_folder(final, folders[shard], config, base)
    return folders


def test_kept_adapter_is_a_peft_folder_without_a_machine_path(adapters, base):
    files = {path.name for path in adapters[0].iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json"} <= files
    assert "model.safetensors" not in files
    settings = atomic.read_json(adapters[0] / "adapter_config.json")
    assert settings["base_model_name_or_path"] == base.name


@pytest.mark.parametrize("batch_size", [1, 4, 64])
def test_adapters_in_one_batch_answer_like_each_alone(batch_size, adapters, base):
    together = AdapterShards.load(base.path, adapters, max_answer_tokens=8)
    parts = {0: QUESTIONS, 1: QUESTIONS[::-1], 2: QUESTIONS[:1]}
    answers, read = together.answer(parts, batch_size), together.read(QUESTIONS, batch_size)
    assert list(answers) == list(read) == [0, 1, 2]
    first = FEATURES.index("first_logprob")
    for shard, folder in adapters.items():
        alone = AdapterShards.load(base.path, {shard: folder}, max_answer_tokens=8)
        liked = [found.logprob for found in alone.read(QUESTIONS, 1)[shard]]
        assert [found.logprob for found in read[shard]] == pytest.approx(liked, abs=1e-3)
        others = alone.answer({shard: parts[shard]}, 1)[shard]
        for one, other in zip(answers[shard], others, strict=True):
            assert one.text == other.text
            assert one.tokens == other.tokens
            assert one.features == pytest.approx(other.features, abs=1e-3)
    same = (answers[0][0], answers[1][-1], answers[2][0])
    assert len({answer.features[first] for answer in same}) == 3
    assert len({read[shard][0].logprob for shard in adapters}) == 3
    few = together.answer({2: QUESTIONS[:1], 0: QUESTIONS[1:]}, batch_size)
    texts = {shard: [answer.text for answer in found] for shard, found in few.items()}
    assert texts == {
        2: [answers[2][0].text],
        0: [answer.text for answer in answers[0][1:]],
    }


def test_banks_share_a_base_and_answer_like_each_alone(adapters, base):
    bases = SharedBases()
    first = AdapterShards.load(base.path, {0: adapters[0]}, 8, "auto", "hash", bases)
    second = AdapterShards.load(None, {0: adapters[1]}, 8, "auto", "hash", bases)
    assert first._memory.model is second._memory.model
    for bank, shard in ((first, 0), (second, 1)):
        alone = AdapterShards.load(base.path, {0: adapters[shard]}, max_answer_tokens=8)
        found, expected = bank.read(QUESTIONS, 4)[0], alone.read(QUESTIONS, 4)[0]
        assert [one.logprob for one in found] == pytest.approx(
            [one.logprob for one in expected], abs=1e-3
        )
    before = [one.text for one in second.answer({0: QUESTIONS}, 4)[0]]
    first.release()
    assert [one.text for one in second.answer({0: QUESTIONS}, 4)[0]] == before
    second.release()
    assert not bases.holds("hash")


def test_adapters_hold_the_base_once(adapters, base):
    model = AdapterShards.load(base.path, adapters, max_answer_tokens=8)._memory._model
    total = sum(parameter.numel() for parameter in model.parameters())
    own = sum(StoredWeights(folder).parameters() for folder in adapters.values())
    assert total == StoredWeights(base.path).parameters() + own
    names = {name for name, _ in model.named_parameters() if "lora_A" in name}
    assert all(any(f".{adapter_name(s)}." in name for name in names) for s in adapters)


def test_a_bank_of_adapters_answers(adapters, base):
    folder = adapters[0].parent
    bank_of(folder, adapters, BaseRef.of(base, "../base")).save(folder)
    (folder.parent / "base").symlink_to(base.path)
    answers = Bank.load(folder, max_answer_tokens=8).answer(QUESTIONS)
    assert [sorted(answer.shards) for answer in answers] == [[0, 1, 2]] * len(QUESTIONS)


def test_adapters_on_another_base_are_refused(adapters, base):
    folder = adapters[0].parent
    wrong = BaseRef("tiny", "0" * 64, base.vocabulary_hash, "../elsewhere")
    bank_of(folder, adapters, wrong).save(folder)
    with pytest.raises(UsageError, match="base of this bank's adapters is missing"):
        Bank.load(folder)
    (folder.parent / "elsewhere").symlink_to(base.path)
    with pytest.raises(RunError, match="were trained on 0000000000000000"):
        Bank.load(folder)


def bank_of(folder: Path, adapters: dict[int, Path], base: BaseRef) -> BankManifest:
    entries = (adapter_entry(shard, path) for shard, path in adapters.items())
    return BankManifest(base, tuple(entries))


@pytest.mark.parametrize(
    ("budget", "kept"), [(100, {0, 1, 2}), (60, {0, 1, 2}), (59, {0}), (40, {0}), (10, set())]
)
def test_as_many_shards_stay_loaded_as_leave_room_for_the_others(budget, kept):
    assert choose_loaded({0: 20, 1: 20, 2: 20}, budget) == kept
