"""Ray's token, without which its ports are open: whoever reaches them runs code as their owner.

Of Ray 2.60: the mode and the token come from the environment (``RAY_AUTH_MODE``,
``RAY_AUTH_TOKEN``, ``RAY_AUTH_TOKEN_PATH``) or from ``~/.ray/auth_token``; both are read once and
kept, so a process that opens a second session must make Ray read them again. Ray writes that file
for everybody to read, so a local session has a file of its own.
https://docs.ray.io/en/latest/ray-security/token-auth.html
"""

from __future__ import annotations

import importlib
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from memo_dist.config.schema import ClusterConfig
from memo_dist.errors import UsageError

MODE, TOKEN, TOKEN_PATH = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"
DEFAULT_FILE = Path("~/.ray/auth_token")
_ASK = """
import sys
from ray._raylet import GcsClient
GcsClient(address=sys.argv[1]).get_all_node_info(timeout=10)
"""
"""A question to a cluster that changes nothing there."""
_ASK_SECONDS = 60


def check_environment(cluster: ClusterConfig) -> None:
    """Refuse an environment in which Ray requires no token.

    Raises:
        UsageError: it is switched off there, and ``cluster.authentication`` is not.
    """
    mode = os.environ.get(MODE)
    if cluster.authentication == "token" and mode is not None and mode.lower() != "token":
        raise UsageError(
            f"{MODE}={mode} switches Ray's authentication off: whoever reaches its ports runs code"
            f" as you; unset it, or set cluster.authentication=none"
        )


def token_file() -> Path | None:
    """The file of this user's token, where it is in a file."""
    named = os.environ.get(TOKEN_PATH)
    path = Path(named).expanduser() if named else DEFAULT_FILE.expanduser()
    return path if path.is_file() else None


def readable_by_others(path: Path) -> bool:
    """Whether other users may read a file, as far as its own mode says."""
    return bool(path.stat().st_mode & 0o077)


@contextmanager
def of_session(cluster: ClusterConfig, folder: Path) -> Iterator[None]:
    """Of a session on this machine: its own token in ``folder``, and the loopback alone."""
    if cluster.authentication == "none":
        with _environment({MODE: "disabled"}), _loopback():
            yield
        return
    file = folder / "token"
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as stream:
        stream.write(secrets.token_hex(32))
    # Without RAY_AUTH_TOKEN, which would win over the file.
    with _environment({MODE: "token", TOKEN_PATH: str(file), TOKEN: None}), _loopback():
        yield


@contextmanager
def of_cluster(cluster: ClusterConfig) -> Iterator[None]:
    """Of a running cluster: the user's token for it.

    Raises:
        UsageError: there is none, others may read it, or the cluster requires none.
    """
    if cluster.authentication == "none":
        yield
        return
    if not os.environ.get(TOKEN):
        _check_file(cluster)
    if is_open(cluster.address):
        raise UsageError(
            f"the Ray cluster at cluster.address={cluster.address} requires no token: whoever"
            f" reaches it runs code as its owner; start it with {MODE}=token (docs/launching.md),"
            " or set cluster.authentication=none"
        )
    with _environment({MODE: "token"}):
        yield


def _check_file(cluster: ClusterConfig) -> None:
    file = token_file()
    if file is None:
        raise UsageError(
            f"no token for the Ray cluster at cluster.address={cluster.address}: name its file with"
            f" {TOKEN_PATH}=FILE, or put it into {DEFAULT_FILE}; a cluster that has none needs"
            " cluster.authentication=none"
        )
    if readable_by_others(file):
        raise UsageError(
            f"other users may read the Ray token in {file}, and run code as you with it:"
            f" chmod 600 {file}"
        )


def is_open(address: str) -> bool:
    """Whether a cluster answers who shows no token; False where that cannot be told.

    Asked by another process: this one may have read its token.
    """
    host = address.rpartition("://")[2]
    if address.startswith("ray://") or ":" not in host:
        return False  # Ray's client: another protocol
    environment = {key: value for key, value in os.environ.items() if key != TOKEN} | {
        MODE: "disabled"
    }
    try:
        asked = subprocess.run(
            [sys.executable, "-c", _ASK, host],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=_ASK_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return False
    return asked.returncode == 0


@contextmanager
def _loopback() -> Iterator[None]:
    """While Ray starts here: its daemons listen on the loopback, as they do on macOS.

    Ray takes 127.0.0.1 as the node's address for another one that the network reaches; this
    variable of its own is the way to keep it.
    """
    # https://github.com/ray-project/ray/issues/18730
    from ray._private import ray_constants

    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        with _variables({ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR: "0"}):
            yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


@contextmanager
def _environment(variables: Mapping[str, str | None]) -> Iterator[None]:
    """Variables of authentication, which Ray then reads anew."""
    try:
        with _variables(variables):
            _read_again()
            yield
    finally:
        _read_again()


def _read_again() -> None:
    raylet: Any = importlib.import_module("ray._raylet")  # compiled: it has no types
    raylet.Config.initialize("")
    raylet.AuthenticationTokenLoader.instance().reset_cache()


@contextmanager
def _variables(variables: Mapping[str, str | None]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    _set(variables)
    try:
        yield
    finally:
        _set(before)


def _set(variables: Mapping[str, str | None]) -> None:
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
