"""The one place that starts Ray, or connects to it.

What was found out about Ray 2.60 and is relied on here:

- The daemons of a local session get ``PR_SET_PDEATHSIG``: the kernel kills them when the
  *thread* that started them ends, so a session must be opened in the main thread. Workers
  leave when their raylet is gone, but two agents linger for a minute; a guard process ends
  them, so that a driver killed with -9 leaves nothing behind (see ``guard.py``).
  https://github.com/ray-project/ray/pull/7150
- ``ray.init`` replaces the driver's SIGTERM handler (by one that calls ``sys.exit``) and never
  puts the old one back; it leaves SIGINT alone and blocks SIGINT in its daemons. Here a
  handler that stood before ``ray.init`` stands again right after it, and after the session;
  handlers installed inside the session stay.
  https://github.com/ray-project/ray/pull/39482
- A signal to the whole process group (``timeout``, ``scancel``) also reaches the daemons,
  which run in the driver's group: after a SIGTERM of that kind Ray calls fail while the
  driver lives on. Loops over Ray results ask for a stop request before they believe a failure.
  https://github.com/ray-project/ray/pull/6008
- Whoever reaches Ray's ports without its token being asked for runs code as the owner. A local
  session has a token of its own, and listens on the loopback alone; a cluster must ask for one
  (see ``ray_token.py``).
- ``ray stop`` and ``ray.init(address="auto")`` see every Ray on the machine; neither is used.
  https://github.com/ray-project/ray/issues/12264
"""

from __future__ import annotations

import logging
import os
import shlex
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray

from memo_dist import process
from memo_dist.cluster import guard, ray_token
from memo_dist.cluster.leftovers import claim, clean_sessions, start_guard
from memo_dist.cluster.resources import (
    RAY_ADDRESSES,
    Resources,
    check_addresses,
    detect_resources,
    object_store_bytes,
)
from memo_dist.cluster.stop import STOP
from memo_dist.config import origin
from memo_dist.config.schema import ClusterConfig
from memo_dist.errors import RunError, StoppedError

logger = logging.getLogger(__name__)

TEMP_PREFIX = "memo-ray-"
PRIVATE = {"RAY_USAGE_STATS_ENABLED": "0"}
"""A local Ray reports nothing to anybody."""
_ONE_MACHINE = {
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
}
"""Of Ray Train on one machine, unless the user set it otherwise: nobody takes a node away, so no
process need watch for that; and a training's end is seen at once, not two seconds later."""
WORKER_ENV = {"OMP_WAIT_POLICY": "PASSIVE"}
"""A waiting OpenMP thread must sleep: where ranks share cores, spinning costs a factor of 50."""


@contextmanager
def ray_session(
    cluster: ClusterConfig, cores: int | None = None, env: Mapping[str, str] | None = None
) -> Iterator[Resources]:
    """A connected Ray, for as long as the ``with`` block lasts; yields what it offers.

    Nested use in one process shares the outer session (then ``cores`` and ``env`` of the
    outer one hold). Without ``cluster.address`` Ray starts on this machine and ends with the
    block, its temporary folder included.

    Args:
        cluster: address and ``start_timeout`` (seconds).
        cores: cores that a local Ray offers; None offers all that this process may use.
        env: environment variables for the workers, beside :data:`WORKER_ENV`.

    Raises:
        RunError: Ray did not start, or the address did not answer, within the deadline.
        UsageError: Ray's authentication is switched off, there is no token for the cluster,
            only the run folder has named it, or ``ulimit -v`` leaves no room for Ray.
    """
    if ray.is_initialized():
        yield _cluster_resources()
        return
    if threading.current_thread() is not threading.main_thread():
        raise RunError("the Ray session must be opened in the main thread, or it dies with another")
    chosen = {name: getattr(cluster, name) for name in ("address", "authentication")}
    origin.check({f"cluster.{name}": value for name, value in chosen.items()})
    ray_token.check_environment(cluster)
    check_addresses(RAY_ADDRESSES, "Ray")
    variables = {**WORKER_ENV, **(env or {})}
    with _kept_signal_handlers():
        if cluster.address:
            yield from _connected(cluster, variables)
        else:
            yield from _started(cluster, cores, variables)


def await_workers(cluster: ClusterConfig, gpus: int = 0) -> None:
    """Run one empty task, so that a cluster without room is found out before real work waits.

    Raises:
        RunError: no worker with one core and ``gpus`` GPUs came up within
            ``cluster.start_timeout`` seconds; says what is there and what was wanted.
    """
    reference = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=3)(_nothing).remote()
    try:
        ray.get(reference, timeout=cluster.start_timeout)
    except (ray.exceptions.RayError, TimeoutError) as error:
        ray.cancel(reference, force=True)
        raise RunError(
            f"no Ray worker within {cluster.start_timeout:.0f} s (cluster.start_timeout): "
            f"want 1 core and {gpus} GPUs, have free {_free_resources()} "
            f"({type(error).__name__})"
        ) from error


def _nothing() -> None:
    """The task of :func:`await_workers`."""


def _connected(cluster: ClusterConfig, env: dict[str, str]) -> Iterator[Resources]:
    _await_address(cluster)
    options = {"address": cluster.address, "runtime_env": {"env_vars": env}}
    with ray_token.of_cluster(cluster):
        yield from _initialised(cluster, options, {})


def _started(cluster: ClusterConfig, cores: int | None, env: dict[str, str]) -> Iterator[Resources]:
    found = detect_resources()
    env = {**process.accelerator_environment(bool(found.gpus)), **env}
    with _guarded_folder() as folder:
        options = {
            "address": "local",
            "num_cpus": cores or found.cores,
            "num_gpus": found.gpus,
            "include_dashboard": False,
            "object_store_memory": object_store_bytes(),
            # Ray opens its own folder to everybody (0777); the one around it is ours alone.
            "_temp_dir": str(folder / "r"),
            **_quoted_interpreter(),
        }
        # Workers inherit the daemons' variables. As a runtime environment these would cost a new
        # process for every worker instead of one that Ray has started ahead (2 s against 0.5 s).
        # https://github.com/ray-project/ray/issues/33621
        daemons = {**PRIVATE, **_unless_set(_ONE_MACHINE), **env, guard.MARK: str(folder)}
        with ray_token.of_session(cluster, folder):
            yield from _initialised(cluster, options, daemons)


def _unless_set(variables: Mapping[str, str]) -> dict[str, str]:
    return {key: os.environ.get(key, value) for key, value in variables.items()}


def _quoted_interpreter() -> dict[str, Any]:
    """Ray starts workers through a shell and quotes everything but the interpreter (2.60,
    RuntimeEnvContext.exec_worker): a space in its path would end every worker."""
    # https://github.com/ray-project/ray/issues/5288
    quoted = shlex.quote(sys.executable)
    return {} if quoted == sys.executable else {"runtime_env": {"py_executable": quoted}}


def _initialised(
    cluster: ClusterConfig, options: dict[str, Any], daemons: Mapping[str, str]
) -> Iterator[Resources]:
    """Start with ``options``, yield the resources, and shut down whatever happens.

    The variables ``daemons`` are set only while Ray starts its daemons, which inherit them.
    """
    try:
        with _environment(daemons):
            _init_until_deadline(cluster, options)
        _await_nodes(cluster)
        yield _cluster_resources()
    finally:
        ray.shutdown()


def _init_until_deadline(cluster: ClusterConfig, options: dict[str, Any]) -> None:
    """``ray.init``, again while time is left: a busy machine may miss Ray's own 30 s."""
    # https://github.com/ray-project/ray/issues/65983
    deadline = time.monotonic() + cluster.start_timeout
    while True:
        handler = signal.getsignal(signal.SIGTERM)
        try:
            ray.init(logging_level=logging.ERROR, log_to_driver=False, **options)
            return
        except SystemExit as error:  # Ray's own SIGTERM handler, which stands during ray.init
            if not callable(handler):
                raise
            handler(signal.SIGTERM, None)
            raise StoppedError(
                "stopped while Ray was starting: run the same command again"
            ) from error
        except Exception as error:
            _check_start_deadline(cluster, deadline, error)
            logger.warning("Ray did not start, trying again: %s", error)
        finally:
            if callable(handler):
                signal.signal(signal.SIGTERM, handler)
        ray.shutdown()


def _check_start_deadline(cluster: ClusterConfig, deadline: float, error: Exception) -> None:
    if time.monotonic() >= deadline:
        where = cluster.address or "this machine"
        raise RunError(
            f"Ray did not start on {where} within {cluster.start_timeout:.0f} s "
            f"(cluster.start_timeout): want 1 node, have 0; last error: {error}"
        ) from error


def _await_nodes(cluster: ClusterConfig) -> None:
    """Wait until ``cluster.nodes`` have joined.

    Raises:
        RunError: not before the deadline; says have and want.
        StoppedError: a stop was requested meanwhile.
    """
    deadline = time.monotonic() + cluster.start_timeout
    told = -1
    while (have := _alive_nodes()) < cluster.nodes:
        if STOP():
            raise STOP.error("waiting for Ray's nodes; run the same command again")
        if time.monotonic() >= deadline:
            raise RunError(
                f"{have}/{cluster.nodes} Ray nodes (cluster.nodes) have joined"
                f" {cluster.address or 'this machine'} after {cluster.start_timeout:.0f} s"
                " (cluster.start_timeout): see the logs of the nodes that are missing, or lower"
                " cluster.nodes"
            )
        if have != told:
            told = have
            print(f"Ray: {have}/{cluster.nodes} nodes", file=sys.stderr, flush=True)
        time.sleep(0.5)


def _alive_nodes() -> int:
    return sum(bool(node["Alive"]) for node in ray.nodes())


def _await_address(cluster: ClusterConfig) -> None:
    """Wait until something listens at the address; ``ray.init`` itself would wait for minutes."""
    host, _, port = cluster.address.rpartition("://")[2].rpartition(":")
    if not port.isdigit():
        return
    deadline = time.monotonic() + cluster.start_timeout
    while True:
        try:
            socket.create_connection((host, int(port)), timeout=5).close()
            return
        except OSError as error:
            if time.monotonic() >= deadline:
                raise RunError(
                    f"no Ray at cluster.address={cluster.address} within "
                    f"{cluster.start_timeout:.0f} s (cluster.start_timeout): {error}"
                ) from error
        time.sleep(min(1.0, cluster.start_timeout / 4))


@contextmanager
def _kept_signal_handlers() -> Iterator[None]:
    """Put SIGTERM's handler back at the end, unless the caller has installed another since."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        now = signal.getsignal(signal.SIGTERM)
        if getattr(now, "__module__", "").startswith("ray."):
            signal.signal(signal.SIGTERM, before)


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables that the daemons inherit, and put the old ones back."""
    before = {key: os.environ.get(key) for key in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                del os.environ[key]
            else:
                os.environ[key] = value


@contextmanager
def _guarded_folder() -> Iterator[Path]:
    """A short folder for Ray's sockets (a socket's path has at most 107 characters).

    A guard process ends the session's processes and removes the folder if the driver dies.
    """
    # https://github.com/ray-project/ray/issues/7724
    parent = Path("/tmp")  # noqa: S108 (TMPDIR is often too long; mkdtemp makes a private one)
    if not os.access(parent, os.W_OK):
        parent = Path(tempfile.gettempdir())
    clean_sessions(parent, TEMP_PREFIX)
    folder = tempfile.mkdtemp(prefix=TEMP_PREFIX, dir=parent)
    claim(Path(folder))
    watcher = start_guard(Path(folder))
    try:
        yield Path(folder)
    finally:
        watcher.kill()
        watcher.wait()
        guard.end_session(folder, settle=0.0)  # ray.shutdown has ended the daemons


def _cluster_resources() -> Resources:
    return _as_resources(ray.cluster_resources)


def _free_resources() -> Resources:
    return _as_resources(ray.available_resources)


def _as_resources(ask: Callable[[], dict[str, float]]) -> Resources:
    offered = ask()
    return Resources(
        cores=int(offered.get("CPU", 0)),
        gpus=int(offered.get("GPU", 0)),
        memory_bytes=int(offered.get("memory", 0)),
    )
