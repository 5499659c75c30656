"""`memo-dist doctor`: each finding says what is there and, where it falls short, what to do."""

import socket
import subprocess

import pytest

from memo_dist.cli.main import run as run_cli
from memo_dist.doctor import findings

NAMES = {
    "versions", "machine", "gpu", "gloo", "ports", "clock", "scheduler", "shared memory",
    "temp folder", "disk", "built-in base", "kernels",
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
