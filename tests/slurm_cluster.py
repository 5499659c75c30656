"""A real Slurm cluster for tests: tests/slurm/*.sh start and end it, Slurm's commands use it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
from cli import environment, wait_until

HERE = Path(__file__).parent / "slurm"
ENDED = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY"}


@dataclass(frozen=True)
class Cluster:
    """A running cluster; ``work`` is where jobs are submitted from, seen by every node."""

    state: Path
    work: Path

    @property
    def environment(self) -> dict[str, str]:
        """With Slurm's commands on PATH; they enter the cluster's namespaces by themselves."""
        path = f"{self.state / 'bin'}:{os.environ['PATH']}"
        return {**environment(), "PATH": path, "DS_ACCELERATOR": "cpu"}

    def start_command(self, *words: str | Path, **extra: str) -> subprocess.Popen[str]:
        """A `memo-dist` command line on the login host."""
        return subprocess.Popen(
            [sys.executable, "-m", "memo_dist", *map(str, words)],
            cwd=self.work,
            env={**self.environment, **extra},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def memo_dist(self, *words: str | Path, seconds: float = 300, **extra: str) -> tuple[int, str]:
        """Run one to its end; exit code and output."""
        process = self.start_command(*words, **extra)
        try:
            said, _ = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            raise AssertionError(f"not within {seconds:.0f} s: {words}; {self.logs()}") from None
        return process.returncode, said

    def submit(self, *words: str | Path, **extra: str) -> str:
        """`memo-dist launch slurm`; returns the job's number."""
        code, said = self.memo_dist("launch", "slurm", *words, **extra)
        found = re.search(r"^slurm:(\d+)$", said, re.MULTILINE)
        assert code == 0, said
        assert found, said
        return found[1]

    def slurm(self, *words: str) -> str:
        """One of Slurm's own commands; what it prints."""
        done = subprocess.run(
            words, capture_output=True, text=True, timeout=60, env=self.environment, check=True
        )
        return done.stdout

    def job(self, ident: str) -> dict[str, str]:
        """What slurmctld says of a job (of an array: its first row)."""
        line = self.slurm("scontrol", "show", "job", ident, "--oneliner").splitlines()[0]
        return dict(word.partition("=")[::2] for word in line.split() if "=" in word)

    def wait_job(self, ident: str, seconds: float) -> dict[str, str]:
        """The job once it has ended."""
        deadline = time.monotonic() + seconds
        while (row := self.job(ident))["JobState"] not in ENDED:
            assert time.monotonic() < deadline, f"job {ident} still {row}; {self.logs()}"
            time.sleep(0.3)
        return row

    def wait_log(self, ident: str, text: str, seconds: float) -> None:
        """Until a job's log holds a text."""
        wait_until(lambda: text in self.log(ident), seconds, f"'{text}' in job {ident}")

    def log(self, ident: str) -> str:
        """A job's log so far."""
        return "\n".join(p.read_text(errors="replace") for p in self.work.glob(f"*-{ident}.log"))

    def logs(self) -> str:
        """The ends of all logs, for a failed test."""
        files = sorted(self.work.glob("*.log"), key=lambda p: p.stat().st_mtime)[-4:]
        return "\n".join(f"{p.name}: {p.read_text(errors='replace')[-1500:]}" for p in files)

    def processes(self, ident: str, node: str = "") -> list[psutil.Process]:
        """Living processes of a job (the machine itself sees those of all nodes)."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.status() == psutil.STATUS_ZOMBIE:
                    continue
                env = process.environ()
            except (psutil.Error, OSError):
                continue
            if env.get("SLURM_JOB_ID") == ident and node in ("", env.get("SLURMD_NODENAME")):
                found.append(process)
        return found

    def assert_nothing_left(self, ident: str, seconds: float = 20) -> None:
        """No process of a job lives on, and the epilog had nothing to end."""
        wait_until(
            lambda: not self.processes(ident), seconds, f"the end of job {ident}'s processes"
        )
        leftovers = self.state / "etc" / "leftovers"
        lines = leftovers.read_text().splitlines() if leftovers.exists() else []
        left = [line for line in lines if f"job {ident} " in line]
        assert not left, left  # said here: pytest does not rewrite this file
        assert not list((self.work / ".memo-dist").glob(f"{ident}-*"))


def find(processes: list[psutil.Process], *texts: str) -> psutil.Process | None:
    """The first process whose command line holds all the texts."""
    for process in processes:
        try:
            words = " ".join(process.cmdline())
        except psutil.Error:
            continue
        if all(text in words for text in texts):
            return process
    return None
