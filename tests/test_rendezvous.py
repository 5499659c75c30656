"""Which rank a process is, by the variables that each launcher sets."""

import json
import os
import threading

import pytest

from memo_dist.cluster import address
from memo_dist.cluster.ranks import Ranks
from memo_dist.cluster.rendezvous import adopt_ranks, ranks_on_cores, started_as_rank
from memo_dist.cluster.resources import Resources
from memo_dist.config.schema import ClusterConfig, Config
from memo_dist.errors import RunError, UsageError
from memo_dist.launch.ray_nodes import Place
from memo_dist.training import start
from memo_dist.training.start import starts_here

SLURM = {"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "4",
         "SLURM_LOCALID": "1", "SLURMD_NODENAME": "node-a"}  # fmt: skip
OPTIONAL = ("SLURM_STEP_NUM_NODES", "SLURM_GTIDS", "MEMO_DIST_RANKS_ON_CORES")


@pytest.fixture(autouse=True)
def bare(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR",
                 "MASTER_PORT", *SLURM, *OPTIONAL):  # fmt: skip
        monkeypatch.setenv(name, "x")  # so that it is put back afterwards
        monkeypatch.delenv(name)


def come(meeting, ranks, node="node-b", cores=(0,)):
    """What these ranks leave in the run folder."""
    meeting.mkdir(parents=True, exist_ok=True)
    for rank in ranks:
        here = {"node": node, "cores": list(cores)}
        here |= {"host": "n", "port": 5} if rank == 0 else {}
        (meeting / f"{rank}.json").write_text(json.dumps(here))


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
    meeting = tmp_path / ".ranks" / "7-0-0"
    timer = threading.Timer(0.3, come, [meeting, (0, 1, 3)])
    timer.start()
    assert started_as_rank()
    adopt_ranks(tmp_path, 10)
    assert Ranks.from_environment() == Ranks(2, 4, 1)
    assert (os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"]) == ("n", "5")


def test_the_first_rank_forgets_earlier_launches(monkeypatch, tmp_path):
    slurm(monkeypatch, 0)
    come(tmp_path / ".ranks" / "6-0-0", (0, 1))
    come(tmp_path / ".ranks" / "7-0-0", (1, 2, 3))
    adopt_ranks(tmp_path, 10)
    assert [folder.name for folder in (tmp_path / ".ranks").iterdir()] == ["7-0-0"]
    assert os.environ["MASTER_ADDR"] == "node-a"


def test_missing_ranks_are_a_message(monkeypatch, tmp_path):
    slurm(monkeypatch, 2)
    come(tmp_path / ".ranks" / "7-0-0", (0,))
    with pytest.raises(RunError, match=r"2/4 ranks .*rank\(s\) 1, 3 did not come.* nodes share"):
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


# -- cores -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("listed", ["", "0,1,2"])
@pytest.mark.parametrize(
    ("beside", "sharing"), [([(0, 1), (0, 1)], 3), ([(2, 3), (4, 5)], 1), ([(1, 2), (3,)], 2)]
)
def test_sruns_ranks_count_who_shares_their_cores(monkeypatch, tmp_path, beside, sharing, listed):
    """With --cpus-per-task each rank has its own; without it, all of a node have the same."""
    slurm(monkeypatch, 0)
    if listed:
        monkeypatch.setenv("SLURM_GTIDS", listed)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    meeting = tmp_path / ".ranks" / "7-0-0"
    for rank, cores in enumerate(beside, start=1):
        come(meeting, [rank], "node-a", cores)
    come(meeting, [3], "node-b", (0, 1))
    adopt_ranks(tmp_path, 10)
    assert os.environ["LOCAL_WORLD_SIZE"] == "3"
    assert ranks_on_cores(4) == sharing
    monkeypatch.setattr(start, "detect_resources", lambda: Resources(6, 0, 2**30))
    assert start._rank_resources(Ranks.from_environment()).cores == 6 // sharing * 4


def test_torchruns_ranks_share_their_machines_cores(monkeypatch):
    assert ranks_on_cores(8) == 8
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert ranks_on_cores(8) == 2


# -- addresses -------------------------------------------------------------------------------------


def names(monkeypatch, own, routed=()):
    """A machine whose name has these addresses, and this one on its default route."""
    monkeypatch.setattr(address, "_resolved", lambda name: list(own))
    monkeypatch.setattr(address, "_routed", lambda host: list(routed))


def test_the_first_rank_gives_an_address_that_other_nodes_reach(monkeypatch, tmp_path):
    """Debian's /etc/hosts says 127.0.1.1 of a machine's own name."""
    slurm(monkeypatch, 0)
    monkeypatch.setenv("SLURM_STEP_NUM_NODES", "2")
    come(tmp_path / ".ranks" / "7-0-0", (1, 2, 3))
    names(monkeypatch, ["127.0.1.1", "10.0.0.5"])
    adopt_ranks(tmp_path, 10)
    assert os.environ["MASTER_ADDR"] == "10.0.0.5"


def test_own_addresses(monkeypatch):
    names(monkeypatch, ["127.0.1.1"], ["10.0.0.7"])
    assert address.own_address("node-a") == "10.0.0.7"
    assert address.own_address("127.0.0.1") == "127.0.0.1", "an address stays as it is"
    names(monkeypatch, ["127.0.1.1"])
    with pytest.raises(RunError, match=r"node-a is 127\.0\.1\.1 here: .*in /etc/hosts or the name"):
        address.own_address("node-a")
    names(monkeypatch, [])
    with pytest.raises(RunError, match="node-a has no address here"):
        address.own_address("node-a")


def test_gloo_listens_where_others_reach_it(monkeypatch):
    monkeypatch.setattr(address.socket, "if_nameindex", lambda: [(1, "lo"), (2, "eth7")])
    monkeypatch.setattr(address, "_address_of", {"lo": "127.0.0.1", "eth7": "10.0.0.7"}.get)
    names(monkeypatch, ["127.0.1.1"], ["10.0.0.7"])
    assert address.interface_towards("10.0.0.5") == "eth7"
    names(monkeypatch, ["127.0.1.1"], ["127.0.0.1"])
    assert address.interface_towards("node-a") is None, "one machine"
    names(monkeypatch, ["10.0.0.7"], ["10.0.0.7"])
    assert address.interface_towards("10.0.0.5") is None, "the name is right"


def test_a_node_of_several_gives_ray_an_address_that_others_reach(monkeypatch, tmp_path):
    names(monkeypatch, ["127.0.1.1"], ["10.0.0.7"])
    assert Place(0, 2, "localhost", tmp_path, 1).ip == "10.0.0.7"
    assert Place(0, 1, "localhost", tmp_path, 1).ip == "127.0.0.1"
