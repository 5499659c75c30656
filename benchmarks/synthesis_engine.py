"""The engine against a server that plays a model: rate, scaling, CPU a request, driver memory.

    python benchmarks/synthesis_engine.py [rate scaling memory] [--out FILE]

- ``rate``: 2 s latency, 512 in flight over two workers; requests over the seconds from the first
  one received to the last one answered (the server's log), over the ideal of 512 / 2 s.
- ``scaling``: one worker of 32 in flight and four of them, 2 s latency: the ratio of the rates.
- ``memory``: 1,000 and 50,000 documents, one request each, latency 0: private memory of the driver
  (USS) at its largest, and CPU of driver and workers together, from start to end; what one more
  request costs is the difference over 49,000.

The server has its own process and is not counted.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from request_toy import log_rows, make_config, make_run, server

from memo_dist.io import atomic
from memo_dist.io.runfolder import RunFolder
from memo_dist.runs import library_versions

TESTS = Path(__file__).parent.parent / "tests"
LATENCY = 2.0
SAMPLE_SECONDS = 0.25


def main() -> None:
    """Run the chosen parts."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("parts", nargs="*", default=["rate", "scaling", "memory"])
    parser.add_argument("--requests", type=int, default=12000, help="of the rate")
    parser.add_argument("--documents", type=int, default=50000, help="of the memory")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    report: dict[str, Any] = {
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "versions": library_versions(),
    }
    if options.out and options.out.exists():
        report = atomic.read_json(options.out) | report
    for part in options.parts:
        report[part] = {"rate": rate, "scaling": scaling, "memory": memory}[part](options)
        print(part, json.dumps(report[part], indent=2), flush=True)
    if options.out:
        atomic.write_json(options.out, report)


def rate(options: argparse.Namespace) -> dict[str, Any]:
    """512 in flight."""
    found = _measure(options.requests, workers=2, in_flight=512, latency=LATENCY)
    return found | {"of_ideal": round(found["requests_per_second"] / (512 / LATENCY), 4)}


def scaling(options: argparse.Namespace) -> dict[str, Any]:
    """One worker against four, 32 in flight each."""
    one = _measure(640, workers=1, in_flight=32, latency=LATENCY)
    four = _measure(2560, workers=4, in_flight=128, latency=LATENCY)
    ratio = four["requests_per_second"] / one["requests_per_second"]
    return {"one": one, "four": four, "ratio": round(ratio, 3)}


def memory(options: argparse.Namespace) -> dict[str, Any]:
    """Few documents against many."""
    few = _measure(1000, workers=2, in_flight=64, latency=0.0)
    many = _measure(options.documents, workers=2, in_flight=64, latency=0.0)
    growth = many["driver_uss_mib"] - few["driver_uss_mib"]
    more = many["documents"] - few["documents"]
    cpu = 1000 * (many["cpu_seconds"] - few["cpu_seconds"]) / more
    found = {"growth_mib": round(growth, 1), "cpu_ms_per_request": round(cpu, 3)}
    return {"few": few, "many": many, **found}


def _measure(documents: int, workers: int, in_flight: int, latency: float) -> dict[str, Any]:
    """One step with one request a document, in a driver of its own."""
    with tempfile.TemporaryDirectory(prefix="memo-engine-") as name:
        log = Path(name) / "log"
        overrides = (
            "synthesis.steps=[direct]",
            "corpus.shards=1",
            "synthesis.documents_per_unit=1",
            f"synthesis.partitions={workers}",
            f"cluster.synthesis_workers={workers}",
            f"generator.max_in_flight={in_flight}",
        )
        with server("--latency", str(latency), "--log", str(log)) as url:
            run = make_run(Path(name), make_config(url, *overrides), documents)
            usage = _watch(run, [url, *overrides])
        done = atomic.read_json(run.synth / "cost.json")["direct"]
        seconds = _seconds(log)
    assert done["answered"] == documents, done
    rate_ = {"seconds": round(seconds, 2), "requests_per_second": round(documents / seconds, 2)}
    shape = {"documents": documents, "workers": workers, "in_flight": in_flight}
    return {**shape, **rate_, **usage}


def _seconds(log: Path) -> float:
    """From the first request received to the last one answered."""
    rows = log_rows(log)
    return float(rows[-1]["time"] - rows[0]["time"])


def _watch(run: RunFolder, arguments: list[str]) -> dict[str, Any]:
    """Run a driver; its largest memory, and the CPU of it and its workers."""
    command = [sys.executable, str(TESTS / "request_toy.py"), str(run.root), "1", *arguments]
    # Ray starts its workers with a niceness of 15: on a machine with other work that would measure
    # the others.
    env = {**os.environ, "PYTHONPATH": str(TESTS), "RAY_worker_niceness": "0"}
    driver = subprocess.Popen(command, env=env, stderr=subprocess.DEVNULL)
    process = psutil.Process(driver.pid)
    uss, cpu = 0, {}
    while driver.poll() is None:
        uss = max(uss, _uss(process))
        for each in [process, *_workers(process)]:
            cpu[each.pid] = max(cpu.get(each.pid, 0.0), _cpu(each))
        time.sleep(SAMPLE_SECONDS)
    assert driver.returncode == 0, driver.returncode
    return {
        "driver_uss_mib": round(uss / 2**20, 1),
        "driver_cpu_seconds": round(cpu[driver.pid], 2),
        "cpu_seconds": round(sum(cpu.values()), 2),
    }


def _workers(driver: psutil.Process) -> list[psutil.Process]:
    try:
        children = driver.children(recursive=True)
        return [child for child in children if "PartitionWo" in "".join(child.cmdline())]
    except psutil.Error:
        return []


def _cpu(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.Error:
        return 0.0
    return float(times.user + times.system)


def _uss(process: psutil.Process) -> int:
    try:
        return int(process.memory_full_info().uss)
    except psutil.Error:
        return 0


if __name__ == "__main__":
    main()
