"""mix_logits on a GPU: bandwidth against a measured copy, eager PyTorch and torch.compile.

    python benchmarks/gpu_kernels.py [--out FILE.json]

Times are medians over replays of CUDA graphs, so that launch overhead on the host is no part of
any peer, after a check that the graph's result equals the direct call's. Inputs rotate through more
memory than the L2 cache holds. The floor is each logit read once: 2 V itemsize bytes a row.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable
from pathlib import Path

import torch
from mix_logits import by_logaddexp, by_softmax
from torch import Tensor

from memo_dist.fusion import ops
from memo_dist.fusion.ops import loading
from memo_dist.io import atomic
from memo_dist.runs import library_versions

ROWS, VOCABULARIES = (1, 8, 32, 64), (32_768, 151_936, 262_144)
ROTATION_BYTES = 512 * 2**20


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if not torch.cuda.is_available() or not loading.load("cuda"):
        raise SystemExit("this needs a GPU and the CUDA kernels: see memo-dist doctor")
    copied = copy_bandwidth()
    rows = [
        measure(count, vocabulary, dtype, copied)
        for dtype in (torch.float32, torch.bfloat16)
        for vocabulary in VOCABULARIES
        for count in ROWS
    ]
    report = {
        "copy_bytes_per_second": copied,
        "rows": rows,
        "machine": torch.cuda.get_device_name(),
        "versions": library_versions() | {"torch": torch.__version__, "cuda": torch.version.cuda},
    }
    if options.out:
        atomic.write_json(options.out, report)
    print(json.dumps(report, indent=1))


def copy_bandwidth() -> float:
    """Bytes read and written a second by a device-to-device copy of 1 GiB."""
    source = torch.empty(2**30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.numel() / replay_seconds(lambda: target.copy_(source), 1)


def measure(rows: int, vocabulary: int, dtype: torch.dtype, copied: float) -> dict[str, object]:
    """Microseconds of every peer, and the share of the copy's bandwidth that the floor is."""
    torch.compiler.reset()  # a function is compiled for eight shapes at most, then runs eagerly
    nbytes = 2 * rows * vocabulary * dtype.itemsize
    sets = [inputs(rows, vocabulary, dtype, seed) for seed in range(ROTATION_BYTES // nbytes + 1)]
    peers: dict[str, Callable[[list[Tensor], Tensor], object]] = {
        "argmax": ops.mix_logits_argmax,
        "log_probs": lambda logits, weights: ops.mix_logits(logits, weights, dtype=dtype),
        "eager_logaddexp": lambda logits, weights: by_logaddexp(logits, weights).max(-1),
        "eager_softmax": lambda logits, weights: by_softmax(logits, weights).max(-1),
        "compile": torch.compile(lambda *given: by_logaddexp(*given).max(-1), dynamic=False),
    }
    row: dict[str, object] = {
        "dtype": str(dtype).removeprefix("torch."),
        "rows": rows,
        "vocabulary": vocabulary,
    }
    for name, peer in peers.items():
        check_capture(lambda peer=peer: peer(*sets[0]))
        row[name] = 1e6 * replay_seconds(
            lambda peer=peer: [peer(*given) for given in sets], len(sets)
        )
    eager = min(row["eager_logaddexp"], row["eager_softmax"])
    written = rows * vocabulary * dtype.itemsize
    row |= {
        "argmax_of_copy": nbytes / (row["argmax"] * 1e-6) / copied,
        "log_probs_of_copy": (nbytes + written) / (row["log_probs"] * 1e-6) / copied,
        "argmax_over_eager": eager / row["argmax"],
        "argmax_over_compile": row["compile"] / row["argmax"],
    }
    print(json.dumps(row), flush=True)
    return row


def inputs(
    rows: int, vocabulary: int, dtype: torch.dtype, seed: int
) -> tuple[list[Tensor], Tensor]:
    chance = torch.Generator("cuda").manual_seed(seed)
    logits = [
        torch.randn(rows, vocabulary, generator=chance, device="cuda").mul(3).to(dtype)
        for _ in range(2)
    ]
    return logits, torch.log_softmax(torch.randn(rows, 2, device="cuda"), -1)


def check_capture(function: Callable[[], object]) -> None:
    """A captured call gives what a direct one gives."""
    direct = function()
    graph, captured = capture(function)
    graph.replay()
    pairs = zip(as_tensors(direct), as_tensors(captured), strict=True)
    if not all(torch.equal(a, b) for a, b in pairs):
        raise SystemExit("a captured call gave another result than a direct one")


def as_tensors(result: object) -> list[Tensor]:
    return [result] if isinstance(result, Tensor) else list(result)


def capture(function: Callable[[], object]) -> tuple[torch.cuda.CUDAGraph, object]:
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            function()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        result = function()
    return graph, result


def replay_seconds(function: Callable[[], object], calls: int) -> float:
    """Median seconds of one of the ``calls`` calls inside a captured graph."""
    graph, _ = capture(function)
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    seconds = []
    for _ in range(20):
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        seconds.append(start.elapsed_time(end) / 1e3 / calls)
    return statistics.median(seconds)


if __name__ == "__main__":
    main()
