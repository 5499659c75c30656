"""The memory estimate: its formulas on round numbers, its text, and what it refuses."""

from __future__ import annotations

import json
import shlex
import subprocess
from dataclasses import replace

import pytest
import transformers
from cli import command, environment, memo_dist, tiny_corpus

from memo_dist.cluster.placement import plan_placement
from memo_dist.cluster.resources import RAY_ADDRESSES, Resources
from memo_dist.config import load_config
from memo_dist.config.schema import ScratchConfig, TrainConfig
from memo_dist.errors import UsageError
from memo_dist.models.scratch import new_scratch_model, scratch_model_config
from memo_dist.runs import open_run
from memo_dist.training import memory_check
from memo_dist.training.memory_check import beside_ranks, planned_need, shards_in_memory
from memo_dist.training.memory_need import (
    GIB,
    RANK_ADDRESSES,
    ModelShape,
    training_need,
)

P = 1_000_000_000
SHAPE = ModelShape(
    parameters=P,
    layer_parameters=50_000_000,
    layers=20,
    hidden=2000,
    intermediate=6000,
    vocabulary=1000,
    linears=((2000, 2000), (2000, 6000)),
)


def need(ranks=1, bf16=True, gpu=True, adapter_rank=0, **train):
    settings = TrainConfig(**{"micro_batch_tokens": 1024, **train})
    return training_need(SHAPE, settings, ranks, bf16=bf16, gpu=gpu, adapter_rank=adapter_rank)


def states(found):
    names = ("parameters", "gradients", "optimizer")
    return tuple(found.device.get(name, 0) / P for name in names)


@pytest.mark.parametrize(
    ("stage", "expected"),
    [(0, (2, 2, 3)), (1, (2, 2, 3)), (2, (2, 0.5, 3)), (3, (0.5, 0.5, 3))],
)
def test_mixed_precision_states_are_those_of_the_zero_paper(stage, expected):
    """2P + 2P + 12P, divided by stage; with bf16 stage 0 is run as stage 1."""
    assert states(need(ranks=4, zero_stage=stage, batch_tokens=4096)) == expected


@pytest.mark.parametrize("accumulated", [None, "bf16"])
@pytest.mark.parametrize(("stage", "gradients"), [(0, 2), (1, 2), (2, 1), (3, 1)])
def test_several_rows_of_a_rank_are_summed_in_fp32(tmp_path, stage, gradients, accumulated):
    """4P of sums in place of 2P, divided, from stage 2 on."""
    file = tmp_path / "zero.json"
    types = {"data_types": {"grad_accum_dtype": accumulated}} if accumulated else {}
    file.write_text(json.dumps({"zero_optimization": {"stage": stage}, **types}))
    found = need(ranks=4, deepspeed=str(file), batch_tokens=8192)
    alone = need(ranks=4, deepspeed=str(file), batch_tokens=4096)
    assert states(found)[1] == (states(alone)[1] if accumulated else gradients)


@pytest.mark.parametrize(("stage", "expected"), [(0, (4, 4, 8)), (1, (4, 4, 3)), (3, (1, 1, 3))])
def test_fp32_states(stage, expected):
    assert states(need(ranks=4, bf16=False, gpu=False, zero_stage=stage)) == expected


def test_activations_fall_with_checkpointing_and_frozen_layers():
    per_layer = 1024 * 2 * (11 * 2000 + 4 * 6000)
    assert need().device["activations"] == 20 * per_layer
    assert need(trained_layers=5).device["activations"] == 5 * per_layer
    checkpointed = need(gradient_checkpointing=True).device["activations"]
    assert checkpointed == 20 * 1024 * 2 * 2000 + per_layer
    assert need(micro_batch_tokens=2048).device["activations"] == 40 * per_layer


def test_logits_on_a_gpu_are_those_of_a_chunk():
    """Of 1,024 positions, values, log-softmax and gradient; and the output layer's gradient."""
    three = 3 * 4 * SHAPE.vocabulary
    head = 4 * SHAPE.vocabulary * SHAPE.hidden
    assert need(micro_batch_tokens=512).device["logits"] == 512 * three + head
    for tokens in (1024, 4096):
        assert need(micro_batch_tokens=tokens).device["logits"] == 1024 * three + head
        frozen = need(micro_batch_tokens=tokens, trained_layers=2)
        assert frozen.device["logits"] == 1024 * three
        assert need(micro_batch_tokens=tokens, bf16=False).device["logits"] == 1024 * three
    scaled = replace(SHAPE, chunked_logits=False)
    settings = TrainConfig(micro_batch_tokens=4096)
    whole = training_need(scaled, settings, 1, bf16=True, gpu=True)
    assert whole.device["logits"] == 4096 * three


@pytest.mark.parametrize(("kind", "plain"), [("LlamaConfig", True), ("Gemma2Config", False)])
def test_a_shape_says_whether_logits_are_plain_products(kind, plain):
    sizes = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "vocab_size": 99}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32}
    assert ModelShape.of(getattr(transformers, kind)(**sizes, **heads)).chunked_logits is plain


def test_lora_and_frozen_layers_have_states_for_what_is_trained():
    trained = 20 * 8 * (4000 + 8000)
    found = need(adapter_rank=8)
    assert found.device["parameters"] == 2 * (P + trained)
    assert found.device["optimizer"] == 12 * trained
    frozen = need(trained_layers=2)
    assert frozen.device["optimizer"] == 12 * 2 * SHAPE.layer_parameters
    assert frozen.device["parameters"] == 2 * P


def test_an_anchor_needs_a_copy_of_a_trained_output_layer():
    copy_and_gradient = (2 + 4) * SHAPE.vocabulary * SHAPE.hidden
    assert need(anchor_kl=1.0).device["anchor"] == copy_and_gradient
    assert "anchor" not in need().device
    assert "anchor" not in need(anchor_kl=1.0, trained_layers=2).device
    assert "anchor" not in need(adapter_rank=8, anchor_kl=1.0).device


def test_offload_moves_states_to_the_host(tmp_path):
    file = tmp_path / "offload.json"
    file.write_text(
        json.dumps({"zero_optimization": {"stage": 2, "offload_optimizer": {"device": "cpu"}}})
    )
    plain, offloaded = need(ranks=4, zero_stage=2), need(ranks=4, deepspeed=str(file))
    assert offloaded.host["optimizer"] == plain.device["optimizer"] == 3 * P
    assert "optimizer" not in offloaded.device
    assert "offloaded to the host" in str(offloaded)


def test_shape_counts_the_weights_of_the_real_model():
    config = scratch_model_config(ScratchConfig(), 4096)
    model = new_scratch_model(config, seed=1)
    shape = ModelShape.of(config)
    assert shape.parameters == sum(p.numel() for p in model.parameters())
    layer = model.model.layers[0]
    assert shape.layer_parameters == sum(p.numel() for p in layer.parameters())
    assert len(shape.linears) == 7


def test_what_does_not_fit_is_refused_with_the_keys():
    config = load_config(
        [],
        [
            "memory.base=scratch",
            "memory.scratch.hidden_size=4096",
            "memory.scratch.layers=60",
            "train.micro_batch_tokens=1024",
        ],
    )
    have = Resources(8, 0, 16 * GIB)
    found = planned_need(config, 1, gpu=False)
    with pytest.raises(UsageError) as refused:
        shards_in_memory(config, found, plan_placement(config, have), have)
    for part in (
        "this machine has 16.0 GiB",
        "train.micro_batch_tokens below 1024",
        "train.gradient_checkpointing=true",
        "memory.base",
        "train.zero_stage",
    ):
        assert part in str(refused.value)


def test_adapters_need_states_for_themselves_alone():
    scratch = "memory.base=scratch"
    full = planned_need(load_config([], [scratch]), 1, gpu=False)
    config = load_config([], [scratch, "train.method=lora", "train.lora_rank=4"])
    adapted = planned_need(config, 1, gpu=False)
    shape = ModelShape.of(scratch_model_config(config.memory.scratch, 4096))
    trained = shape.layers * sum(4 * (rows + columns) for rows, columns in shape.linears)
    assert adapted.device["optimizer"] == 8 * trained < full.device["optimizer"]


def test_memory_decides_how_many_shards_train_at_once():
    config = load_config([], ["memory.base=scratch", "corpus.shards=8"])
    found = planned_need(config, 1, gpu=False)
    have = Resources(8, 0, beside_ranks(config) + int(2.5 * found.device_bytes))
    assert shards_in_memory(config, found, plan_placement(config, have), have) == 2


def test_driver_and_ray_count_where_they_run_here():
    config = load_config([], ["memory.base=scratch"])
    assert beside_ranks(config) > GIB
    assert beside_ranks(load_config([], ["cluster.launcher=process"])) == 0
    assert beside_ranks(load_config([], ["cluster.address=host:6379"])) == 0
    found = planned_need(config, 1, gpu=False)
    have = Resources(1, 0, found.device_bytes + beside_ranks(config) - 1)
    with pytest.raises(UsageError, match=r"driver and Ray 1\.2 GiB, this machine has"):
        shards_in_memory(config, found, plan_placement(config, have), have)


@pytest.mark.parametrize(
    ("launcher", "beyond"), [("process", RANK_ADDRESSES), ("ray", RAY_ADDRESSES)]
)
def test_too_little_address_space_is_refused_before_a_thread_waits_in_it(
    monkeypatch, launcher, beyond
):
    config = load_config([], ["memory.base=scratch", f"cluster.launcher={launcher}"])
    found, have = planned_need(config, 1, gpu=False), Resources(1, 0, 100 * GIB)
    placement = plan_placement(config, have)
    limits = [found.device_bytes + beyond, None]
    monkeypatch.setattr(memory_check, "address_limit", lambda: limits[0])
    monkeypatch.setattr(memory_check, "used_addresses", lambda: 0)
    shards_in_memory(config, found, placement, have)
    limits[0] -= 1
    with pytest.raises(UsageError, match=r"ulimit -v gives each process .*train\.micro_batch_tok"):
        shards_in_memory(config, found, placement, have)
    limits[0] = None
    shards_in_memory(config, found, placement, have)


def test_addresses_that_this_process_has_already_count(monkeypatch):
    config = load_config([], ["memory.base=scratch", "cluster.launcher=process"])
    found = planned_need(config, 1, gpu=False)
    monkeypatch.setattr(memory_check, "address_limit", lambda: found.device_bytes + 2 * GIB)
    monkeypatch.setattr(memory_check, "used_addresses", lambda: GIB)
    memory_check.check_addresses(config, found, gpu=False)
    monkeypatch.setattr(memory_check, "used_addresses", lambda: 2 * GIB)
    with pytest.raises(UsageError, match="ulimit -v gives each process"):
        memory_check.check_addresses(config, found, gpu=False)


def test_under_ulimit_v_training_ends_with_the_limit_and_the_key(tmp_path):
    run = tmp_path / "run"
    with open_run(run, load_config([], ["memory.base=scratch"]), "auto"):
        pass
    words = shlex.join(command("train", run, "cluster.launcher=process"))
    limited = f"ulimit -v {int(1.5 * 2**20)} && exec {words}"
    done = subprocess.run(
        ["sh", "-c", limited], capture_output=True, text=True, timeout=120, env=environment()
    )
    assert done.returncode == 2, done.stderr
    assert "ulimit -v gives each process 1.50 GiB of address space" in done.stderr
    assert "train.micro_batch_tokens" in done.stderr
    assert "Traceback" not in done.stderr


def test_dry_run_and_run_tell_the_need_and_refuse_what_cannot_fit(tmp_path):
    corpus = tiny_corpus(tmp_path / "documents")
    run = tmp_path / "run"
    told = memo_dist("encode", corpus, "--run", run, "--dry-run", "memory.base=scratch")
    assert told.returncode == 0, told.stderr
    line = next(line for line in told.stdout.splitlines() if line.startswith("need "))
    assert "GiB per rank (fp32, ZeRO 0, 1 rank(s)): " in line
    assert "runtime 0.6" in line
    huge = ("memory.base=scratch", "memory.scratch.hidden_size=8192", "memory.scratch.layers=300")
    refused = memo_dist("encode", corpus, "--run", run, *huge)
    assert refused.returncode == 2
    assert "the training does not fit" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert not run.exists()
