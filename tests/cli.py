"""Helpers that run the real command line, and a tiny corpus for it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import IO

import forks

from memo_dist.io import atomic
from memo_dist.io.runfolder import RunFolder
from memo_dist.pipeline import fingerprint

DOCUMENTS = ("company-overview", "policy-calibration", "manual-hobrand")
TINY = (
    "memory.base=scratch",
    "memory.scratch.vocabulary=600",
    "memory.scratch.hidden_size=64",
    "memory.scratch.layers=2",
    "memory.scratch.heads=2",
    "memory.scratch.intermediate_size=128",
    "train.epochs=24",
    "train.lr=3e-3",
    "train.batch_tokens=512",
    "train.micro_batch_tokens=256",
    "train.checkpoint_steps=10",
    "synthesis.partitions=2",
    "synthesis.documents_per_unit=1",
    "synthesis.phrasings=2",
    "cluster.threads=1",
)
ENCODE_SECONDS = 600
Process = subprocess.Popen[bytes] | forks.Forked


def tiny_corpus(folder: Path) -> Path:
    """Three documents of the demo's corpus."""
    folder.mkdir(parents=True)
    source = Path(str(files("memo_dist.demo") / "data" / "documents"))
    for name in DOCUMENTS:
        shutil.copyfile(source / f"{name}.md", folder / f"{name}.md")
    return folder


def tiny_questions(path: Path) -> Path:
    """The demo's questions about those documents."""
    source = Path(str(files("memo_dist.demo") / "data" / "questions.jsonl"))
    rows = [
        row
        for row in atomic.read_jsonl(source)
        if row["quick"] and set(row["supporting_ids"]) <= set(DOCUMENTS)
    ]
    atomic.write_jsonl(path, rows)
    return path


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "memo_dist", *map(str, arguments)]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "COLUMNS": "120"}


def memo_dist(
    *arguments: str | Path, seconds: float = 300, new: bool = False, **extra: str
) -> subprocess.CompletedProcess[str]:
    """Run one command line to its end; stdout and stderr apart.

    Args:
        arguments: the command line after ``memo-dist``.
        seconds: after which it is killed and the test fails.
        new: in a new interpreter, as users do; else in a fork of one that has imported.
        extra: more variables.
    """
    if new or not forks.available():
        return subprocess.run(
            command(*arguments),
            capture_output=True,
            text=True,
            timeout=seconds,
            env={**environment(), **extra},
            stdin=subprocess.DEVNULL,
        )
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        words = command(*arguments)[1:]
        process = forks.popen(words, {**environment(), **extra}, out, err)
        try:
            code = process.wait(seconds)
        finally:
            process.kill()
        texts = [_read(stream) for stream in (out, err)]
    return subprocess.CompletedProcess(words, code, *texts)


def _read(stream: IO[bytes]) -> str:
    stream.seek(0)
    return stream.read().decode()


def start(*arguments: str | Path, log: Path, new: bool = False) -> Process:
    """Start one command line in a process group of its own; ``new`` as in :func:`memo_dist`."""
    with log.open("ab") as out:
        return run_python(command(*arguments)[1:], environment(), out, new)


def run_python(
    words: Sequence[str | Path], env: Mapping[str, str], out: IO[bytes], new: bool = False
) -> Process:
    """Start ``python WORDS`` in a session of its own, both streams to ``out``."""
    if not new and forks.available():
        return forks.popen(words, env, out, out, start_new_session=True)
    return subprocess.Popen(
        [sys.executable, *map(str, words)],
        stdout=out,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        env=env,
        start_new_session=True,
    )


def wait_until(condition, seconds: float, what: str, process: Process | None = None):
    """Poll ``condition`` until it returns something true; fail with what was awaited."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        if process is not None and process.poll() is not None:
            raise AssertionError(f"the process ended ({process.returncode}) before {what}")
        time.sleep(0.05)
    raise AssertionError(f"not within {seconds:.0f} s: {what}")


def kill_driver(process: Process) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait(30)


def result(run: Path) -> dict[str, str]:
    """Hashes of the reflections and of every shard's exported weights."""
    return fingerprint(RunFolder(run))
