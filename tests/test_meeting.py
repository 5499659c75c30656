"""Where ranks meet: nothing that a stranger writes there is run, and only who must can reach it."""

import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
from base64 import b64encode
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from cli import environment
from ports import free_ports
from torch.distributed import HashStore, PrefixStore, TCPStore

from memo_dist.cluster import address, meeting, store
from memo_dist.cluster.ranks import Ranks
from memo_dist.cluster.stop import StopFlag
from memo_dist.errors import RunError, StoppedError

SECONDS = timedelta(seconds=20)
WORK = """
import os, sys, time, pathlib
folder = pathlib.Path(sys.argv[1])
(folder / f"rank-{os.environ['RANK']}").write_text(os.environ["MASTER_ADDR"])
deadline = time.monotonic() + 60
while not (folder / "go").exists() and time.monotonic() < deadline:
    time.sleep(0.05)
"""


def listeners() -> dict[int, set[str]]:
    """{port: addresses} of what listens on this machine."""
    found: dict[int, set[str]] = {}
    for name in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]:
            local, state = line.split()[1], line.split()[3]
            if state == "0A":
                address, port = local.split(":")
                found.setdefault(int(port, 16), set()).add(address)
    return found


def open_ports() -> set[int]:
    """Ports that listen on more than the loopback."""
    local = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}
    return {port for port, places in listeners().items() if not places <= local}


def own_ports(pid: int) -> set[int]:
    """Ports on which a process listens."""
    inodes = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            inodes.add(str(entry.readlink()).removeprefix("socket:[").removesuffix("]"))
        except OSError:
            continue
    found = set()
    for name in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == "0A" and words[9] in inodes:
                found.add(int(words[1].split(":")[1], 16))
    return found


@pytest.fixture
def torchrun(tmp_path):
    """Starts the launcher's torchrun with ranks that wait for a file ``go``."""
    started = []

    def start(*arguments: str) -> subprocess.Popen:
        script = tmp_path / "work.py"
        script.write_text(WORK)
        command = [sys.executable, "-m", "memo_dist.cluster.torchrun", *arguments]
        process = subprocess.Popen([*command, str(script), str(tmp_path)], env=environment())
        started.append(process)
        return process

    yield start
    (tmp_path / "go").touch()
    for process in started:
        process.kill()
        process.wait()


def await_files(folder: Path, *names: str) -> None:
    deadline = time.monotonic() + 60
    while not all((folder / name).exists() for name in names):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_one_machine_meets_on_the_loopback_and_unpickles_nothing(torchrun, tmp_path):
    """On 1f7257c the agent read a pickle of whoever reached its port, on every interface."""
    process = torchrun("--standalone", "--nproc-per-node=2")
    await_files(tmp_path, "rank-0", "rank-1")
    assert (tmp_path / "rank-1").read_text() == "127.0.0.1"
    ports = own_ports(process.pid)
    assert ports
    assert not ports & open_ports()
    evil = tmp_path / "evil"
    payload = b64encode(pickle.dumps(Evil(evil)))
    for port in ports:
        stranger = TCPStore("127.0.0.1", port, None, False, timedelta(seconds=5))
        keys = [key for key in stranger.list_keys() if "rendezvous" in key]
        for key in [*keys, "torch.rendezvous.memo-dist"]:
            stranger.set(key, payload)
    time.sleep(6)  # torchrun's dynamic rendezvous reads its state every 5 s
    (tmp_path / "go").touch()
    assert process.wait(60) == 0
    assert not evil.exists()


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (Path(self.path),)


def test_two_machines_meet_at_the_first_ones_address(torchrun, tmp_path):
    (port,) = free_ports()
    where = ("--nnodes=2", f"--meet=127.0.0.1:{port}", f"--secret={tmp_path / 'meeting'}")
    first = torchrun(*where, "--nproc-per-node=1")
    while port not in own_ports(first.pid):
        time.sleep(0.05)
        assert first.poll() is None
    secret = tmp_path / "meeting"
    assert secret.stat().st_mode & 0o777 == 0o600
    run_id = secret.read_text()
    command = Path(f"/proc/{first.pid}/cmdline").read_text()
    assert run_id not in command  # every user of the machine may read that
    other = PrefixStore(run_id, TCPStore("127.0.0.1", port, None, False, SECONDS))
    one, two = (meeting.StaticMeeting("127.0.0.1", port, 2, run_id, 20) for _ in range(2))
    assert one._number(other) == 1
    with pytest.raises(RunError, match=r"machine 3 of launch\.nodes=2"):
        two._number(other)


def test_a_new_run_has_a_place_for_the_secret(tmp_path):
    """Nothing was trained yet: RUN/train does not exist."""
    run = tmp_path / "run"
    run.mkdir()
    secret = run / "train" / ".meeting"
    (first,) = (word for word in meeting.several_machines("h:1", secret) if "rdzv-id" in word)
    assert first == f"--rdzv-id={secret.read_text()}"
    assert first in meeting.several_machines("h:1", secret), "every machine reads the same"
    assert secret.parent.stat().st_mode & 0o777 == 0o700
    assert secret.stat().st_mode & 0o777 == 0o600
    nowhere = tmp_path / "none" / "train" / ".meeting"
    with pytest.raises(RunError, match=r"none/train/\.meeting cannot be written: No such file"):
        meeting.several_machines("h:1", nowhere)
    assert not nowhere.parent.parent.exists()


@pytest.mark.parametrize("nodes", [1, 2])
def test_machines_meet_where_the_others_reach_the_first(monkeypatch, nodes: int):
    """The first one's own name is 127.0.1.1; other machines know its address."""
    monkeypatch.setattr(address, "_resolved", lambda name: ["127.0.1.1"])
    monkeypatch.setattr(address, "_routed", lambda host: ["127.0.0.2"])
    monkeypatch.setattr(address, "is_loopback", lambda found: found == "127.0.1.1")
    first = meeting.StaticMeeting("localhost", 0, nodes, "name", 5)
    info = first.next_rendezvous()
    reached = {1: "localhost", 2: "127.0.0.2"}[nodes]
    assert info.bootstrap_store_info.master_addr == reached
    TCPStore(reached, info.bootstrap_store_info.master_port, None, False, SECONDS)


@pytest.mark.parametrize(("local", "reached"), [("1", "127.0.0.2"), ("2", "127.0.0.1")])
def test_rank_0_listens_where_other_machines_reach_it(monkeypatch, local: str, reached: str):
    monkeypatch.setattr(address, "_resolved", lambda name: ["127.0.1.1"])
    monkeypatch.setattr(address, "_routed", lambda host: ["127.0.0.2"])
    monkeypatch.setattr(address, "is_loopback", lambda found: found == "127.0.1.1")
    (port,) = free_ports()
    names = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": str(port),
             "LOCAL_WORLD_SIZE": local}  # fmt: skip
    for name, value in names.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE", raising=False)
    with ThreadPoolExecutor() as pool:
        coming = pool.submit(store.rank_store, SECONDS, 1)
        while port not in own_ports(os.getpid()):
            time.sleep(0.02)
        socket.create_connection((reached, port), 2).close()
        with pytest.raises(RunError, match=r"rank\(s\) 1 did not"):
            coming.result()


def test_a_taken_port_is_told(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(RunError, match=rf"cannot meet at 127\.0\.0\.1:{port}.*in use"):
            store.listening_store("127.0.0.1", port, 1, SECONDS)


def test_a_rank_alone_opens_no_port(monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE", raising=False)
    before = own_ports(os.getpid())
    assert isinstance(store.rank_store(SECONDS, 5), HashStore)
    assert own_ports(os.getpid()) == before


def test_ranks_meet_on_one_address(monkeypatch):
    (port,) = free_ports()
    names = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    for name, value in names.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE", raising=False)
    with ThreadPoolExecutor() as pool:
        coming = pool.submit(store.rank_store, SECONDS, 20)
        while port not in own_ports(os.getpid()):
            time.sleep(0.05)
        assert port not in open_ports()
        monkeypatch.setenv("RANK", "1")
        second = store.rank_store(SECONDS, 20)
        first = coming.result()
        waiting = pool.submit(store.await_event, second, "jobs")
        time.sleep(0.3)
        assert not waiting.done()
        store.announce(first, "jobs")
        waiting.result(5)
    threading.Timer(0.1, first.set, ("text", "yes")).start()
    assert second.get("text") == b"yes"


@pytest.mark.parametrize(("rank", "missing"), [("0", 1), ("1", 0)])
def test_ranks_that_do_not_come_are_named(monkeypatch, rank: str, missing: int):
    (port,) = free_ports()
    names = {"RANK": rank, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    for name, value in names.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE", raising=False)
    started = time.monotonic()
    with pytest.raises(RunError, match=rf"/2 ranks .*start_timeout\), rank\(s\) {missing} did not"):
        store.rank_store(SECONDS, 1)
    assert time.monotonic() - started < 10


def test_a_rank_that_waits_for_others_can_be_stopped(monkeypatch):
    (port,) = free_ports()
    names = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    for name, value in names.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE", raising=False)
    stop = StopFlag()
    monkeypatch.setattr(store, "STOP", stop)
    threading.Timer(0.5, setattr, (stop, "_signal", signal.SIGTERM)).start()
    with pytest.raises(StoppedError):
        store.rank_store(SECONDS, 60)


@pytest.mark.parametrize(("local_rank", "visible", "gpu"), [(5, 1, 0), (5, 8, 5), (3, 2, 1)])
def test_each_rank_takes_its_gpu(monkeypatch, local_rank: int, visible: int, gpu: int):
    taken: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: visible)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    monkeypatch.setenv("LOCAL_RANK", str(local_rank))
    ranks = Ranks(9, 16, local_rank)
    ranks.take_gpu()
    assert taken == [ranks.device] == [torch.device("cuda", gpu)]
    assert os.environ["LOCAL_RANK"] == str(gpu)
