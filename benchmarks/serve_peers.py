"""Chat completions per second on one exported folder: `memo-dist serve` with each engine, beside
`transformers serve` and `vllm serve` themselves.

    python benchmarks/serve_peers.py --run RUN [--vllm COMMAND] [--seconds 10] [--rounds 2]
        [--clients 1,8] [--out FILE]

RUN has one full shard. The peers answer the chat template that the folder carries, greedily, with
the same limit of tokens, in float32; they compute no confidence, sources or second wording. All
servers run at the same time, and the measurements alternate: only one server is asked at a time.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import httpx
from ports import free_ports
from served import serving

from memo_dist.io.atomic import read_jsonl
from memo_dist.io.runfolder import RunFolder
from memo_dist.memory.manifest import load_manifest
from memo_dist.runs import existing_run

START_SECONDS = 900
WARM_UP = 8
TRANSFORMERS = "from transformers.cli.transformers import app; app()"
"""Its command without the look for a newer version."""


class Peer(NamedTuple):
    """A server with OpenAI's API: its URL, and the name of its model."""

    url: str
    model: str


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--vllm", default="", help="command of vLLM; without it, it is left out")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--clients", default="1,8")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    run = RunFolder(options.run)
    _, config = existing_run(run.root)
    (entry,) = load_manifest(run.memory).shards
    folder, most = run.memory / entry.path, config.memory.max_answer_tokens
    rows = list(read_jsonl(run.trained_reflections))
    questions = [row["question"] for row in rows[:: max(1, len(rows) // 64)]]
    with ExitStack() as stack, tempfile.TemporaryDirectory(prefix="memo-peers-") as name:
        peers = open_peers(run, folder, options.vllm, Path(name), stack)
        found = measure(peers, questions, most, options)
    for peer, rates in found.items():
        print(f"{peer:<42}", "  ".join(f"{key}: {value}" for key, value in rates.items()))
    if options.out:
        options.out.write_text(json.dumps(found, indent=2) + "\n")


def open_peers(
    run: RunFolder, folder: Path, vllm: str, logs: Path, stack: ExitStack
) -> dict[str, Peer]:
    """All servers, started one after the other."""
    words = [
        "serve.requests_per_minute=0",
        "serve.answer_seconds=600",
        "serve.vllm_start_seconds=900",
    ]
    engines = {"transformers": [], "vllm": ["serve.engine=vllm", f"serve.vllm_command={vllm}"]}
    found = {}
    for engine, more in engines.items():
        if engine == "vllm" and not vllm:
            continue
        started = serving(run, logs / engine, *words, *more, start_seconds=START_SECONDS)
        server = stack.enter_context(started)
        found[f"memo-dist serve, {engine}"] = Peer(f"{server.url}/v1", f"memo:{run.root.name}")
    ports = free_ports(2)
    hf = [sys.executable, "-c", TRANSFORMERS, "serve", str(folder)]
    command = [*hf, "--device=cpu", "--dtype=float32", f"--port={ports[0]}"]
    url = stack.enter_context(running(command, ports[0], logs / "hf"))
    found["transformers serve"] = Peer(url, str(folder))
    if vllm:
        command = [vllm, "serve", str(folder), "--host=127.0.0.1", f"--port={ports[1]}",
                   "--dtype=float32", "--enforce-eager", "--generation-config=vllm",
                   "--kv-cache-memory-bytes=1073741824", "--disable-log-stats"]  # fmt: skip
        url = stack.enter_context(running(command, ports[1], logs / "vllm-itself"))
        found["vllm serve"] = Peer(url, str(folder))
    return found


@contextmanager
def running(command: list[str], port: int, log: Path) -> Iterator[str]:
    """A peer while the block lasts; its base URL."""
    cache = log.parent / "cache"  # transformers serve lists it, and fails where there is none
    cache.mkdir(exist_ok=True)
    env = {**os.environ, "VLLM_CPU_OMP_THREADS_BIND": "nobind", "HF_HUB_OFFLINE": "1",
           "HF_HUB_CACHE": str(cache)}  # fmt: skip
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, env=env)
    url, until = f"http://127.0.0.1:{port}/v1", time.monotonic() + START_SECONDS
    try:
        while not answers(url):
            if process.poll() is not None or time.monotonic() > until:
                raise SystemExit(f"{command} does not start: {log.read_text()[-2000:]}")
            time.sleep(0.5)
        yield url
    finally:
        process.terminate()
        process.wait()


def answers(url: str) -> bool:
    """Whether the peer lists its models."""
    try:
        return httpx.get(f"{url}/models", timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


def measure(
    peers: dict[str, Peer], questions: list[str], most: int, options: argparse.Namespace
) -> dict[str, dict[str, float]]:
    """Median over the rounds, by peer and number of clients."""
    counts = [int(count) for count in options.clients.split(",")]
    rates: dict[str, dict[str, list[float]]] = {
        name: {f"{count} clients": [] for count in counts} for name in peers
    }
    for peer in peers.values():
        for question in questions[:WARM_UP]:
            complete(httpx.Client(timeout=600), peer, question, most)
    for _ in range(options.rounds):
        for name, peer in peers.items():
            for count in counts:
                rate = completions(peer, questions, most, count, options.seconds)
                rates[name][f"{count} clients"].append(rate)
    return {
        name: {key: round(statistics.median(values), 2) for key, values in rows.items()}
        for name, rows in rates.items()
    }


def completions(peer: Peer, questions: list[str], most: int, clients: int, seconds: float) -> float:
    """Chat completions per second of several clients."""
    began = time.monotonic()

    def client(number: int) -> int:
        done = 0
        with httpx.Client(timeout=600) as http:
            while time.monotonic() - began < seconds:
                complete(http, peer, questions[(number + done) % len(questions)], most)
                done += 1
        return done

    with ThreadPoolExecutor(clients) as pool:
        done = sum(pool.map(client, range(clients)))
    return done / (time.monotonic() - began)


def complete(http: httpx.Client, peer: Peer, question: str, most: int) -> str:
    """The text of one chat completion."""
    body = {
        "model": peer.model,
        "messages": [{"role": "user", "content": question}],
        "max_tokens": most,
        "temperature": 0,
    }
    reply = http.post(f"{peer.url}/chat/completions", json=body)
    reply.raise_for_status()
    return str(reply.json()["choices"][0]["message"]["content"])


if __name__ == "__main__":
    main()
