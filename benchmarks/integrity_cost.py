"""What hashes cost: answering without comparing them, and training without making them.

    python benchmarks/integrity_cost.py [--pairs 5] [--out benchmarks/results/integrity_cost.json]

Every figure is of alternated pairs: with, without, without, with, and so on; medians and the middle
half of the pairs' differences.

- ``load``: the built-in SmolLM2-135M as one shard is loaded in this process and answers one
  question, with the comparison (in a thread, while the weights are loaded) and without.
- ``ask``: the same in a new process each, from the import of the libraries to the answer.
- ``train``: a tiny memory from scratch is trained to its end in a fork of this process, with two
  checkpoints a second time of its training: far more than any training of use makes.

The rate of hashing follows, and from it what a checkpoint's hash costs its writer thread.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from memo_dist.io import atomic, marker
from memo_dist.io.hashing import XXH3, file_digests
from memo_dist.memory.answering import ShardMemory
from memo_dist.models.base import find_base
from memo_dist.models.identity import weight_files

QUESTION = "What is the capital of France?"
CHECKPOINT_BYTES = 12
"""Of a trained weight: itself and Adam's two moments, in fp32."""
CHECKPOINT_SECONDS = 600
Seconds = tuple[float, float]
"""Wall-clock and processor."""


def load(folder: Path, compare: bool) -> Seconds:
    """Loading and one answer, in this process."""
    began, used = time.perf_counter(), time.process_time()

    def check() -> None:
        if compare:
            marker.require_whole([folder / marker.COMPLETE], "measure again")

    with marker.checked_while(check):
        memory = ShardMemory.load(folder, 48)
    memory.answer([QUESTION], 1)
    return time.perf_counter() - began, time.process_time() - used


def ask(folder: Path, compare: bool) -> Seconds:
    """The same in a new process: imports, loading, one answer."""
    return timed([__file__, "--once", str(folder), *(["--compare"] if compare else [])])


def train(run: Path, hashed: bool) -> Seconds:
    """Training to its end in a new process, as ``memo-dist train`` does it."""
    shutil.rmtree(run / "train" / "shard-0" / "final", ignore_errors=True)
    return timed([__file__, "--train", str(run), *(["--compare"] if hashed else [])])


def timed(words: Sequence[str]) -> Seconds:
    """Seconds of a new interpreter, its children included.

    Raises:
        CalledProcessError: it failed.
    """
    began, before = time.perf_counter(), os.times()
    subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL)
    after = os.times()
    used = sum(after[2:4]) - sum(before[2:4])
    return time.perf_counter() - began, used


class _Equal(str):
    """A hash that is taken for any other."""

    __hash__ = str.__hash__

    def __ne__(self, other: object) -> bool:
        return False


def _no_digests(path: Path, kinds: Sequence[str] = ("sha256", XXH3)) -> dict[str, str]:
    return dict.fromkeys(kinds, _Equal("0" * 64))


def train_once(run: Path, hashed: bool) -> None:
    """In the new process: without hashes where they are not wanted."""
    from memo_dist.cli.main import run as command

    if not hashed:
        marker.file_digests = _no_digests  # type: ignore[assignment]
    code = command(["train", str(run), "cluster.launcher=process"])
    if code:
        raise SystemExit(code)


def pairs_of(measure: Callable[[Path, bool], Seconds], subject: Path, pairs: int) -> dict[str, Any]:
    """Alternated pairs of one measure."""
    found: dict[bool, list[Seconds]] = {True: [], False: []}
    for number in range(pairs):
        for compare in (number % 2 == 0, number % 2 == 1):
            found[compare].append(measure(subject, compare))
    figures: dict[str, Any] = {"pairs": pairs}
    for place, name in enumerate(("wall", "processor")):
        with_, without = ([row[place] for row in found[key]] for key in (True, False))
        extra = sorted(a - b for a, b in zip(with_, without, strict=True))
        base = statistics.median(without)
        figures[name] = {
            "seconds_with": statistics.median(with_),
            "seconds_without": base,
            "extra_seconds": {
                "median": statistics.median(extra),
                "middle_half": [extra[len(extra) // 4], extra[-1 - len(extra) // 4]],
            },
            "share": statistics.median(extra) / base,
        }
    return figures


def rates(folder: Path) -> dict[str, Any]:
    """Bytes per processor second of each hash, and of a checkpoint of this model."""
    size = sum(path.stat().st_size for path in weight_files(folder))
    found: dict[str, Any] = {"weights_bytes": size}
    for name, kinds in (("compared", [XXH3]), ("made", ["sha256", XXH3])):
        used = time.process_time()
        for path in weight_files(folder):
            file_digests(path, kinds)
        found[f"bytes_per_second_{name}"] = size / (time.process_time() - used)
    seconds = size / 4 * CHECKPOINT_BYTES / found["bytes_per_second_made"]
    found["checkpoint_hash_processor_seconds"] = seconds
    found["share_of_checkpoint_minutes"] = seconds / CHECKPOINT_SECONDS
    return found


def tiny_run(run: Path) -> None:
    """A run of three documents whose training is to be done, by the tests' configuration."""
    sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
    from cli import TINY, tiny_corpus

    corpus = tiny_corpus(run.parent / "corpus")
    words = ["synthesize", str(corpus), "--run", str(run), *TINY, "train.checkpoint_steps=10"]
    subprocess.run([sys.executable, "-m", "memo_dist", *words], check=True)
    train(run, True)  # the base is made


def measure(pairs: int, kinds: Sequence[str]) -> dict[str, Any]:
    """The figures of this machine."""
    values: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "shard-0"
        shutil.copytree(find_base("smollm2-135m"), folder)
        (folder / marker.COMPLETE).unlink(missing_ok=True)
        marker.mark_complete(folder)
        load(folder, compare=True)  # files are in the page cache from here on
        values["rates"] = rates(folder)
        for kind, function in (("load", load), ("ask", ask)):
            if kind in kinds:
                values[kind] = pairs_of(function, folder, pairs)
        if "train" in kinds:
            tiny_run(Path(name) / "run")
            values["train"] = pairs_of(train, Path(name) / "run", pairs)
    return values


def main() -> None:
    """Measure and write; figures of kinds that are not measured now stay in the file."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--kinds", nargs="*", default=["load", "ask", "train"])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/integrity_cost.json"))
    parser.add_argument("--once", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--train", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--compare", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.once or given.train:
        (load if given.once else train_once)(given.once or given.train, given.compare)
        return
    before = atomic.read_json(given.out) if given.out.exists() else {}
    kept = {name: before[name] for name in ("load", "ask", "train") if name in before}
    values = {**kept, **measure(given.pairs, given.kinds)}
    atomic.write_json(given.out, values)
    print(json.dumps(values, indent=1))


if __name__ == "__main__":
    main()
