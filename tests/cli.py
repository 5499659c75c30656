"""Helpers that run the real command line, and a tiny corpus for it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from importlib.resources import files
from pathlib import Path

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
    "train.epochs=6",
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
    *arguments: str | Path, seconds: float = 300, **extra: str
) -> subprocess.CompletedProcess[str]:
    """Run one command line to its end; stdout and stderr apart."""
    return subprocess.run(
        command(*arguments),
        capture_output=True,
        text=True,
        timeout=seconds,
        env={**environment(), **extra},
        stdin=subprocess.DEVNULL,
    )


def start(*arguments: str | Path, log: Path) -> subprocess.Popen[bytes]:
    """Start one command line in a process group of its own."""
    return subprocess.Popen(
        command(*arguments),
        stdout=log.open("ab"),
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        env=environment(),
        start_new_session=True,
    )


def wait_until(
    condition, seconds: float, what: str, process: subprocess.Popen[bytes] | None = None
):
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


def kill_driver(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait(30)


def result(run: Path) -> dict[str, str]:
    """Hashes of the reflections and of every shard's exported weights."""
    return fingerprint(RunFolder(run))
