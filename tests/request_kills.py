"""Kills of driver, workers and server in the middle of a synthesis that asks a model."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from ports import free_ports
from request_toy import log_rows, make_config, make_run, start_server

from memo_dist.io.atomic import read_jsonl
from memo_dist.io.checked_lines import LineTail
from memo_dist.io.runfolder import RunFolder

HERE = Path(__file__).parent
FAULTS = ("--fault", "malformed=0.3", "--fault", "truncated=0.1")
LAST_BREATH = 8.0
"""Seconds that the workers of a killed driver may live on."""


@dataclass
class Setting:
    """One run under kills.

    ``folder`` holds everything; ``kills`` are made at moments and on victims that ``seed`` draws.
    """

    folder: Path
    documents: int
    kills: int
    seed: int
    in_flight: int
    latency: float
    victims: tuple[str, ...] = ("driver", "worker", "server")
    port: int = field(default=0)

    @property
    def log(self) -> Path:
        return self.folder / "server.jsonl"

    def overrides(self) -> list[str]:
        url = f"http://127.0.0.1:{self.port}/v1"
        return [url, f"generator.max_in_flight={self.in_flight}", "synthesis.partitions=4"]

    def serve(self) -> subprocess.Popen[str]:
        latency = str(self.latency)
        arguments = ("--port", str(self.port), "--latency", latency, "--log", str(self.log))
        process = start_server(*arguments, *FAULTS)
        assert process.stdout is not None
        process.stdout.readline()
        return process

    def drive(self, run: RunFolder) -> subprocess.Popen[bytes]:
        command = [sys.executable, str(HERE / "request_toy.py"), str(run.root), "2"]
        output = (self.folder / "driver.log").open("ab")
        return subprocess.Popen(
            [*command, *self.overrides()],
            start_new_session=True,
            stdout=output,
            stderr=output,
            env={**os.environ, "PYTHONPATH": str(HERE), "RAY_worker_niceness": "0"},
        )


def killed_run(setting: Setting) -> dict[str, Any]:
    """Run to the end under kills; what happened, and what the logs say of it."""
    (setting.port,) = free_ports()
    run = make_run(setting.folder, make_config(*setting.overrides()), setting.documents)
    chance = random.Random(setting.seed)
    kills: list[dict[str, Any]] = []
    server, driver = setting.serve(), setting.drive(run)
    try:
        while True:
            if len(kills) < setting.kills and _moment(setting, driver, chance):
                victim = chance.choice(setting.victims)
                kills.append({"victim": victim, "answered": answered(run)})
                kills[-1]["time"] = time.time()
                if victim == "server":
                    server.kill()
                    server.wait()
                    time.sleep(chance.uniform(0, 1))
                    server = setting.serve()
                elif victim == "driver":
                    driver.kill()
                    driver.wait()
                    driver = setting.drive(run)
                else:
                    _kill_a_worker(driver.pid, chance)
            elif len(kills) >= setting.kills or driver.poll() is not None:
                code = driver.wait(300)
                break
    finally:
        for process in (driver, server):
            process.kill()
            process.wait()
    return {"run": run, "code": code, "kills": kills, **audit(setting, run, kills)}


def _moment(setting: Setting, driver: subprocess.Popen[bytes], chance: random.Random) -> bool:
    """Wait until requests come and a random while longer; False where the driver ended."""
    start = time.time()
    while not setting.log.exists() or not _is_received_since(setting.log, start):
        if driver.poll() is not None:
            return False
        time.sleep(0.05)
    time.sleep(chance.uniform(0, 2.5))
    return driver.poll() is None


def _is_received_since(log: Path, start: float) -> bool:
    with log.open("rb") as stream:
        stream.seek(max(0, log.stat().st_size - 400))
        lines = stream.read().splitlines()
    return bool(lines) and json.loads(lines[-1])["time"] > start


def _kill_a_worker(driver: int, chance: random.Random) -> None:
    children = psutil.Process(driver).children(recursive=True)
    workers = [child for child in children if "PartitionWorker" in _name(child)]
    if workers:
        chance.choice(workers).kill()


def _name(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def attempts(run: RunFolder) -> list[dict[str, Any]]:
    """The lines of all request journals."""
    paths = sorted(run.synth.glob("*/journal/requests-*.jsonl"))
    return [row for path in paths for row in LineTail(path).new_rows()]


def answered(run: RunFolder) -> set[str]:
    return {row["key"] for row in attempts(run) if row["outcome"] == "ok"}


def audit(setting: Setting, run: RunFolder, kills: list[dict[str, Any]]) -> dict[str, Any]:
    """What must hold of the server's log, the journals and the quarantine."""
    rows = log_rows(setting.log)
    received = [row for row in rows if row["event"] == "received"]
    sends = len(received)
    different = len({(row["key"], row["attempt"]) for row in received})
    again = [
        row["key"]
        for kill in kills
        for row in received
        if row["time"] > kill["time"] + 0.01 and row["key"] in kill["answered"]
    ]
    failed = {row["key"] for row in attempts(run) if row["final"] and row["outcome"] != "ok"}
    quarantine = {
        row["request"]
        for path in run.synth.glob("*/quarantine/*.jsonl")
        for row in read_jsonl(path)
        if "request" in row
    }
    return {
        "sends": sends,
        "resends": sends - different,
        "in_flight_at_kills": sum(_in_flight(rows, kill["time"]) for kill in kills),
        "answered_and_sent_again": len(again),
        "failed": len(failed),
        "failed_not_in_quarantine": len(failed ^ quarantine),
    }


def _in_flight(rows: list[dict[str, Any]], moment: float) -> int:
    """The most requests in flight while the victim died: a driver's workers outlive it a little."""
    now, most = 0, 0
    for row in rows:
        now += 1 if row["event"] == "received" else -1
        if row["time"] <= moment:
            most = now
        elif row["time"] <= moment + LAST_BREATH:
            most = max(most, now)
    return most
