"""A million reflections: pack them, stream their rows, and report speed and peak memory.

    python benchmarks/packing_scale.py [--examples 1000000] [--out FILE]

The examples are written as a tokenised file first, by a process of its own, as `memo-dist train`
does; the measured process maps that file, packs one epoch, and turns every row into tensors
through the loader that ranks use. Lengths are log-normal, as those of the demo's reflections are.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from memo_dist.io import atomic
from memo_dist.runs import library_versions
from memo_dist.training.batch import prefetched
from memo_dist.training.examples import Examples
from memo_dist.training.packing import plan_training

ROW_TOKENS = 1024


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--examples", type=int, default=1_000_000)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--write", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.write:
        make(options.examples).save(options.write)
        return
    with tempfile.TemporaryDirectory(prefix="memo-packing-") as name:
        path = Path(name) / "examples.safetensors"
        writer = [sys.executable, __file__, "--examples", str(options.examples), "--write", path]
        subprocess.run(writer, check=True)
        report = measure(path)
    print(json.dumps(report, indent=2))
    if options.out:
        atomic.write_json(options.out, report)
    fast = report["packed_tokens_per_second"] >= 1e6
    sys.exit(0 if fast and report["peak_bytes"] < 2**30 and report["useful"] > 0.98 else 1)


def make(count: int) -> Examples:
    chance = np.random.default_rng(1)
    lengths = np.clip(chance.lognormal(3.55, 0.35, count), 10, 512).astype(np.int64)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    ids = chance.integers(0, 49_000, starts[-1], dtype=np.int32)
    prompts = (lengths * 0.7).astype(np.int32)
    return Examples(ids, starts, prompts, prompts)


def measure(path: Path) -> dict[str, float]:
    examples = Examples.load(path)
    tokens = int(examples.starts[-1])
    started = time.process_time()
    plan = plan_training(examples.lengths, ROW_TOKENS, 4, 1, seed=1)
    packing = time.process_time() - started
    started = time.process_time()
    streamed = sum(
        row.inputs.shape[1]
        for row in prefetched(examples, (plan.row(index) for index in range(plan.rows)))
    )
    streaming = time.process_time() - started
    assert streamed == tokens
    return {
        "examples": len(examples),
        "tokens": tokens,
        "rows": plan.rows,
        "useful": tokens / (plan.rows * ROW_TOKENS),
        "packed_tokens_per_second": tokens / packing,
        "streamed_tokens_per_second": tokens / streaming,
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "versions": library_versions(),
    }


if __name__ == "__main__":
    main()
