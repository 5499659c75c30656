"""Frozen language models: one rule for dtype and safety, and errors that name the wrong key."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from memo_dist.config import load_config
from memo_dist.config.model_schema import ExecutiveConfig, GeneratorConfig
from memo_dist.config.schema import Config, ScratchConfig
from memo_dist.errors import UsageError
from memo_dist.evaluation import methods
from memo_dist.evaluation.trained import Trained
from memo_dist.fusion.backbone import Backbone, Prompt, find_backbone
from memo_dist.io.runfolder import RunFolder
from memo_dist.llm.backends.transformers import TransformersBackend
from memo_dist.memory.answering import ShardMemory
from memo_dist.memory.loading import AdapterShards
from memo_dist.models.batching import by_length, in_batches
from memo_dist.models.chat_format import ChatFormat
from memo_dist.models.identity import BaseModel, identify
from memo_dist.models.reader import Reader
from memo_dist.models.scratch import new_scratch_model, scratch_model_config, train_tokenizer
from memo_dist.scaling.laws import Interval
from memo_dist.scaling.plan_models import backbone, choose_memory

SHAPE = ScratchConfig(vocabulary=300, hidden_size=32, layers=1, heads=2, intermediate_size=64)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny model, stored in bfloat16."""
    folder = tmp_path_factory.mktemp("model")
    size = train_tokenizer(["Who founded Tarn Works? Ida Brandt."], SHAPE.vocabulary, folder)
    model = new_scratch_model(scratch_model_config(SHAPE, size), seed=1)
    model.to(torch.bfloat16).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def remote(folder, tmp_path_factory):
    """The same weights, whose configuration is code beside them."""
    copy = tmp_path_factory.mktemp("remote") / "model"
    shutil.copytree(folder, copy)
    config = json.loads((copy / "config.json").read_text())
    config |= {
        "model_type": "own",
        "auto_map": {"AutoConfig": "code.Own", "AutoModelForCausalLM": "code.OwnModel"},
    }
    (copy / "config.json").write_text(json.dumps(config))
    (copy / "code.py").write_text("open('RAN', 'w')\n")
    return copy


@pytest.fixture(scope="module")
def pickles(folder, tmp_path_factory):
    """The same model, its weights as a pickle."""
    copy = tmp_path_factory.mktemp("pickles") / "model"
    shutil.copytree(folder, copy)
    (copy / "model.safetensors").unlink()
    model = AutoModelForCausalLM.from_pretrained(folder)
    torch.save(model.state_dict(), copy / "pytorch_model.bin")
    return copy


def load_adapters(path):
    return AdapterShards.load(path, {0: path}, 8)


def load_backbone(path):
    return Backbone.load(BaseModel("./named", path, "w", "v", "bfloat16")).model


def load_backend(path):
    config = ExecutiveConfig(kind="transformers", model=str(path), structured="prompt")
    return TransformersBackend(config)._model


CALLERS = {
    "memory": (lambda path: ShardMemory.load(path).model, "cannot be loaded as a memory"),
    "adapters": (load_adapters, "the adapters"),
    "backbone": (load_backbone, "fusion.backbone='./named'"),
    "reader": (lambda path: Reader.load(path)._model, "the baselines' reader"),
    "executive": (load_backend, "executive.model"),
}


@pytest.mark.parametrize("caller", CALLERS)
def test_no_code_that_a_folder_carries_is_run(caller, remote, tmp_path, monkeypatch):
    load, names = CALLERS[caller]
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"code that it(s folder)? carries") as refused:
        load(remote)
    assert names in str(refused.value)
    assert "trust_remote_code" not in str(refused.value), "nobody can set it here"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("caller", CALLERS)
def test_pickles_are_refused(caller, pickles):
    load, names = CALLERS[caller]
    with pytest.raises(UsageError, match=r"pickles only.*safetensors") as refused:
        load(pickles)
    assert names in str(refused.value)


@pytest.mark.parametrize("caller", [name for name in CALLERS if name != "adapters"])
def test_a_cpu_computes_in_float32_whatever_is_stored(caller, folder, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    model = CALLERS[caller][0](folder)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert not model.training


@pytest.mark.parametrize(
    ("group", "config"), [("executive", ExecutiveConfig), ("generator", GeneratorConfig)]
)
def test_a_local_endpoint_names_its_own_key(group, config):
    with pytest.raises(UsageError) as refused:
        TransformersBackend(config(kind="transformers", model="./nope"))
    assert str(refused.value).startswith(f"{group}.model='./nope' does not exist")
    assert "memory.base" not in str(refused.value)
    assert "scratch" not in str(refused.value), "a scratch memory can be no endpoint"


@pytest.mark.parametrize("name", ["./nope", "not a name", "scratch"])
def test_fusion_and_plan_name_the_backbone(name, tmp_path):
    config = load_config((), [f"fusion.backbone={name}"])
    for find in (lambda: find_backbone(config, tmp_path), lambda: backbone(config)):
        with pytest.raises(UsageError, match=r"^fusion\.backbone='?" + name.replace(".", r"\.")):
            find()


def test_plan_names_the_memory():
    config = load_config((), ["memory.base=./nope"])
    with pytest.raises(UsageError, match=r"^memory\.base='\./nope' does not exist"):
        choose_memory(Interval(1e6, 1e6, 1e6), config)


@pytest.mark.parametrize(
    ("base", "named"),
    [("./nope", "memory.base='./nope'"), ("scratch", "the reader of evaluate.baselines='./none'")],
)
def test_the_baselines_reader_names_what_chose_it(base, named, tmp_path, monkeypatch):
    monkeypatch.setattr(methods, "BUILT_IN_BASE", "./none")
    config = Config()
    config.memory.base, config.evaluate.baselines = base, ["closed_book"]
    with pytest.raises(UsageError) as refused:
        methods.build_baselines(RunFolder(tmp_path), config, [], Trained())
    assert str(refused.value).startswith(f"{named} does not exist")
    assert "evaluate.baselines=[] evaluates without" in str(refused.value)


def test_a_prompt_changes_nothing_of_its_tokenizer(folder):
    loaded = Backbone.load(identify("tiny", folder))
    loaded.tokenizer.pad_token = None
    ids = Prompt(loaded, "Be brief.")("Who founded Tarn Works?")
    assert "Be brief." in loaded.tokenizer.decode(ids)
    assert loaded.tokenizer.pad_token is None


def test_a_tokenizer_without_an_end_names_the_key_of_its_model(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.get_vocab = dict
    tokenizer.eos_token = None
    with pytest.raises(UsageError, match=r"choose another fusion\.backbone"):
        ChatFormat.from_tokenizer(tokenizer, "fusion.backbone")


def test_batches_hold_similar_lengths_and_results_keep_their_order():
    lengths = [5, 1, 9, 1, 30, 2]
    assert list(by_length(lengths, 2)) == [[1, 3], [5, 0], [2, 4]]
    assert list(by_length(lengths, 4, most_tokens=10)) == [[1, 3, 5], [0], [2], [4]]
    seen = []

    def work(batch):
        seen.append(batch)
        return [lengths[i] * 10 for i in batch]

    assert in_batches(lengths, 3, work) == [length * 10 for length in lengths]
    assert seen == [[1, 3, 5], [0, 2, 4]]
    assert in_batches([], 3, work) == []
