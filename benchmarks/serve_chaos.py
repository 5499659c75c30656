"""A server under writes and questions that is consolidated, switched, stopped and killed.

    python benchmarks/serve_chaos.py [--run RUN] [--seconds 120] [--writers 4] [--out FILE]
        [--kill-replicas SECONDS] [KEY=VALUE ...]

Without --run a scratch memory is trained that cannot be consolidated: each consolidation fails, and
the texts must wait on. With an encoded --run they are trained for real. A quarter of the time in, a
copied generation takes over; at half the server gets SIGKILL and is started again; at three
quarters SIGTERM, and again. At the end each writer's documents must be what was confirmed: a
write that a kill interrupted may have happened or not. It ends with code 1 on any other state.
KEY=VALUE goes to the server; with `serve.replicas=2` and --kill-replicas one of them gets SIGKILL
every so many seconds, which no request may notice.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import httpx
import psutil
from served import ANSWER, KNOWN, Served, begin, end, make_run

from memo_dist.io.generations import current_number, generation, switch
from memo_dist.io.runfolder import RunFolder

Text = str | None
"""Of a document; None: deleted, or never there."""


class Traffic:
    """Clients of one server, and what they have to find at its end."""

    def __init__(self, url: str, check_answer: bool) -> None:
        self.url, self._check_answer = url, check_answer
        self.stop = threading.Event()
        self.down = threading.Event()
        self.counts: Counter[str] = Counter()
        self.faults: list[str] = []
        self.documents: dict[str, set[Text]] = {}

    def write(self, number: int) -> None:
        """Add, replace and delete documents of its own until the end."""
        rng, made = random.Random(number), 0
        mine: dict[str, set[Text]] = {}
        with httpx.Client(base_url=self.url, timeout=60) as http:
            while not self.stop.is_set():
                known = [
                    name for name, texts in mine.items() if len(texts) == 1 and None not in texts
                ]
                kind = rng.choice(("PUT", "DELETE")) if len(known) > 5 else "POST"
                name = rng.choice(known) if kind != "POST" else f"w{number}-{made}"
                made += kind == "POST"
                text = (
                    None if kind == "DELETE" else f"Crate {name} holds {rng.random():.9f} litres."
                )
                before = mine.get(name, {None})
                mine[name] = {text} if self._send(http, kind, name, text) else before | {text}
        self.documents |= mine

    def ask(self, number: int) -> None:
        """Ask what the memory knows until the end."""
        with httpx.Client(base_url=self.url, timeout=60) as http:
            while not self.stop.is_set():
                reply = self._request(http, "POST", "/v1/ask", {"question": KNOWN})
                wrong = reply is not None and self._check_answer and ANSWER not in reply["answer"]
                if wrong:
                    self.faults.append(f"answered {reply['answer'][:60]!r}")

    def compare(self) -> None:
        """What the server has at the end against what it has confirmed."""
        with httpx.Client(base_url=self.url, timeout=60) as http:
            for name, texts in self.documents.items():
                reply = http.get(f"/v1/documents/{name}")
                found = reply.json()["text"] if reply.status_code == 200 else None
                if found not in texts:
                    self.faults.append(f"{name} is {found!r}, one of {texts} was confirmed")
            rows = listed(http)
            if len(rows) != len(set(rows)):
                self.faults.append("a document is listed twice")

    def _send(self, http: httpx.Client, kind: str, name: str, text: Text) -> bool:
        """Whether the write was confirmed."""
        if kind == "POST":
            return (
                self._request(http, kind, "/v1/documents", {"id": name, "text": text}) is not None
            )
        body = None if text is None else {"text": text}
        return self._request(http, kind, f"/v1/documents/{name}", body) is not None

    def _request(self, http: httpx.Client, method: str, path: str, body: object) -> dict | None:
        """The reply; None: the server was away. Any other failure is a fault."""
        away = self.down.is_set()
        try:
            reply = http.request(method, path, json=body)
        except httpx.HTTPError as error:
            self.counts["not answered"] += 1
            if not (away or self.down.is_set()):
                self.faults.append(f"{method} {path}: {type(error).__name__}")
            time.sleep(0.05)
            return None
        self.counts[f"{method} {reply.status_code}"] += 1
        if reply.status_code == 503 and self.down.is_set():  # it is being stopped
            return None
        if reply.status_code not in (200, 202):
            self.faults.append(f"{method} {path}: {reply.status_code} {reply.text[:100]}")
            return None
        return dict(reply.json())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, help="is copied")
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--writers", type=int, default=4)
    parser.add_argument("--askers", type=int, default=4)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--kill-replicas", type=float, default=0.0, metavar="SECONDS")
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="memo-chaos-") as name:
        root = Path(name)
        if options.run:
            run = RunFolder(Path(shutil.copytree(options.run, root / "run")))
        else:
            run = make_run(root)
        found = storm(run, root, options)
    print(json.dumps(found, indent=2))
    if options.out:
        options.out.write_text(json.dumps(found, indent=2) + "\n")
    sys.exit(1 if found["faults"] else 0)


def storm(run: RunFolder, root: Path, options: argparse.Namespace) -> dict[str, object]:
    port, quarter = free_port(), options.seconds / 4

    def started() -> Served:
        return begin(run, root / f"log-{time.time_ns()}", f"serve.port={port}",
                     "serve.requests_per_minute=0", *options.settings)  # fmt: skip

    server = started()
    traffic = Traffic(server.url, check_answer=options.run is None)
    with ThreadPoolExecutor(options.writers + options.askers + 1) as pool:
        clients = [pool.submit(traffic.write, number) for number in range(options.writers)]
        clients += [pool.submit(traffic.ask, number) for number in range(options.askers)]
        if options.kill_replicas:
            clients.append(pool.submit(kill_replicas, traffic, options.kill_replicas))
        try:
            time.sleep(quarter)
            another_generation(run)
            consolidate(server.url)
            time.sleep(quarter)
            server = restarted(server, traffic, started, signal.SIGKILL)
            time.sleep(quarter)
            consolidate(server.url)
            server = restarted(server, traffic, started, signal.SIGTERM)
            time.sleep(quarter)
        finally:
            traffic.stop.set()
        for client in clients:
            client.result(120)
    traffic.compare()
    code = end(server, 120)
    return {"seconds": options.seconds, "documents": len(traffic.documents),
            "requests": dict(sorted(traffic.counts.items())), "exit code": code,
            "faults": traffic.faults[:20]}  # fmt: skip


def restarted(
    server: Served, traffic: Traffic, started: Callable[[], Served], number: int
) -> Served:
    """The server, ended by a signal and begun again on its port."""
    traffic.down.set()
    server.process.send_signal(number)
    server.process.wait(120)
    fresh = started()
    traffic.down.clear()
    return fresh


def kill_replicas(traffic: Traffic, seconds: float) -> None:
    """SIGKILL for one of this benchmark's replicas again and again while the server is up."""
    while not traffic.stop.wait(seconds):
        if traffic.down.is_set():
            continue
        for child in psutil.Process().children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                title = "".join(child.cmdline()).lower().replace("_", "")
                if title.startswith("ray::servereplica"):
                    child.kill()
                    traffic.counts["replicas killed"] += 1
                    break


def another_generation(run: RunFolder) -> None:
    """A copy of the bank becomes the next generation."""
    before = run.memory
    number = current_number(run.generations) + 1
    fresh = generation(run.generations, number)
    shutil.copytree(before, fresh, ignore=shutil.ignore_patterns("gen-*", "CURRENT", "receipts"))
    if not (fresh / "reflections.jsonl").exists():
        shutil.copyfile(run.reflections, fresh / "reflections.jsonl")
    switch(run.generations, number)


def consolidate(url: str) -> None:
    httpx.post(f"{url}/v1/consolidate", json={}, timeout=60).raise_for_status()


def listed(http: httpx.Client) -> list[str]:
    """Ids of all documents."""
    found: list[str] = []
    while True:
        page = {"limit": 1000, "offset": len(found)}
        rows = http.get("/v1/documents", params=page).json()["documents"]
        found += [row["id"] for row in rows]
        if len(rows) < 1000:
            return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    main()
