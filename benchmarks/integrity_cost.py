"""What comparing hashes costs: loading a memory and one answer, with and without, alternated.

    python benchmarks/integrity_cost.py [--pairs 5] [--out benchmarks/results/integrity_cost.json]

The memory is the built-in SmolLM2-135M as one shard. Each of the pairs loads it and answers one
question twice, once with the comparison (in a thread, while the weights are loaded) and once
without, in turns. Reported: medians of the wall-clock and of the processor seconds, and the rate of
hashing, from which follows what a checkpoint's hash costs its writer thread.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from memo_dist.io import atomic, marker
from memo_dist.io.hashing import hash_file
from memo_dist.memory.answering import ShardMemory
from memo_dist.models.base import find_base
from memo_dist.models.identity import weight_files

QUESTION = "What is the capital of France?"
CHECKPOINT_BYTES = 12
"""Of a trained weight: itself and Adam's two moments, in fp32."""


def ask(folder: Path, compare: bool) -> tuple[float, float]:
    """(wall-clock, processor) seconds of loading and one answer."""
    began, used = time.perf_counter(), time.process_time()

    def check() -> None:
        if compare:
            marker.require_whole([folder / marker.COMPLETE], "measure again")

    with marker.checked_while(check):
        memory = ShardMemory.load(folder, 48)
    memory.answer([QUESTION], 1)
    return time.perf_counter() - began, time.process_time() - used


def measure(pairs: int) -> dict[str, Any]:
    """The figures of this machine."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "shard-0"
        shutil.copytree(find_base("smollm2-135m"), folder)
        (folder / marker.COMPLETE).unlink(missing_ok=True)
        marker.mark_complete(folder)
        ask(folder, compare=True)  # files are in the page cache from here on
        found: dict[bool, list[tuple[float, float]]] = {True: [], False: []}
        for number in range(pairs):
            for compare in (number % 2 == 0, number % 2 == 1):
                found[compare].append(ask(folder, compare))
        size = sum(path.stat().st_size for path in weight_files(folder))
        began, used = time.perf_counter(), time.process_time()
        for path in weight_files(folder):
            hash_file(path)
        wall, processor = time.perf_counter() - began, time.process_time() - used
    medians = {
        key: [statistics.median(row[place] for row in rows) for place in range(2)]
        for key, rows in found.items()
    }
    weights = size / 4
    return {
        "pairs": pairs,
        "weights_bytes": size,
        "seconds_with": {"wall": medians[True][0], "processor": medians[True][1]},
        "seconds_without": {"wall": medians[False][0], "processor": medians[False][1]},
        "share": {
            "wall": medians[True][0] / medians[False][0] - 1,
            "processor": medians[True][1] / medians[False][1] - 1,
        },
        "hashing_bytes_per_second": {"wall": size / wall, "processor": size / processor},
        "checkpoint_hash_processor_seconds": weights * CHECKPOINT_BYTES / (size / processor),
    }


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/integrity_cost.json"))
    given = parser.parse_args()
    values = measure(given.pairs)
    atomic.write_json(given.out, values)
    print(values)


if __name__ == "__main__":
    main()
