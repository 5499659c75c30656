"""Real ranks over gloo: one rank, two ranks and every ZeRO stage train the same memory."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from cli import wait_until
from peft import PeftModel
from ports import free_ports
from ranks import launch, start
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from memo_dist.config.schema import ScratchConfig, TrainConfig
from memo_dist.io import atomic
from memo_dist.models.chat_format import ChatFormat
from memo_dist.models.scratch import new_scratch_model, scratch_model_config, train_tokenizer
from memo_dist.synthesis.types import Reflection
from memo_dist.training import checkpoint
from memo_dist.training.examples import Examples, tokenize
from memo_dist.training.job import STOP_REQUEST, TrainJob
from memo_dist.training.ledger import Ledger, lineage
from memo_dist.training.lora import folded_weights

TRAIN = {"epochs": 2, "lr": 3e-3, "batch_tokens": 256, "micro_batch_tokens": 64}


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
    examples, _ = tokenize(rows, chat, 64)
    examples.save(folder / "examples.safetensors")
    return folder


def make_job(inputs, folder, **train):
    folder.mkdir(exist_ok=True)
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
    return outcome(job)


def outcome(job):
    """Losses, gradient norms and weights of a finished training."""
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


def test_questions_that_count_less_are_trained_alike_by_one_and_two_ranks(inputs, tmp_path):
    """Two ranks at ZeRO 3, rows with more and with fewer questions, an empty row at the end."""
    asked = tmp_path / "inputs"
    shutil.copytree(inputs, asked)
    examples = Examples.load(inputs / "examples.safetensors")
    first = np.minimum(examples.prompts, 6).astype(np.int32)
    replace(examples, untrained=first).save(asked / "examples.safetensors")
    weighted = {"question_weight": 0.1}
    one = train(asked, tmp_path / "one", **weighted)
    two = train(asked, tmp_path / "two", 2, zero_stage=3, **weighted)
    even = train(asked, tmp_path / "even", question_weight=1.0)
    assert one[0] == pytest.approx(two[0], rel=1e-3)
    assert one[1] == pytest.approx(two[1], rel=1e-3)
    assert one[0] != pytest.approx(even[0], rel=1e-2)


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


@pytest.fixture(scope="module")
def stopped(inputs, tmp_path_factory):
    """A training that two ranks with ZeRO 3 left after its first step."""
    job = make_job(inputs, tmp_path_factory.mktemp("stopped"), zero_stage=3)
    (job.path / STOP_REQUEST).touch()
    codes, output = launch(job.path, 2)
    assert codes == [0, 0], output
    (job.path / STOP_REQUEST).unlink()
    return job.path


@pytest.mark.parametrize(("world", "stage"), [(1, 0), (4, 2)])
def test_resume_with_other_ranks_and_another_stage(
    world, stage, inputs, stopped, reference, tmp_path
):
    shutil.copytree(stopped, tmp_path / "job")
    losses, norms, weights = train(inputs, tmp_path / "job", world=world, zero_stage=stage)
    assert losses == pytest.approx(reference[0], rel=1e-3)
    assert norms == pytest.approx(reference[1], rel=1e-3)
    for name, value in reference[2].items():
        assert torch.allclose(weights[name], value, atol=2e-4), name
    found = lineage(tmp_path / "job", "job")
    assert found.positions == 80, "40 examples twice, each position once"
    assert found.commits == (1, len(losses))


def test_adapters_folded_equal_adapters_attached(inputs, tmp_path):
    job = make_job(inputs, tmp_path, method="lora", lr=1e-2, zero_stage=3)
    codes, output = launch(job.path, 2)
    assert codes == [0, 0], output
    losses = [row["loss"] for row in atomic.read_jsonl(job.path / "metrics.jsonl")]
    assert losses[-1] < 0.96 * losses[0]
    probe = load_file(job.final / "probe.safetensors")
    attached = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(inputs), job.final)
    folded = AutoModelForCausalLM.from_pretrained(inputs)
    folded.load_state_dict(dict(folded_weights(inputs, job.final)), strict=False)
    for model in (attached.eval(), folded.eval()):
        logits = model(probe["ids.0"][None]).logits[0, -1]
        assert torch.allclose(logits, probe["logits.0"], atol=1e-4)


def test_best_weights_are_kept_and_training_ends_early(inputs, tmp_path):
    """Nothing is recalled in so few steps: the first measurement stays the best."""
    job = make_job(inputs, tmp_path, epochs=200, eval_steps=4, eval_patience=2, select="recall",
                   dry_batch="always", warmup_fraction=0.0)  # fmt: skip
    codes, output = launch(job.path)
    assert codes == [0], output
    rows = list(atomic.read_jsonl(job.path / "metrics.jsonl"))
    assert [row["step"] for row in rows if "recall" in row] == [4, 8, 12]
    assert len(rows) == 12
    assert atomic.read_json(job.final / "state.json")["weights_of_step"] == 4
    _, _, shorter = train(inputs, tmp_path / "four", epochs=200, max_steps=4, warmup_fraction=0.0)
    chosen = load_file(job.final / "model.safetensors")
    assert all(torch.equal(chosen[name], value) for name, value in shorter.items())


def test_starts_without_progress_are_refused(inputs, tmp_path):
    job = make_job(inputs, tmp_path, max_stalled_starts=2)
    for _ in range(2):
        Ledger(tmp_path, "job").start(0, 0, 0)
    codes, output = launch(job.path)
    assert codes == [1]
    assert "2 starts in a row ended before a new checkpoint" in output


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


def test_kept_activations_change_nothing(inputs, tmp_path):
    kept = train(inputs, tmp_path / "kept", trained_layers=1)
    run = train(inputs, tmp_path / "run", trained_layers=1, keep_activations_gb=0.0)
    assert kept[0] == pytest.approx(run[0], rel=1e-4)
    for name, value in run[2].items():
        assert torch.allclose(kept[2][name], value, atol=2e-4), name
    assert not (tmp_path / "kept" / "activations.npy").exists()


@pytest.mark.parametrize("world", [1, 2])
def test_a_stop_while_frozen_layers_run_does_not_wait_for_them(world, inputs, tmp_path):
    keys = {"trained_layers": 1, "micro_batch_tokens": 64}
    job = make_job(inputs, tmp_path / "stopped", **keys)
    (job.path / STOP_REQUEST).touch()
    codes, output = launch(job.path, world)
    assert codes == [0] * world, output
    status = atomic.read_json(job.path / "STATUS.json")
    assert (status["state"], status["step"]) == ("stopped", 0)
    assert not (job.path / "activations.json").exists()
    (job.path / STOP_REQUEST).unlink()
    again = train(inputs, tmp_path / "stopped", world, **keys)
    unbroken = train(inputs, tmp_path / "unbroken", world, **keys)
    assert again[0] == unbroken[0]
    assert all(torch.equal(again[2][name], value) for name, value in unbroken[2].items())


def rates_of(folder):
    """The learning rates of the steps so far."""
    rows = folder / "metrics.jsonl"
    whole, _, _ = (rows.read_text() if rows.exists() else "").rpartition("\n")
    return [json.loads(line)["lr"] for line in whole.splitlines()]


def fallen_to(part, rates):
    return bool(rates) and rates[-1] < part * rates[0]


@pytest.mark.parametrize("world", [1, 2])
def test_max_minutes_ends_the_training_at_a_low_rate(world, inputs, tmp_path):
    """The schedule ends with the time where the steps would take longer; so does the warm-up."""
    losses, _, _ = train(
        inputs, tmp_path, world, epochs=4000, max_minutes=0.1, schedule="linear"
    )  # fmt: skip
    assert 10 < len(losses) < 5000
    rates = rates_of(tmp_path)
    falling = rates[rates.index(max(rates)) :]
    assert falling == sorted(falling, reverse=True)
    assert 0 <= rates[-1] < 0.2 * TRAIN["lr"]


def test_max_minutes_that_are_far_off_change_nothing(inputs, tmp_path):
    """Long enough for the pace to be looked at, a tenth of the cap or more."""
    falling = {"schedule": "cosine", "epochs": 30}
    free = train(inputs, tmp_path / "free", **falling)
    seconds = atomic.read_json(tmp_path / "free" / "STATUS.json")["seconds"]
    capped = train(inputs, tmp_path / "capped", max_minutes=seconds * 8 / 60, **falling)
    assert capped[0] == free[0]
    assert all(torch.equal(capped[2][name], value) for name, value in free[2].items())


def test_a_training_cut_by_its_cap_goes_on_at_the_rate_that_it_had(inputs, tmp_path):
    make_job(inputs, tmp_path, epochs=4000, max_minutes=0.2, schedule="linear",
             warmup_fraction=0.0)  # fmt: skip
    for part in (0.9, 0.8):
        rank = start(tmp_path, 0, 1, *free_ports())
        wait_until(lambda part=part: fallen_to(part, rates_of(tmp_path)), 60, "a lower rate")
        (tmp_path / STOP_REQUEST).touch()
        assert rank.wait(60) == 0
        (tmp_path / STOP_REQUEST).unlink()
    rates = rates_of(tmp_path)
    assert rates == sorted(rates, reverse=True)
    assert atomic.read_json(tmp_path / "STATUS.json")["state"] == "stopped"
