"""Kill a training twenty times; it must finish as if nothing had happened.

    python benchmarks/training_kills.py [--kills 20] [--seed 1] [--kinds rank ray driver sigterm]
        [--out benchmarks/results/training_kills.json]

One training under Ray on two ranks. At random moments a rank, one of Ray's processes or the driver
gets SIGKILL, or the driver SIGTERM (exit code 75); whenever the driver is gone the same command is
started again. Half of the moments are counted from the start of the process or the kill before,
the other half from the next checkpoint on: these fall into the steps, however slow the start is.
Wanted at the end: final weights equal to the unbroken run's to the bit, and a ledger in whose
lineage every position of the data order is consumed once; replays are reported. Runs are repeated
in fresh folders until all kills are done.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from cli import TINY, command, environment, memo_dist, tiny_corpus

from memo_dist.io import atomic
from memo_dist.io.hashing import hash_file
from memo_dist.runs import library_versions
from memo_dist.training.job import TrainJob
from memo_dist.training.ledger import lineage

KEYS = (*TINY, "train.epochs=60", "train.checkpoint_steps=7", "train.max_stalled_starts=0",
        "train.max_failures=100", "cluster.workers=2")  # fmt: skip
KINDS = ("rank", "ray", "driver", "sigterm")
FINAL = "train/shard-0/final"
CHECKPOINT_SECONDS = 300.0
"""Deadline of a checkpoint; after it the kill comes anyway."""
CHECKPOINT_PAUSE = 3.0
"""Longest pause after a checkpoint: about two more of them."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--longest", type=float, default=30.0, help="seconds between kills")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    chance = random.Random(options.seed)
    with tempfile.TemporaryDirectory(prefix="memo-kills-") as name:
        plan = Plan(options.kills, options.longest, tuple(options.kinds), chance)
        report = study(Path(name), plan)
    report |= {"seed": options.seed, "versions": library_versions()}
    print(json.dumps(report, indent=2))
    if options.out:
        atomic.write_json(options.out, report)
    sys.exit(0 if report["equal"] else 1)


@dataclass
class Plan:
    """What is killed, and when.

    Attributes:
        wanted: kills in all.
        longest: seconds of a random pause.
        kinds: to choose from.
        chance: decides.
        done: [kind, whether it had to come after a checkpoint] of each kill.
    """

    wanted: int
    longest: float
    kinds: tuple[str, ...]
    chance: random.Random
    done: list[tuple[str, bool]] = field(default_factory=list)


def study(folder: Path, plan: Plan) -> dict[str, Any]:
    seed = folder / "seed"
    done = memo_dist("synthesize", tiny_corpus(folder / "corpus"), "--run", seed, *KEYS)
    assert done.returncode == 0, done.stderr
    unbroken = folder / "unbroken"
    shutil.copytree(seed, unbroken)
    done = memo_dist("train", unbroken, *KEYS, seconds=900)
    assert done.returncode == 0, done.stderr
    reference = hash_file(unbroken / FINAL / "model.safetensors")
    runs: list[dict[str, Any]] = []
    while len(plan.done) < plan.wanted:
        run = folder / f"run-{len(runs)}"
        shutil.copytree(seed, run)
        killed_run(run, plan)
        job = TrainJob.from_json(atomic.read_json(run / "train/shard-0/job.json"))
        found = lineage(job.path, job.identity)
        runs.append(
            {
                "kills_so_far": len(plan.done),
                "equal": hash_file(run / FINAL / "model.safetensors") == reference,
                "positions": found.positions,
                "commits": len(found.commits),
                "replayed": found.replayed,
            }
        )
        print(runs[-1], file=sys.stderr, flush=True)
    positions = lineage(unbroken / "train/shard-0", job.identity).positions
    equal = all(run["equal"] and run["positions"] == positions for run in runs)
    return {
        "kills": dict(Counter(kind for kind, _ in plan.done)),
        "after_a_checkpoint": sum(after for _, after in plan.done),
        "runs": runs,
        "positions": positions,
        "equal": equal,
    }


def killed_run(run: Path, plan: Plan) -> None:
    """Start, kill, and start again until the final weights are there."""
    while not (run / FINAL / "COMPLETE").exists():
        driver = subprocess.Popen(
            command("train", run, *KEYS), env=environment(), stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        while driver.poll() is None:
            if len(plan.done) < plan.wanted:
                kind, after = plan.chance.choice(plan.kinds), plan.chance.random() < 0.5
                if after:
                    wait(driver, CHECKPOINT_SECONDS, newer_checkpoint(run))
                wait(driver, plan.chance.uniform(0, CHECKPOINT_PAUSE if after else plan.longest))
                if kill(driver, kind):
                    plan.done.append((kind, after))
            else:
                driver.wait(900)
        if driver.returncode not in (0, 75, -signal.SIGKILL, -signal.SIGTERM, 1):
            raise SystemExit(f"the driver ended with {driver.returncode}")


def wait(
    driver: subprocess.Popen[bytes], seconds: float, until: Callable[[], bool] = lambda: False
) -> None:
    deadline = time.monotonic() + seconds
    while driver.poll() is None and time.monotonic() < deadline and not until():
        time.sleep(0.05)


def newer_checkpoint(run: Path) -> Callable[[], bool]:
    """Whether a checkpoint was completed since now."""

    def complete() -> set[Path]:
        return set((run / "train/shard-0").rglob("step-*/COMPLETE"))

    before = complete()
    return lambda: bool(complete() - before)


def kill(driver: subprocess.Popen[bytes], kind: str) -> bool:
    """Whether there was something to kill."""
    if driver.poll() is not None:
        return False
    if kind == "sigterm":
        driver.send_signal(signal.SIGTERM)
    elif kind == "driver":
        driver.kill()
    else:
        victims = [p for p in psutil.Process(driver.pid).children(recursive=True) if is_a(p, kind)]
        if not victims:
            return False
        victims[0].kill()
    if kind in ("sigterm", "driver"):
        driver.wait(300)
    return True


def is_a(process: psutil.Process, kind: str) -> bool:
    try:
        rank = "RayTrainWorker" in " ".join(process.cmdline())
    except psutil.Error:
        return False
    return rank == (kind == "rank")


if __name__ == "__main__":
    main()
