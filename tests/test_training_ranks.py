"""Real ranks over gloo: one rank, two ranks and every ZeRO stage train the same memory."""

from __future__ import annotations

import pytest
import torch
from ranks import launch
from safetensors.torch import load_file
from transformers import AutoTokenizer

from memo_dist.config.schema import ScratchConfig, TrainConfig
from memo_dist.io import atomic
from memo_dist.memory.scratch import new_scratch_model, scratch_model_config, train_tokenizer
from memo_dist.synthesis.types import Reflection
from memo_dist.training import checkpoint
from memo_dist.training.examples import tokenize
from memo_dist.training.format import ChatFormat
from memo_dist.training.job import STOP_REQUEST, TrainJob

TRAIN = {"epochs": 2, "lr": 3e-3, "batch_tokens": 256, "micro_batch_tokens": 128}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """A tiny base model and 40 tokenised examples."""
    folder = tmp_path_factory.mktemp("inputs")
    rows = [
        Reflection(f"What is the code of item {i}?", f"code {i * 37 % 101}", "direct", ("d",),
                   ("d:0-9",), 0, "g", "1", "r")
        for i in range(40)
    ]  # fmt: skip
    size = train_tokenizer((r.question for r in rows), 300, folder)
    shape = ScratchConfig(size, hidden_size=32, layers=2, heads=2, intermediate_size=64)
    new_scratch_model(scratch_model_config(shape, size), seed=1).save_pretrained(folder)
    chat = ChatFormat.from_tokenizer(AutoTokenizer.from_pretrained(folder))
    examples, _ = tokenize(rows, chat, 128)
    examples.save(folder / "examples.safetensors")
    return folder


def make_job(inputs, folder, **train):
    job = TrainJob(
        folder=str(folder),
        base=str(inputs),
        examples=str(inputs / "examples.safetensors"),
        probe=((5, 6, 7),),
        train=TrainConfig(**{**TRAIN, **train}),
        seed=3,
        identity="job",
        threads=1,
    )
    atomic.write_json(folder / "job.json", job.to_json())
    return job


def train(inputs, folder, world=1, **settings):
    job = make_job(inputs, folder, **settings)
    codes, output = launch(job.path, world)
    assert codes == [0] * world, output
    assert checkpoint.is_complete(job.final)
    losses = [row["loss"] for row in atomic.read_jsonl(job.path / "metrics.jsonl")]
    norms = [row["grad_norm"] for row in atomic.read_jsonl(job.path / "metrics.jsonl")]
    return losses, norms, load_file(job.final / "model.safetensors")


@pytest.fixture(scope="module")
def reference(inputs, tmp_path_factory):
    return train(inputs, tmp_path_factory.mktemp("one"))


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_two_ranks_at_any_zero_stage_equal_one_rank(stage, inputs, reference, tmp_path):
    losses, norms, weights = train(inputs, tmp_path, world=2, zero_stage=stage)
    assert losses == pytest.approx(reference[0], rel=1e-3)
    assert norms == pytest.approx(reference[1], rel=1e-3)
    assert weights.keys() == reference[2].keys()
    for name, value in reference[2].items():
        assert torch.allclose(weights[name], value, atol=2e-4), name


def test_training_learns(reference):
    assert reference[0][-1] < 0.7 * reference[0][0]


def test_resumed_equals_unbroken_to_the_bit(inputs, reference, tmp_path):
    job = make_job(inputs, tmp_path, checkpoint_steps=3)
    (tmp_path / STOP_REQUEST).touch()
    codes, output = launch(job.path)
    assert codes == [0], output
    assert atomic.read_json(tmp_path / "STATUS.json")["state"] == "stopped"
    assert checkpoint.latest(job.checkpoints).name == checkpoint.tag(1)
    (tmp_path / STOP_REQUEST).unlink()
    losses, _, weights = train(inputs, tmp_path, checkpoint_steps=3)
    assert losses == reference[0], "metrics hold each step once"
    assert all(torch.equal(weights[name], value) for name, value in reference[2].items())
    assert not job.checkpoints.exists(), "checkpoints go once the final weights exist"


def test_a_checkpoint_of_another_job_is_refused(inputs, tmp_path):
    job = make_job(inputs, tmp_path)
    (tmp_path / STOP_REQUEST).touch()
    launch(job.path)
    (tmp_path / STOP_REQUEST).unlink()
    values = atomic.read_json(tmp_path / "job.json")
    atomic.write_json(tmp_path / "job.json", {**values, "identity": "other"})
    codes, output = launch(job.path)
    assert codes != [0]
    assert "was written with job=job" in output


def test_frozen_layers_stay_the_base(inputs, tmp_path):
    base = load_file(inputs / "model.safetensors")
    _, _, weights = train(inputs, tmp_path, trained_layers=1)
    changed = {name for name, value in base.items() if not torch.equal(weights[name], value)}
    assert changed
    assert all(name.startswith("model.layers.1.") for name in changed)


def test_max_minutes_ends_the_training_with_final_weights(inputs, tmp_path):
    losses, _, _ = train(inputs, tmp_path, epochs=4000, max_minutes=0.02)
    assert 0 < len(losses) < 5000
