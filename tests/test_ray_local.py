"""Ray sessions: what is started is ended, whatever happens to the driver."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest
import ray

from memo_dist.cluster import ray_local
from memo_dist.cluster.ray_local import await_workers, ray_session
from memo_dist.cluster.resources import usable_cores, usable_memory
from memo_dist.config.schema import ClusterConfig
from memo_dist.errors import RunError, UsageError

pytestmark = pytest.mark.alone

DRIVER = """
import signal, sys, time
from pathlib import Path
from memo_dist.cluster.ray_local import await_workers, ray_session
from memo_dist.config.schema import ClusterConfig

stop = []
signal.signal(signal.SIGTERM, lambda *_: stop.append(1))
with ray_session(ClusterConfig(), cores=1):
    await_workers(ClusterConfig())
    Path(sys.argv[1]).touch()
    while not stop:
        time.sleep(0.05)
print("stopped by its own handler")
"""


@pytest.fixture
def driver(tmp_path):
    """(process, its tag) of a driver with an open session; all its descendants carry the tag."""
    tag = f"MEMO_TEST_TAG={uuid.uuid4()}"
    key, value = tag.split("=")
    ready = tmp_path / "ready"
    process = subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(ready)],
        env={**os.environ, key: value},
        stdout=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 90
    while not ready.exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    yield process, tag
    process.kill()
    process.wait()


def tagged(tag: str) -> dict[int, str]:
    """Pids and commands of the living processes with ``tag`` in their environment."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if tag.encode() in (folder / "environ").read_bytes().split(b"\0"):
                found[int(folder.name)] = (folder / "cmdline").read_text().replace("\0", " ")
        except OSError:
            continue
    return found


def wait_until_gone(tag: str, seconds: float) -> dict[int, str]:
    deadline = time.monotonic() + seconds
    while tagged(tag) and time.monotonic() < deadline:
        time.sleep(0.1)
    return tagged(tag)


def test_a_killed_driver_leaves_no_process(driver):
    process, tag = driver
    commands = " ".join(tagged(tag).values())
    assert "raylet" in commands
    assert "gcs_server" in commands
    assert "ray::" in commands  # a worker
    folder = Path(re.search(rf"/tmp/{ray_local.TEMP_PREFIX}\w+", commands)[0])
    assert folder.exists()
    process.kill()
    process.wait()
    assert wait_until_gone(tag, 15) == {}
    assert not folder.exists()


def test_the_drivers_own_sigterm_handler_stays_in_force(driver):
    process, tag = driver
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert output.strip() == "stopped by its own handler"
    assert process.returncode == 0
    assert wait_until_gone(tag, 20) == {}


def test_a_session_gives_workers_their_environment_and_cleans_up():
    def environment() -> dict[str, str]:
        return dict(os.environ)

    before = signal.getsignal(signal.SIGTERM)
    with ray_session(ClusterConfig(), cores=1, env={"MEMO_TEST": "here"}) as offered:
        assert offered.cores == 1
        folder = Path(ray_folder()).parent
        assert folder.name.startswith(ray_local.TEMP_PREFIX)
        found = ray.get(ray.remote(environment).remote())
        with ray_session(ClusterConfig()) as inner:  # shares the outer one
            assert inner.cores == 1
        assert ray.is_initialized()
        cluster = ClusterConfig(start_timeout=1.0)
        with pytest.raises(RunError, match=r"want 1 core and 8 GPUs, have free 1 cores, 0 GPUs"):
            await_workers(cluster, gpus=8)
    assert found["MEMO_TEST"] == "here"
    assert found["OMP_WAIT_POLICY"] == "PASSIVE"
    assert not ray.is_initialized()
    assert not folder.exists()
    assert signal.getsignal(signal.SIGTERM) == before


def ray_folder() -> str:
    """The temporary folder of the present session."""
    return str(Path(ray._private.worker.global_worker.node.get_session_dir_path()).parent)


def test_an_address_where_nothing_listens_ends_at_the_deadline():
    with socket.socket() as taken:  # bound but not listening: connections are refused
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        start = time.monotonic()
        cluster = ClusterConfig(address=address, start_timeout=0.5)
        with (
            pytest.raises(RunError, match=f"no Ray at cluster.address={address} within"),
            ray_session(cluster),
        ):
            pass
    assert time.monotonic() - start < 10


def test_too_little_address_space_is_refused_before_ray_ends_the_process(monkeypatch):
    """Ray's C++ aborted (exit code -6) where one of its threads could not start."""
    monkeypatch.setattr("memo_dist.cluster.resources.address_limit", lambda: 2 * 2**30)
    refusal = pytest.raises(UsageError, match=r"2\.00 GiB of address space, and Ray reserves 4")
    with refusal, ray_session(ClusterConfig()):
        pass


def test_cores_follow_the_affinity():
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert usable_cores() == 1
    finally:
        os.sched_setaffinity(0, before)
    assert 1 <= usable_cores() <= len(before)
    assert 2**20 < usable_memory() <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
