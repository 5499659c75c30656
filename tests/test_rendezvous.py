"""Which rank a process is, by the variables that each launcher sets."""

import json
import threading

import pytest

from memo_dist.cluster.ranks import Ranks
from memo_dist.cluster.rendezvous import adopt_ranks, started_as_rank
from memo_dist.config.schema import ClusterConfig, Config
from memo_dist.errors import RunError, UsageError
from memo_dist.training.direct import starts_here

SLURM = {"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "4",
         "SLURM_LOCALID": "1", "SLURMD_NODENAME": "node-a"}  # fmt: skip


@pytest.fixture(autouse=True)
def bare(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR",
                 "MASTER_PORT", *SLURM):  # fmt: skip
        monkeypatch.setenv(name, "x")  # so that it is put back afterwards
        monkeypatch.delenv(name)


def slurm(monkeypatch, rank):
    for name, value in {**SLURM, "SLURM_PROCID": str(rank)}.items():
        monkeypatch.setenv(name, value)


def test_a_plain_process_is_the_only_rank(tmp_path):
    assert not started_as_rank()
    adopt_ranks(tmp_path, 1)
    assert Ranks.from_environment() == Ranks(0, 1, 0)


def test_torchrun_is_left_as_it_is(monkeypatch, tmp_path):
    for name, value in {"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    assert started_as_rank()
    adopt_ranks(tmp_path, 1)
    assert Ranks.from_environment() == Ranks(3, 8, 1)


@pytest.mark.parametrize("other", [{"SLURM_STEP_ID": "4294967291"}, {"SLURM_STEP_NUM_TASKS": "1"}])
def test_a_batch_script_and_a_single_task_are_no_ranks(other, monkeypatch):
    slurm(monkeypatch, 0)
    for name, value in other.items():
        monkeypatch.setenv(name, value)
    assert not started_as_rank()


def test_sruns_ranks_meet_in_the_run_folder(monkeypatch, tmp_path):
    slurm(monkeypatch, 2)
    address = tmp_path / ".address-7-0-0.json"
    timer = threading.Timer(0.3, address.write_text, [json.dumps({"host": "n", "port": 5})])
    timer.start()
    assert started_as_rank()
    adopt_ranks(tmp_path, 10)
    assert Ranks.from_environment() == Ranks(2, 4, 1)


def test_a_missing_first_rank_is_a_message(monkeypatch, tmp_path):
    slurm(monkeypatch, 2)
    with pytest.raises(RunError, match=r"rank 0 of 4 left no address .* all nodes share"):
        adopt_ranks(tmp_path, 0.3)


@pytest.mark.parametrize(("launcher", "here"), [("auto", False), ("ray", False), ("process", True)])
def test_a_plain_process_trains_itself_only_when_told_to(launcher, here):
    assert starts_here(Config(cluster=ClusterConfig(launcher=launcher))) == here


def test_ranks_without_a_launcher_are_told_how_to_start():
    with pytest.raises(UsageError, match=r"cluster\.launcher=ranks.*torchrun -m memo_dist train"):
        starts_here(Config(cluster=ClusterConfig(launcher="ranks")))


def test_a_rank_trains_itself_unless_ray_is_asked_for(monkeypatch):
    slurm(monkeypatch, 1)
    assert starts_here(Config())
    assert not starts_here(Config(cluster=ClusterConfig(launcher="ray")))
