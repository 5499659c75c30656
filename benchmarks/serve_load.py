"""Throughput and latency of `POST /v1/ask`, and of `Bank.answer` in batches, on one memory; latency
at half of that load; and a server with many open connections.

    python benchmarks/serve_load.py [--run RUN] [--seconds 20] [--out FILE] [KEY=VALUE ...]

Without --run a scratch memory of two shards is trained first. KEY=VALUE goes to the server, as
`serve.replicas=2`. The server runs as a process of its own; `Bank.answer` is measured while no
server runs. About two minutes on two idle cores.
"""

from __future__ import annotations

import argparse
import json
import socket
import statistics
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import httpx
from protocol_cases import FACTS, OUTSIDE
from served import make_run, serving

from memo_dist.io.runfolder import RunFolder
from memo_dist.memory.bank import Bank
from memo_dist.runs import existing_run

QUESTIONS = [*FACTS[0], *FACTS[1], *OUTSIDE]
BATCH = 16
WARM_UP = 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--connections", type=int, default=1000)
    parser.add_argument("--out", type=Path)
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="memo-load-") as name:
        run = RunFolder(options.run) if options.run else make_run(Path(name))
        found = {"bank": of_bank(run, options.seconds)}
        settings = ["serve.requests_per_minute=0", *options.settings]
        with serving(run, Path(name) / "log", *settings) as server:
            for clients in (1, 32):
                found[f"{clients} clients"] = of_server(server.url, clients, options.seconds)
            half = found["32 clients"]["questions/s"] / 2
            found["half load"] = at_rate(server.url, half, options.seconds)
            found["connections"] = crowded(server.address, server.url, options.connections)
    for row, values in found.items():
        print(f"{row:<12}", "  ".join(f"{key} {value}" for key, value in values.items()))
    per_second = {row: values.get("questions/s", 0.0) for row, values in found.items()}
    print(f"32 clients / 1 client: {per_second['32 clients'] / per_second['1 clients']:.2f}")
    print(f"32 clients / bank: {per_second['32 clients'] / per_second['bank']:.2f}")
    if options.out:
        options.out.write_text(json.dumps(found, indent=2) + "\n")


def of_bank(run: RunFolder, seconds: float) -> dict[str, float]:
    """Questions a second of `Bank.answer` in batches of 16."""
    bank = Bank.of_run(run, existing_run(run.root)[1])
    batch = (QUESTIONS * BATCH)[:BATCH]
    bank.answer(batch)
    count, began = 0, time.monotonic()
    while time.monotonic() - began < seconds:
        bank.answer(batch)
        count += BATCH
    return {"questions/s": round(count / (time.monotonic() - began), 1)}


def of_server(url: str, clients: int, seconds: float) -> dict[str, float]:
    """Questions a second and milliseconds of each, over all clients."""
    with httpx.Client(base_url=url, timeout=60) as http, ThreadPoolExecutor(clients) as pool:
        list(pool.map(lambda n: ask(http, n), range(WARM_UP)))
        began = time.monotonic()

        def client(number: int) -> list[float]:
            times = []
            while time.monotonic() - began < seconds:
                times.append(ask(http, number + len(times)))
            return times

        times = sorted(t for row in pool.map(client, range(clients)) for t in row)
        took = time.monotonic() - began
    return {
        "questions/s": round(len(times) / took, 1),
        "p50 ms": round(statistics.median(times) * 1000, 1),
        "p99 ms": round(times[int(len(times) * 0.99)] * 1000, 1),
    }


def at_rate(url: str, rate: float, seconds: float) -> dict[str, float]:
    """Milliseconds of questions that begin at a fixed rate, whether earlier ones have ended."""
    with (
        httpx.Client(base_url=url, timeout=60, limits=httpx.Limits(max_connections=64)) as http,
        ThreadPoolExecutor(64) as pool,
    ):
        began, asked = time.monotonic(), []
        for number in range(int(seconds * rate)):
            time.sleep(max(0.0, began + number / rate - time.monotonic()))
            asked.append(pool.submit(ask, http, number))
        times = sorted(one.result() for one in asked)
    median, late = statistics.median(times), times[int(len(times) * 0.99)]
    return {"questions/s": round(rate, 1), "p50 ms": round(median * 1000, 1),
            "p99 ms": round(late * 1000, 1), "p99/p50": round(late / median, 2)}  # fmt: skip


def crowded(address: tuple[str, int], url: str, count: int) -> dict[str, float]:
    """A question while many connections are open (serve.max_connections refuses), and after."""
    with ExitStack() as stack:
        for _ in range(count):
            stack.enter_context(socket.create_connection(address, timeout=10))
        during = httpx.get(f"{url}/healthz", timeout=60).status_code
    with httpx.Client(base_url=url, timeout=60) as http:
        return {"opened": count, "status during": during, "s after": round(ask(http, 0), 2)}


def ask(http: httpx.Client, number: int) -> float:
    """Seconds of one question."""
    began = time.monotonic()
    reply = http.post("/v1/ask", json={"question": QUESTIONS[number % len(QUESTIONS)]})
    reply.raise_for_status()
    return time.monotonic() - began


if __name__ == "__main__":
    main()
