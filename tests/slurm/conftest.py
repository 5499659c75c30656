"""One cluster for all tests of this folder, or the reason why there is none here."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
from cli import tiny_corpus
from slurm_cluster import HERE, Cluster

PACKAGES = "apt-get install -y --no-install-recommends slurm-wlm munge iproute2"
SMALL_DISK = "96k"


def missing() -> str:
    """Why no cluster can be started here; empty where it can."""
    path = os.environ["PATH"] + ":/usr/sbin:/sbin"
    wanted = ("munged", "slurmctld", "slurmd", "sbatch", "ip", "nsenter", "unshare")
    absent = [name for name in wanted if not shutil.which(name, path=path)]
    if absent:
        return f"no {', '.join(absent)} here: as root, {PACKAGES}"
    if os.geteuid() != 0:
        return "a cluster of namespaces on one machine needs root"
    command = ["unshare", "--net", "--uts", "--ipc", "--pid", "--mount", "--fork", "true"]
    tried = subprocess.run(command, capture_output=True, text=True)
    return f"namespaces are not allowed here: {tried.stderr.strip()}" if tried.returncode else ""


def _end_with_this_process(state: Path, disk: Path) -> subprocess.Popen[bytes]:
    """A watcher that ends the cluster where pytest itself is killed and no fixture cleans up."""
    script = 'while kill -0 "$1" 2>/dev/null; do sleep 1; done; "$2" "$3"; umount "$4"'
    words = ["bash", "-c", script, "watch", os.getpid(), HERE / "stop.sh", state, disk]
    return subprocess.Popen(
        [str(word) for word in words], stdin=subprocess.DEVNULL, start_new_session=True
    )


@pytest.fixture(scope="session")
def cluster(tmp_path_factory):
    reason = missing()
    if reason:
        pytest.skip(f"Slurm: {reason}")
    state = Path(tempfile.mkdtemp(prefix="slt-", dir="/tmp"))  # short: unix sockets
    work = tmp_path_factory.mktemp("slurm")
    small = work / "small-disk"
    small.mkdir()
    # Before the nodes start, so that each sees it: a shared disk that is soon full.
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SMALL_DISK}", "tmpfs", str(small)]
    subprocess.run(mount, check=True)
    watch = _end_with_this_process(state, small)
    settings = {"SLT_CPUS": "4", "SLT_MEM": "8000", "SLT_PRIVATE": "/dev/shm /tmp/memo-ray-0"}
    try:
        started = subprocess.run(
            [HERE / "start.sh", state],
            env={**os.environ, **settings},
            capture_output=True,
            text=True,
        )
        assert started.returncode == 0, started.stderr
        yield Cluster(state, work)
    finally:
        stopped = subprocess.run([HERE / "stop.sh", state], capture_output=True, text=True)
        subprocess.run(["umount", str(small)], check=True)
        watch.kill()
        watch.wait()
        assert stopped.returncode == 0, stopped.stderr


@pytest.fixture(scope="session")
def corpus(cluster):
    return tiny_corpus(cluster.work / "documents")
