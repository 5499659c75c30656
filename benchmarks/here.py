"""Verbs in forks of a benchmark, without Ray: what a benchmark of many short changes can afford.

The verbs are the real ones in processes of their own, which can be killed. What they give to Ray
in production (partitions of a synthesis, ranks of a training) they do themselves, one after the
other (tests/changes_here.py).
"""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from changes_here import work_here
from forks import IMPORTED

from memo_dist.cli.main import run as run_command
from memo_dist.io.runfolder import RunFolder

SCRATCH = (
    "memory.base=scratch",
    "memory.scratch.tokenizer=general",
    "memory.scratch.vocabulary=2048",
    "memory.scratch.hidden_size=128",
    "memory.scratch.layers=3",
    "memory.scratch.heads=4",
    "memory.scratch.intermediate_size=384",
    "train.epochs=16",
    "train.lr=3e-3",
    "train.batch_tokens=2048",
    "train.micro_batch_tokens=1024",
    "synthesis.partitions=2",
    "synthesis.phrasings=2",
    "cluster.threads=1",
)
"""A small memory without a base, whose vocabulary does not change with the corpus."""
_POLL_SECONDS = 0.02
for _name in (*IMPORTED, *(f"memo_dist.cli.{verb}" for verb in ("forget", "merge", "update"))):
    importlib.import_module(_name)  # once, not in every fork


class Forked:
    """A function in a fork of this process; its streams go to files."""

    def __init__(self, work: Callable[[], int], out: Path, err: Path) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if not self.pid:
            _work(work, out, err)

    def wait(self, seconds: float) -> int:
        """The exit code; negative after a signal.

        Raises:
            subprocess.TimeoutExpired: it still runs after ``seconds``.
        """
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
            time.sleep(_POLL_SECONDS)
        raise subprocess.TimeoutExpired(str(self.pid), seconds)

    def kill(self) -> None:
        """End it with SIGKILL."""
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


def _work(work: Callable[[], int], out: Path, err: Path) -> None:
    code = 1
    try:
        os.setsid()
        for number, path in ((1, out), (2, err)):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
        code = work()
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _verb(arguments: tuple[str | Path, ...]) -> int:
    with pytest.MonkeyPatch.context() as patch:
        work_here(patch, trains=True)
        return run_command([str(argument) for argument in arguments])


def start(*arguments: str | Path, log: Path) -> Forked:
    """Start a command line after ``memo-dist``; both streams go to ``log``."""
    return Forked(lambda: _verb(arguments), log, log)


def memo_dist(*arguments: str | Path, seconds: float = 1800) -> subprocess.CompletedProcess[str]:
    """Run one to its end, as ``subprocess.run`` would."""
    with tempfile.TemporaryDirectory() as name:
        out, err = Path(name, "out"), Path(name, "err")
        code = Forked(lambda: _verb(arguments), out, err).wait(seconds)
        return subprocess.CompletedProcess(arguments, code, out.read_text(), err.read_text())


def succeed(*arguments: str | Path) -> str:
    """Standard output of a command that has to succeed."""
    done = memo_dist(*arguments)
    if done.returncode:
        raise SystemExit(f"memo-dist {' '.join(map(str, arguments))}: {done.stderr}")
    return done.stdout


def encode(corpus: Path, run: Path, *settings: str) -> RunFolder:
    """A run over a corpus."""
    succeed("encode", corpus, "--run", run, *settings)
    return RunFolder(run)
