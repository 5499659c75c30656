"""Ray over the nodes of one Slurm job: every node runs this, as one task of one ``srun`` step.

    srun --ntasks-per-node=1 python -m memo_dist.launch.ray_nodes VERB ARGS

The first task starts Ray's head on free ports and leaves its address in the job's folder on the
shared file system, by renaming; the others wait for it there with a deadline and join. The first
one then runs the verb, which waits until all nodes have joined (``cluster.nodes``). When it has
ended, each task ends its own Ray, by the mark in its processes' environment: other jobs on the
node, and their Ray, are left alone. Exit code: the verb's.

A stop request is the file ``stop`` in the job's folder: a signal to a Slurm step may reach all its
processes, and would end Ray before the verb has saved.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from memo_dist.cluster import guard
from memo_dist.cluster.address import own_address
from memo_dist.cluster.leftovers import start_guard
from memo_dist.cluster.rendezvous import free_port, node_name
from memo_dist.cluster.resources import object_store_bytes, usable_cores
from memo_dist.errors import MemoDistError, RunError
from memo_dist.io import atomic, permissions
from memo_dist.launch.verbs import parse_verb

FOLDER_VARIABLE = "MEMO_DIST_JOB_FOLDER"
POLL_SECONDS = 0.5
LEAVE_SECONDS = 30.0
"""Seconds that nodes have to end their Ray once the verb has ended."""
START_ATTEMPTS = 3
"""A free port may be taken by another job before Ray binds it."""


@dataclass(frozen=True)
class Place:
    """This task among the job's nodes.

    Attributes:
        node: 0-based; 0 is the head.
        nodes: how many there are.
        host: the node's name.
        shared: the job's folder on the shared file system.
        timeout: seconds to wait for Ray and for the other nodes (``cluster.start_timeout``).
    """

    node: int
    nodes: int
    host: str
    shared: Path
    timeout: float

    @property
    def ip(self) -> str:
        """Where this node's Ray listens.

        Raises:
            RunError: the other nodes could not reach it.
        """
        return own_address(self.host) if self.nodes > 1 else socket.gethostbyname(self.host)

    @property
    def address(self) -> Path:
        """Where the head's address is."""
        return self.shared / "address.json"

    @property
    def end(self) -> Path:
        """There once the verb has ended."""
        return self.shared / "end.json"

    @property
    def token(self) -> Path:
        """The cluster's secret, for this job alone."""
        return self.shared / "token"

    def left(self, node: int) -> Path:
        """There once a node has ended its Ray."""
        return self.shared / f"left-{node}"


def find_place(timeout: float) -> Place:
    """This task's place, from what Slurm and the batch script set.

    Raises:
        RunError: this is no task of a job that the ``ray`` recipe started.
    """
    try:
        return Place(
            node=int(os.environ["SLURM_PROCID"]),
            nodes=int(os.environ["SLURM_STEP_NUM_TASKS"]),
            host=node_name(),
            shared=Path(os.environ[FOLDER_VARIABLE]),
            timeout=timeout,
        )
    except KeyError as error:
        raise RunError(f"{error} is not set: this runs inside slurm/ray.sbatch") from None


class RayHere:
    """Ray on this node: one ``ray start --block`` with its daemons, ended by :meth:`close`."""

    def __init__(self, place: Place, arguments: list[str]) -> None:
        self.folder = temp_folder()
        self._environment = {
            **os.environ,
            guard.MARK: str(self.folder),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(place.token),
        }
        self._log = (place.shared / f"ray-{place.node}.log").open("ab")
        self._process: subprocess.Popen[bytes] | None = None
        self._watcher = start_guard(self.folder)
        command = [sys.executable, "-c", "from ray.scripts.scripts import main; main()", "start"]
        self._command = [*command, "--block", "--disable-usage-stats", *_shape(), *arguments]

    def start(self, extra: list[str]) -> None:
        """Start it with ``extra`` arguments."""
        self._process = subprocess.Popen(
            [*self._command, *extra],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            env=self._environment,
        )

    def alive(self) -> bool:
        """Whether it runs; it ends when one of its daemons does."""
        return self._process is not None and self._process.poll() is None

    def last_words(self) -> str:
        """The end of its log, in one line."""
        text = Path(self._log.name).read_text(errors="replace")
        return " | ".join(line.strip() for line in text.splitlines()[-4:] if line.strip())

    def close(self) -> None:
        """End its processes, each that carries the mark, and remove the folder."""
        if self._process is not None and self.alive():
            self._process.kill()
            self._process.wait()
        guard.end_session(str(self.folder), settle=0.5)
        self._watcher.kill()
        self._watcher.wait()
        self._log.close()


def temp_folder() -> Path:
    """Ray's folder on this node: short (socket paths), of this user, job and life alone."""
    # https://github.com/ray-project/ray/issues/7724
    job, life = os.environ.get("SLURM_JOB_ID", "0"), os.environ.get("SLURM_RESTART_COUNT", "0")
    parent = Path("/tmp") / f"memo-ray-{os.getuid()}"  # noqa: S108 (0700, and checked below)
    parent.mkdir(mode=0o700, exist_ok=True)
    found = parent.lstat()
    if found.st_uid != os.getuid() or not stat.S_ISDIR(found.st_mode):
        raise RunError(
            f"{parent} is another user's, or a link: remove it on {socket.gethostname()}"
        )
    parent.chmod(0o700)
    folder = parent / f"{job}.{life}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700)
    return folder


def _shape() -> list[str]:
    """What this node offers: what Slurm granted, and no port that another job may have."""
    cpus = os.environ.get("SLURM_CPUS_PER_TASK") or os.environ.get("SLURM_CPUS_ON_NODE")
    cores = int(cpus) if cpus else usable_cores()
    gpus = int(os.environ.get("SLURM_GPUS_ON_NODE") or 0)
    random = ("min-worker-port", "max-worker-port", "dashboard-agent-listen-port")
    return [
        f"--num-cpus={cores}",
        f"--num-gpus={gpus}",
        f"--object-store-memory={object_store_bytes()}",
        *(f"--{name}=0" for name in random),
    ]


def run_head(place: Place, words: list[str]) -> int:
    """Start Ray's head, run the verb on it, and end everything; returns the verb's exit code."""
    permissions.make_folder(place.shared, group_readable=False)
    with permissions.creating(group_readable=False):
        atomic.write_text(place.token, secrets.token_hex(32))
    ray = RayHere(place, ["--head", "--include-dashboard=false"])
    code = 1
    try:
        address = _start_head(place, ray)
        atomic.write_json(place.address, {"address": address})
        code = _run_verb(place, ray, words, address)
    finally:
        with _ignoring_disk():
            atomic.write_json(place.end, {"code": code})
        ray.close()
    _await_leaving(place)
    return code


def _start_head(place: Place, ray: RayHere) -> str:
    deadline = time.monotonic() + place.timeout
    host = place.ip
    for attempt in range(START_ATTEMPTS):
        port = free_port()
        extra = [f"--temp-dir={ray.folder}", f"--node-ip-address={host}", f"--port={port}"]
        ray.start([*extra, f"--ray-client-server-port={free_port()}"])
        while ray.alive():
            if _listens(host, port):
                return f"{host}:{port}"
            if time.monotonic() >= deadline:
                raise RunError(
                    f"Ray's head on {place.host} did not start within {place.timeout:.0f} s"
                    f" (cluster.start_timeout): want 1, have 0; {ray.last_words()}"
                )
            time.sleep(POLL_SECONDS)
        _say(place, f"Ray's head ended while starting (attempt {attempt + 1} of {START_ATTEMPTS})")
    raise RunError(f"Ray's head on {place.host} does not start: {ray.last_words()}")


def _listens(host: str, port: int) -> bool | None:
    """Whether somebody listens there; None where that cannot be told (slow to answer)."""
    try:
        socket.create_connection((host, port), timeout=2).close()
    except ConnectionRefusedError:
        return False
    except OSError:
        return None
    return True


def _run_verb(place: Place, ray: RayHere, words: list[str], address: str) -> int:
    """The verb as a process that joins this Ray; watched until it ends."""
    more = [f"cluster.address={address}", f"cluster.nodes={place.nodes}", "cluster.launcher=ray"]
    environment = {
        **os.environ,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(place.token),
    }
    verb = subprocess.Popen([sys.executable, "-m", "memo_dist", *words, *more], env=environment)
    _TERM.append(lambda: verb.send_signal(signal.SIGTERM))
    stopping = False
    host, port = address.rsplit(":", 1)
    while (code := verb.poll()) is None:
        if not stopping and (place.shared / "stop").exists():
            stopping = True
            verb.send_signal(signal.SIGUSR1)
        # ``ray start`` notices the death of a daemon late while it is itself still starting.
        if not ray.alive() or _listens(host, int(port)) is False:
            return _end_orphan(place, ray, verb)
        time.sleep(POLL_SECONDS)
    return code if code >= 0 else 128 - code


def _end_orphan(place: Place, ray: RayHere, verb: subprocess.Popen[bytes]) -> int:
    """Ray's head is gone: the verb finds that out itself, or is ended."""
    _say(place, f"Ray's head on {place.host} ended: want 1, have 0; {ray.last_words()}")
    _say(place, "submit the job again: the run continues from its newest complete state")
    try:
        verb.wait(LEAVE_SECONDS)
    except subprocess.TimeoutExpired:
        verb.kill()
        verb.wait()
    return verb.returncode if verb.returncode and verb.returncode > 0 else 1


def _await_leaving(place: Place) -> None:
    """Wait for the other nodes: a task that ends with an error makes srun kill the others."""
    deadline = time.monotonic() + LEAVE_SECONDS
    others = range(1, place.nodes)
    while time.monotonic() < deadline:
        if all(place.left(node).exists() for node in others):
            return
        time.sleep(POLL_SECONDS)
    missing = [node for node in others if not place.left(node).exists()]
    _say(place, f"{place.nodes - len(missing)}/{place.nodes} nodes have ended their Ray; srun ends"
         f" node(s) {missing}")  # fmt: skip


def run_member(place: Place) -> int:
    """Join the head's Ray, stay until the verb has ended, and end this node's Ray."""
    address = _await_address(place)
    if address is None:
        return 0
    ray = RayHere(place, [f"--address={address}"])
    try:
        ray.start([f"--node-ip-address={place.ip}"])
        while not place.end.exists():
            if not ray.alive():
                return _ray_ended(place, ray)
            time.sleep(POLL_SECONDS)
    finally:
        ray.close()
        with _ignoring_disk():
            atomic.write_text(place.left(place.node), "")
    return 0


def _await_address(place: Place) -> str | None:
    """The head's address; None where the verb has ended before Ray was there."""
    deadline = time.monotonic() + place.timeout
    while not place.address.exists():
        if place.end.exists():
            atomic.write_text(place.left(place.node), "")
            return None
        if time.monotonic() >= deadline:
            raise RunError(
                f"no address of Ray's head in {place.address} within {place.timeout:.0f} s"
                " (cluster.start_timeout): want 1, have 0; does the head's log say why, and is the"
                " folder of the submission on a file system that all nodes share?"
            )
        time.sleep(POLL_SECONDS)
    return str(atomic.read_json(place.address)["address"])


def _ray_ended(place: Place, ray: RayHere) -> int:
    """Ray here is gone: because the head ended everything, or it failed."""
    # The head gives its verb LEAVE_SECONDS to end; srun ends all once one task has failed.
    deadline = time.monotonic() + 1.5 * LEAVE_SECONDS
    while time.monotonic() < deadline:
        if place.end.exists():
            return 0
        time.sleep(POLL_SECONDS)
    _say(place, f"Ray on {place.host} ended while the job runs: {ray.last_words()}")
    return 1


_TERM: list[Callable[[], Any]] = []
"""What a SIGTERM to this task does: the head passes it on to the verb, the others stay."""


def _on_term(number: int, frame: FrameType | None) -> None:
    for act in _TERM:
        act()


@contextmanager
def _ignoring_disk() -> Iterator[None]:
    """On a full disk the other nodes end by their srun; the first error is the one to show."""
    try:
        yield
    except OSError as error:
        print(f"memo-dist: cannot write the job's folder: {error}", file=sys.stderr, flush=True)


def _say(place: Place, line: str) -> None:
    print(f"memo-dist, node {place.host} ({place.node + 1} of {place.nodes}): {line}", flush=True)


def main(words: list[str]) -> int:
    """Be the head or one of the others; returns the task's exit code."""
    signal.signal(signal.SIGTERM, _on_term)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # inherited by Ray's daemons
    try:
        place = find_place(parse_verb(words).config().cluster.start_timeout)
        return run_head(place, words) if place.node == 0 else run_member(place)
    except MemoDistError as error:
        print(f"memo-dist: {error}", file=sys.stderr, flush=True)
        return error.exit_code
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        print(f"memo-dist: {error.strerror or error}{where}", file=sys.stderr, flush=True)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
