"""Ray's ports: who reaches them without the token runs nothing, and few can reach them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import ray
from test_meeting import open_ports, own_ports

from memo_dist.cluster import guard, ray_token
from memo_dist.cluster.ray_local import ray_session
from memo_dist.config.schema import ClusterConfig
from memo_dist.errors import UsageError

pytestmark = pytest.mark.alone
NOBODY = 65534


def session_folder() -> Path:
    return Path(ray._private.worker._global_node.get_temp_dir_path()).parent


def as_nobody(script: str, *words: str) -> int:
    """Exit code of Python code that another user runs."""
    command = [sys.executable, "-I", "-c", f"import os\nos.setgid({NOBODY})\nos.setuid({NOBODY})\n"
               f"import sys\n{script}", *words]  # fmt: skip
    return subprocess.run(command, stderr=subprocess.DEVNULL).returncode


def test_a_local_session_is_closed_to_others(monkeypatch):
    """On 1f7257c: /tmp/memo-ray-* of 0777, ports on all interfaces, a token that all may read."""
    monkeypatch.delenv(ray_token.MODE, raising=False)
    with ray_session(ClusterConfig(), cores=1):
        folder = session_folder()
        assert folder.stat().st_mode & 0o777 == 0o700
        token = folder / "token"
        assert token.stat().st_mode & 0o777 == 0o600
        assert os.environ[ray_token.TOKEN_PATH] == str(token)
        pids = [os.getpid(), *guard.marked_processes(str(folder))]
        ports = {port for pid in pids for port in own_ports(pid)}
        assert len(ports) > 2
        assert not ports & open_ports()
        address = ray.get_runtime_context().gcs_address
        assert address.startswith("127.0.0.1:")
        assert not ray_token.is_open(address)
        if os.getuid() == 0:
            write = "open(sys.argv[1] + '/r/mine', 'w')"
            assert as_nobody(write, str(folder)) == 1
            assert as_nobody("open(sys.argv[1])", str(token)) == 1
        first = token.read_text()
    assert not folder.exists()
    assert ray_token.MODE not in os.environ
    with ray_session(ClusterConfig(), cores=1):  # the second of a process, with a token of its own
        assert (session_folder() / "token").read_text() != first
        assert ray.get(ray.remote(lambda: os.getpid()).remote()) != os.getpid()


def test_authentication_switched_off_in_the_environment_is_refused(monkeypatch):
    monkeypatch.setenv(ray_token.MODE, "disabled")
    with (
        pytest.raises(UsageError, match=r"RAY_AUTH_MODE=disabled .*cluster\.authentication=none"),
        ray_session(ClusterConfig(), cores=1),
    ):
        pass
    with ray_session(ClusterConfig(authentication="none"), cores=1):
        address = ray.get_runtime_context().gcs_address
        assert ray_token.is_open(address)
        monkeypatch.setenv(ray_token.MODE, "token")
        monkeypatch.setenv(ray_token.TOKEN, "ab" * 32)
        cluster = ClusterConfig(address=address)
        with (
            pytest.raises(UsageError, match="requires no token"),
            ray_token.of_cluster(cluster),
        ):
            pass


def test_a_cluster_needs_a_token_that_only_its_user_may_read(monkeypatch, tmp_path):
    monkeypatch.delenv(ray_token.MODE, raising=False)
    monkeypatch.delenv(ray_token.TOKEN, raising=False)
    monkeypatch.setenv(ray_token.TOKEN_PATH, str(tmp_path / "token"))
    cluster = ClusterConfig(address="127.0.0.1:1")
    with (
        pytest.raises(UsageError, match=r"no token .* RAY_AUTH_TOKEN_PATH=FILE"),
        ray_token.of_cluster(cluster),
    ):
        pass
    (tmp_path / "token").write_text("ab" * 32)
    (tmp_path / "token").chmod(0o644)
    with pytest.raises(UsageError, match="chmod 600"), ray_token.of_cluster(cluster):
        pass
    (tmp_path / "token").chmod(0o600)
    with ray_token.of_cluster(cluster):
        assert os.environ[ray_token.MODE] == "token"
