"""mix_logits on the CPU against eager PyTorch and torch.compile: speed, memory, error.

    python benchmarks/mix_logits.py [--threads 1] [--seconds 1.0] [--out FILE.json]

Every peer runs in the same process, one after the other in turns, so that other load hits all
alike. Numbers are medians of the calling thread's CPU time with one thread, and medians of wall
time with more. "Eager" is the faster of two ways to write the formula: log-softmax + logaddexp,
and the logarithm of mixed softmaxes. The kernels go through the public functions.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from memo_dist.fusion import ops
from memo_dist.fusion.ops import loading
from memo_dist.io import atomic
from memo_dist.runs import library_versions

RESULTS = Path(__file__).parent / "results"
ROWS, VOCABULARIES = (1, 8, 64), (32_768, 151_936, 262_144)
DTYPES = (torch.float32, torch.bfloat16)
LIMITS = {"choices": (2.0, 4.0, 1.8), "log_probs": (1.1, 1.8, None)}
"""What is wanted: at least x eager everywhere, x eager and x torch.compile geometric means."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=1.0, help="per race of one output")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--memory-of", nargs=2, metavar=("OUTPUT", "V"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if not loading.load("cpu"):
        raise SystemExit("the kernels are not built: see memo-dist doctor")
    if options.memory_of:
        print(extra_memory(options.memory_of[0], int(options.memory_of[1])))
        return
    rows = [
        race_all(case, options)
        for dtype in DTYPES
        for vocabulary in VOCABULARIES
        for count in ROWS
        for case in [make_case(count, vocabulary, dtype, 1)]
    ]
    rows += [race_all(make_case(8, 151_936, dtype, 4), options) for dtype in DTYPES]
    report = {
        "threads": options.threads,
        "clock": "thread time" if options.threads == 1 else "wall time",
        "summary": summary([row for row in rows if row["memories"] == 1]),
        "rows": rows,
        "error_against_float64": errors(),
        "extra_bytes": memory_table(),
        "machine": {"processor": processor(), "cores": os.cpu_count()},
        "versions": library_versions() | {"torch": torch.__version__},
    }
    out = options.out or RESULTS / f"mix_logits-{options.threads}-threads.json"
    atomic.write_json(out, report)
    print(json.dumps(report["summary"], indent=2))
    print(json.dumps(report["error_against_float64"]), json.dumps(report["extra_bytes"]))


class Case:
    """One shape: inputs, and the peers by output."""

    def __init__(self, logits: list[Tensor], log_weights: Tensor) -> None:
        self.logits, self.log_weights = logits, log_weights
        rows, vocabulary = logits[0].shape
        self.targets = torch.randint(0, vocabulary, (rows,))
        self.seeds = torch.arange(rows)


def make_case(rows: int, vocabulary: int, dtype: torch.dtype, memories: int) -> Case:
    chance = torch.Generator().manual_seed(0)
    logits = [
        torch.randn(rows, vocabulary, generator=chance).mul(3).to(dtype)
        for _ in range(memories + 1)
    ]
    weights = torch.log_softmax(torch.randn(rows, memories + 1, generator=chance), -1)
    return Case(logits, weights)


def by_logaddexp(logits: list[Tensor], log_weights: Tensor) -> Tensor:
    """Log-softmax + logaddexp, in the logits' dtype."""
    total = None
    for source, x in enumerate(logits):
        part = torch.log_softmax(x, -1) + log_weights[:, source, None].to(x.dtype)
        total = part if total is None else torch.logaddexp(total, part)
    return total


def by_softmax(logits: list[Tensor], log_weights: Tensor) -> Tensor:
    """The logarithm of mixed softmaxes: fewer exponentials, digits lost below 1e-7."""
    total = None
    for source, x in enumerate(logits):
        part = torch.softmax(x, -1) * log_weights[:, source, None].exp().to(x.dtype)
        total = part if total is None else total + part
    return total.log()


def end_log_probs(log_probs: Tensor, case: Case) -> Tensor:
    return log_probs


def end_target(log_probs: Tensor, case: Case) -> Tensor:
    return log_probs.gather(-1, case.targets[:, None])


def end_argmax(log_probs: Tensor, case: Case) -> object:
    return log_probs.max(-1)


def end_sample(log_probs: Tensor, case: Case) -> Tensor:
    """Gumbel-max: the cheapest of PyTorch's ways to sample a row (exponential_ is its noise)."""
    noise = torch.empty_like(log_probs, dtype=torch.float32).exponential_()
    return (log_probs - noise.log()).argmax(-1)


ENDS = {
    "log_probs": end_log_probs,
    "target": end_target,
    "argmax": end_argmax,
    "sample": end_sample,
}


def kernel(output: str, case: Case) -> Callable[[], object]:
    """The public function that gives an output."""
    given = (case.logits, case.log_weights)
    dtype = case.logits[0].dtype
    return {
        "log_probs": lambda: ops.mix_logits(*given, dtype=dtype),
        "target": lambda: ops.mix_logits_target(*given, case.targets),
        "argmax": lambda: ops.mix_logits_argmax(*given),
        "sample": lambda: ops.mix_logits_sample(*given, case.seeds),
    }[output]


def eager(formula: Callable[..., Tensor], output: str, case: Case) -> Callable[[], object]:
    end = ENDS[output]
    return lambda: end(formula(case.logits, case.log_weights), case)


def compiled(output: str, case: Case) -> Callable[[], object]:
    """torch.compile of the same formula; static shapes, its best case."""
    torch._dynamo.reset()
    end = ENDS[output]

    def whole(logits: list[Tensor], log_weights: Tensor) -> object:
        return end(by_logaddexp(logits, log_weights), case)

    function = torch.compile(whole, dynamic=False)
    return lambda: function(case.logits, case.log_weights)


def race_all(case: Case, options: argparse.Namespace) -> dict[str, object]:
    """Milliseconds of every peer for every output of one shape."""
    rows, vocabulary = case.logits[0].shape
    row: dict[str, object] = {
        "dtype": str(case.logits[0].dtype).removeprefix("torch."),
        "vocabulary": vocabulary,
        "rows": rows,
        "memories": len(case.logits) - 1,
    }
    clock = time.thread_time if options.threads == 1 else time.perf_counter
    with torch.inference_mode():
        for output in ENDS:
            peers = {
                "kernel": kernel(output, case),
                "logaddexp": eager(by_logaddexp, output, case),
                "softmax": eager(by_softmax, output, case),
                "compile": compiled(output, case),
            }
            times = race(peers, options.seconds, clock)
            fastest = min(times["logaddexp"], times["softmax"])
            row[output] = times | {
                "over_eager": fastest / times["kernel"],
                "over_compile": times["compile"] / times["kernel"],
            }
    print(line(row), file=sys.stderr, flush=True)
    return row


def race(
    peers: dict[str, Callable[[], object]], seconds: float, clock: Callable[[], float]
) -> dict[str, float]:
    """Median milliseconds of each peer, in turns; at least 5 turns."""
    for function in peers.values():
        function()
    times: dict[str, list[float]] = {name: [] for name in peers}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times["kernel"]) < 5:
        for name, function in peers.items():
            start = clock()
            function()
            times[name].append(1e3 * (clock() - start))
    return {name: statistics.median(values) for name, values in times.items()}


def line(row: dict[str, object]) -> str:
    head = f"{row['dtype']:9} V={row['vocabulary']:6} B={row['rows']:2} K={row['memories']}"
    parts = [
        f"{output} {row[output]['kernel']:.3f} ms"
        f" ({row[output]['over_eager']:.1f}x eager, {row[output]['over_compile']:.1f}x compile)"
        for output in ENDS
    ]
    return " | ".join([head, *parts])


def summary(rows: list[dict[str, object]]) -> dict[str, object]:
    """Smallest and geometric mean of the ratios, beside what is wanted."""
    groups = {"choices": ("target", "argmax", "sample"), "log_probs": ("log_probs",)}
    found: dict[str, object] = {}
    for name, outputs in groups.items():
        over_eager = [row[output]["over_eager"] for row in rows for output in outputs]
        over_compile = [row[output]["over_compile"] for row in rows for output in outputs]
        found[name] = {
            "outputs": outputs,
            "smallest_over_eager": min(over_eager),
            "mean_over_eager": geometric_mean(over_eager),
            "mean_over_compile": geometric_mean(over_compile),
            "wanted": LIMITS[name],
        }
        for output in outputs:
            own = [row[output]["over_eager"] for row in rows]
            found[f"{output}_over_eager"] = [min(own), geometric_mean(own)]
    return found


def geometric_mean(values: list[float]) -> float:
    return math.exp(statistics.fmean(map(math.log, values)))


def errors() -> dict[str, float]:
    """Largest absolute error of fp32 log-probs against float64, V = 151,936."""
    case = make_case(8, 151_936, torch.float32, 1)
    wide = by_logaddexp([x.double() for x in case.logits], case.log_weights.double())
    found = {
        "kernel": ops.mix_logits(case.logits, case.log_weights),
        "logaddexp": by_logaddexp(case.logits, case.log_weights),
        "softmax": by_softmax(case.logits, case.log_weights),
    }
    return {name: (value - wide).abs().max().item() for name, value in found.items()}


def memory_table() -> dict[str, dict[str, int]]:
    """Bytes that a call needs beyond its inputs, each in a fresh process, B = 64."""
    table: dict[str, dict[str, int]] = {}
    for output in ("target", "argmax", "sample", "log_probs"):
        for vocabulary in (32_768, 262_144):
            command = [sys.executable, __file__, "--memory-of", output, str(vocabulary)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            table.setdefault(output, {})[str(vocabulary)] = int(done.stdout)
    return table


def extra_memory(output: str, vocabulary: int) -> int:
    """Growth of the process's largest resident set over one call, in bytes."""
    warm = kernel(output, make_case(64, 2_048, torch.float32, 1))
    warm()
    function = kernel(output, make_case(64, vocabulary, torch.float32, 1))
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # forget the earlier peak
    before = resident("VmRSS")
    result = function()
    del result
    return resident("VmHWM") - before


def resident(name: str) -> int:
    for entry in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if entry.startswith(name):
            return int(entry.split()[1]) * 1024
    raise RuntimeError(f"{name} is not in /proc/self/status")


def processor() -> str:
    for entry in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if entry.startswith("model name"):
            return entry.split(":", 1)[1].strip()
    return platform.processor()


if __name__ == "__main__":
    main()
