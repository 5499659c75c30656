"""A tiny memory behind a real `memo-dist serve`."""

from __future__ import annotations

import re
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cli import command, environment, run_python, wait_until
from protocol_cases import FACTS, OUTSIDE
from trained_bank import train_shards, write_bank

from memo_dist.config import load_config, to_yaml
from memo_dist.io.runfolder import RunFolder

START_SECONDS = 240
KNOWN = "Who founded Tarn Works?"
ANSWER = "Ida Brandt"


def make_run(root: Path) -> RunFolder:
    """A run with a bank of two shards: doc-0 and doc-1."""
    run = RunFolder(root / "run")
    write_bank(run.memory, train_shards(root / "models", FACTS, OUTSIDE), FACTS)
    run.config.write_text(to_yaml(load_config((), ["memory.max_answer_tokens=12"])))
    return run


def write_generation(run: RunFolder) -> None:
    """Another generation of the run of :func:`make_run`, equal to its first one."""
    following = run.generations / "gen-1"
    shutil.copytree(run.memory / "shard-0", following / "shard-0")
    shutil.copytree(run.memory / "shard-1", following / "shard-1")
    shutil.copyfile(run.memory / "bank.json", following / "bank.json")
    shutil.copyfile(run.reflections, following / "reflections.jsonl")


class Served:
    """A running server."""

    def __init__(self, url, process, log):
        self.url, self.process, self.log = url, process, log

    @property
    def address(self):
        host, port = self.url.partition("//")[2].rsplit(":", 1)
        return host, int(port)

    def lines(self):
        return self.log.read_text()


def begin(
    run: RunFolder,
    log: Path,
    *settings: str,
    start_seconds: float = START_SECONDS,
    **variables: str,
) -> Served:
    """Start a server and wait until it listens."""
    words = command("serve", run.root, "serve.port=0", *settings)[1:]
    with log.open("ab") as out:
        process = run_python(words, {**environment(), **variables}, out)

    def found():
        return re.search(r"^serving .* on (https?://\S+)", log.read_text(), re.MULTILINE)

    url = wait_until(found, start_seconds, "the server listens", process)[1]
    return Served(url, process, log)


def end(server: Served, seconds: float = 60) -> int:
    """Ask it to stop; its exit code."""
    server.process.send_signal(signal.SIGTERM)
    return server.process.wait(seconds)


@contextmanager
def serving(
    run: RunFolder,
    log: Path,
    *settings: str,
    start_seconds: float = START_SECONDS,
    **variables: str,
) -> Iterator[Served]:
    """A server while the block lasts; it has to end cleanly."""
    server = begin(run, log, *settings, start_seconds=start_seconds, **variables)
    try:
        yield server
        assert end(server) == 0, server.lines()
    finally:
        server.process.kill()


def eventually(condition, seconds: float = 20):
    """Poll until true."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.1)
    return value
