"""Which precision a training takes, and a bfloat16 training on a CPU from start to export."""

import json
import os
import subprocess
import sys

import deepspeed
import pytest
import torch
from cli import ENCODE_SECONDS, TINY, memo_dist, tiny_corpus

from memo_dist.config.schema import TrainConfig
from memo_dist.errors import UsageError
from memo_dist.models.identity import weights_dtype
from memo_dist.models.loading import native_bfloat16
from memo_dist.training import model
from memo_dist.training.deepspeed_seam import Engine, engine_config


@pytest.fixture
def cpu(monkeypatch, request):
    """A machine without GPU whose CPU multiplies bfloat16 itself, or does not."""
    monkeypatch.setattr(model.torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(model, "native_bfloat16", lambda: request.param)


@pytest.mark.parametrize("cpu", [True], indirect=True)
@pytest.mark.parametrize(
    ("precision", "width", "expected"),
    [("auto", 576, True), ("auto", 64, False), ("auto", 0, False), ("fp32", 576, False),
     ("bf16", 64, True)],
)  # fmt: skip
def test_auto_takes_bfloat16_where_the_cpu_has_it_and_the_model_is_wide(
    cpu, precision, width, expected
):
    assert model.use_bf16(precision, width) is expected


@pytest.mark.parametrize("cpu", [False], indirect=True)
def test_bfloat16_is_refused_where_it_would_be_emulated(cpu):
    assert not model.use_bf16("auto", 576)
    with pytest.raises(UsageError, match=r"train\.precision=bf16 needs a GPU or a CPU"):
        model.use_bf16("bf16", 576)


@pytest.mark.skipif(not native_bfloat16(), reason="this CPU does not multiply bfloat16 itself")
def test_a_bfloat16_training_on_a_cpu_ends_in_a_verified_export(tmp_path):
    corpus, run = tiny_corpus(tmp_path / "corpus"), tmp_path / "run"
    keys = (*TINY, "train.precision=bf16", "train.epochs=4", "train.trained_layers=1")
    done = memo_dist("encode", corpus, "--run", run, *keys, seconds=ENCODE_SECONDS)
    assert done.returncode == 0, done.stderr
    assert weights_dtype(run / "memory" / "shard-0") == "bfloat16"
    asked = memo_dist("ask", run, "Who runs the company?", "--json")
    assert asked.returncode == 0, asked.stderr


GRADIENT_NORMS = """
import json, sys
from pathlib import Path
import torch
from memo_dist.config.schema import TrainConfig
from memo_dist.training.deepspeed_seam import Engine, engine_config, init_distributed

class Product(torch.nn.Module):  # its gradient is the row itself
    def __init__(self, kind):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(64, dtype=kind))
    def forward(self, row):
        return (self.weight * row).float().sum()

def norm(bf16, types):
    kind = torch.bfloat16 if bf16 else torch.float32
    content = {"zero_optimization": {"stage": int(sys.argv[1])}, "data_types": types}
    Path("zero.json").write_text(json.dumps(content))
    train = TrainConfig(deepspeed="zero.json", micro_batch_tokens=32, batch_tokens=32 * 64)
    engine = Engine(Product(kind), train, engine_config(train, bf16, 64), str)
    for number in range(64):
        row = torch.full((64,), 2.0**-9 if number else 1.0, dtype=kind)
        engine.backward(engine.module(row), last=number == 63)
    engine.step(1e-3)
    return engine.grad_norm

meeting = f"file://{Path.cwd()}/ranks"
torch.distributed.init_process_group("gloo", init_method=meeting, rank=0, world_size=1)
init_distributed("gloo", 60)
print(json.dumps([norm(False, {}), norm(True, {}), norm(True, {"grad_accum_dtype": "bf16"})]))
"""


@pytest.mark.parametrize("stage", [2, 3])
def test_many_small_gradients_are_not_lost_beside_a_large_one(stage, tmp_path):
    """Sums of bf16 gradients are fp32 unless DeepSpeed's file says otherwise."""
    done = subprocess.run(
        [sys.executable, "-c", GRADIENT_NORMS, str(stage)],
        cwd=tmp_path, capture_output=True, text=True, timeout=300,
        env={**os.environ, "RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    in_fp32, default, in_bf16 = json.loads(done.stdout.splitlines()[-1])
    assert in_fp32 == pytest.approx(8 * (1 + 63 / 512), rel=1e-6)
    assert default == pytest.approx(in_fp32, rel=1e-6)
    assert in_bf16 == pytest.approx(8, rel=1e-3), "all small rows are lost"


@pytest.mark.parametrize("stage", [0, 1])
def test_fp32_sums_that_would_lose_rows_are_refused(stage, tmp_path):
    file = tmp_path / "zero.json"
    types = {"data_types": {"grad_accum_dtype": "fp32"}}
    file.write_text(json.dumps({"zero_optimization": {"stage": stage}, **types}))
    train = TrainConfig(deepspeed=str(file))
    assert engine_config(train, bf16=False, rows_per_rank=64)["data_types"]
    with pytest.raises(UsageError, match="grad_accum_dtype=fp32 with bf16 needs ZeRO stage 2"):
        engine_config(train, bf16=True, rows_per_rank=64)
    assert "data_types" not in engine_config(TrainConfig(zero_stage=stage), True, 64)


@pytest.mark.parametrize("given", [None, 7])
def test_deepspeed_allocates_no_bucket_beyond_what_is_trained(monkeypatch, tmp_path, given):
    """Its default is 500 million elements, 1 GB in bfloat16, for a model of any size."""
    seen = {}

    def initialize(**named):
        seen.update(named["config"]["zero_optimization"])
        raise InterruptedError

    monkeypatch.setattr(deepspeed, "initialize", initialize)
    train = TrainConfig(zero_stage=1)
    if given is not None:
        file = tmp_path / "ds.json"
        file.write_text(json.dumps({"zero_optimization": {"reduce_bucket_size": given}}))
        train.deepspeed = str(file)
    config = engine_config(train, bf16=False, rows_per_rank=1)
    with pytest.raises(InterruptedError):
        Engine(torch.nn.Linear(4, 3), train, config, str)
    assert seen["reduce_bucket_size"] == (given or 15)
