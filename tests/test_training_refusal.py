"""What a rank refuses ends a training under Ray at once, whatever ``train.max_failures`` says."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from memo_dist.cluster.placement import plan_placement
from memo_dist.cluster.ray_local import ray_session
from memo_dist.config import load_config
from memo_dist.config.schema import TrainConfig
from memo_dist.errors import UsageError
from memo_dist.training import refusal
from memo_dist.training.bank_driver import train_bank
from memo_dist.training.job import TrainJob


def refuse(values):
    raise UsageError("train.lora_targets=[none]: no such layer")


def overflow(values):
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nand more")


def test_a_refusal_is_noted_and_ranks_of_the_next_start_end(tmp_path):
    with pytest.raises(UsageError, match="no such layer"):
        refusal.entered(refuse, tmp_path, TrainConfig(), {})
    assert refusal.entered(lambda _: 1 / 0, tmp_path, TrainConfig(), {}) == "stopped"
    assert "no such layer" in str(refusal.refused(tmp_path))
    refusal.clear(tmp_path)
    assert refusal.refused(tmp_path) is None
    assert refusal.entered(lambda _: "done", tmp_path, TrainConfig(), {}) == "done"


def test_a_full_gpu_is_a_refusal_that_names_the_keys(tmp_path):
    with pytest.raises(UsageError, match=r"does not fit .*train\.micro_batch_tokens=4096"):
        refusal.entered(overflow, tmp_path, TrainConfig(micro_batch_tokens=4096), {})
    assert "train.gradient_checkpointing=true" in str(refusal.refused(tmp_path))
    assert "\n" not in str(refusal.refused(tmp_path))


def test_other_failures_may_be_tried_again(tmp_path):
    with pytest.raises(RuntimeError):
        refusal.entered(partial(_fail, RuntimeError("a link is down")), tmp_path, TrainConfig(), {})
    assert refusal.refused(tmp_path) is None


def _fail(error, values):
    raise error


def test_ray_starts_refusing_ranks_no_third_time(tmp_path):
    def started(values, watch=None):  # sent by value: Ray's workers know no test
        with open(f"{values['folder']}/starts", "a") as starts:  # noqa: PTH123
            starts.write("one\n")
        raise UsageError("this base is not what the examples were made for")

    config = load_config([], ["train.max_failures=5", "cluster.workers=1", "cluster.threads=1"])
    job = TrainJob(
        folder=str(tmp_path), base=str(tmp_path), examples=str(tmp_path / "examples.safetensors"),
        probe=((5, 6, 7),), train=config.train, seed=1, identity="job", threads=1,
    )  # fmt: skip
    with ray_session(config.cluster) as have:
        placement = plan_placement(config, have)
        with pytest.raises(UsageError, match="this base is not what"):
            train_bank({0: job}, config, placement, lambda k: f"shard {k}", started)
    assert len((tmp_path / "starts").read_text().splitlines()) == 1
    assert not (tmp_path / refusal.FILE_NAME).exists()
