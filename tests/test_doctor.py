"""`memo-dist doctor`: each finding says what is there and, where it falls short, what to do."""

import errno
import fcntl
import os
import socket
import subprocess

import pytest

from memo_dist.cli.main import run as run_cli
from memo_dist.doctor import findings, security

NAMES = {
    "versions", "machine", "gpu", "gloo", "ports", "clock", "scheduler", "shared memory",
    "temp folder", "disk", "built-in base", "kernels", "listening", "ray token", "umask", "locks",
}  # fmt: skip


def only(check):
    (finding,) = check()
    return finding.level, finding.text


def test_everything_is_looked_at(capsys):
    code = run_cli(["doctor"])
    lines = capsys.readouterr().out.splitlines()
    seen = {line[6:20].strip() for line in lines}
    assert NAMES - {"gpu", "gloo"} <= seen
    assert {"gloo", "nccl"} & seen
    assert code == (1 if any(line.startswith("bad") for line in lines) else 0)


def test_a_host_without_an_address(monkeypatch):
    def unknown(name):
        raise OSError

    monkeypatch.setattr(socket, "gethostbyname", unknown)
    level, text = only(findings._ports)
    assert level == "bad"
    assert "/etc/hosts" in text


def test_a_port_that_cannot_be_opened(monkeypatch):
    monkeypatch.setattr(socket, "gethostbyname", lambda name: "203.0.113.1")  # nobody's here
    level, text = only(findings._ports)
    assert level == "bad"
    assert "firewall" in text


def test_a_clock_that_is_off(monkeypatch):
    now = findings.time.time()
    monkeypatch.setattr(findings.time, "time", lambda: now - 60)
    level, text = only(findings._clock)
    assert level == "warn"
    assert "+60 s off" in text


@pytest.mark.parametrize(
    ("script", "level", "expected"),
    [
        ("echo 'Slurmctld(primary) at login is UP'", "ok", "is UP"),
        ("echo 'Slurmctld(primary) at login is DOWN'; exit 1", "warn", "DOWN"),
        ("exec sleep 30", "warn", "no answer within"),
    ],
)
def test_slurm_is_asked(script, level, expected, monkeypatch, tmp_path):
    command = tmp_path / "scontrol"
    command.write_text(f"#!/bin/bash\n{script}\n")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(findings, "_SCHEDULER_SECONDS", 2)
    assert only(findings._scheduler)[0] == level
    assert expected in only(findings._scheduler)[1]


def test_no_slurm_is_no_fault(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(subprocess, "run", None)
    assert only(findings._scheduler)[0] == "ok"


def test_what_listens_for_other_machines_is_told():
    with socket.create_server(("127.0.0.1", 0)) as own, socket.create_server(("", 0)) as all_:
        level, text = only(security._listening)
        ports = text.replace(",", " ").replace(";", " ").split()
        assert level == "warn"
        assert str(all_.getsockname()[1]) in ports
        assert str(own.getsockname()[1]) not in ports


@pytest.mark.parametrize(
    ("address", "loopback"),
    [
        ("0100007F:1F90", True),
        ("00000000:1F90", False),
        ("00000000000000000000000001000000:1F90", True),
        ("0000000000000000FFFF00000100007F:1F90", True),
        ("00000000000000000000000000000000:1F90", False),
    ],
)
def test_addresses_of_proc_net(address, loopback):
    assert security._is_loopback(address) is loopback


def test_the_state_of_rays_token(monkeypatch, tmp_path):
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    token = tmp_path / "token"
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
    assert only(security._token)[0] == "ok"
    token.touch(0o600)
    assert only(security._token) == ("ok", f"{token}, for you alone")
    token.chmod(0o644)
    assert only(security._token) == ("warn", f"{token} can be read by others: chmod 600 {token}")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    assert only(security._token)[0] == "bad"


def test_umask_and_locks(monkeypatch, tmp_path):
    before = os.umask(0o022)
    try:
        assert security._umask().level == "ok"
        os.umask(0)
        assert security._umask().level == "warn"
    finally:
        os.umask(before)
    assert only(lambda: security._locks(tmp_path))[0] == "ok"

    def no_locks(stream, kind):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    level, text = only(lambda: security._locks(tmp_path))
    assert (level, "no flock" in text) == ("warn", True)
