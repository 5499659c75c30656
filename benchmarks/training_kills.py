"""Kill a training twenty times; it must finish as if nothing had happened.

    python benchmarks/training_kills.py [--kills 20] [--seed 1]
        [--out benchmarks/results/training_kills.json]

One training under Ray on two ranks. At random moments a rank, one of Ray's processes or the driver
gets SIGKILL, or the driver SIGTERM (exit code 75); whenever the driver is gone the same command is
started again. Wanted at the end: final weights equal to the unbroken run's to the bit, and a
ledger in whose lineage every position of the data order is consumed once; replays are reported.
Runs are repeated in fresh folders until all kills are done.
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


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--longest", type=float, default=30.0, help="seconds between kills")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    chance = random.Random(options.seed)
    with tempfile.TemporaryDirectory(prefix="memo-kills-") as name:
        report = study(Path(name), options.kills, options.longest, chance)
    report |= {"seed": options.seed, "versions": library_versions()}
    print(json.dumps(report, indent=2))
    if options.out:
        atomic.write_json(options.out, report)
    sys.exit(0 if report["equal"] else 1)


def study(folder: Path, wanted: int, longest: float, chance: random.Random) -> dict[str, Any]:
    seed = folder / "seed"
    done = memo_dist("synthesize", tiny_corpus(folder / "corpus"), "--run", seed, *KEYS)
    assert done.returncode == 0, done.stderr
    unbroken = folder / "unbroken"
    shutil.copytree(seed, unbroken)
    done = memo_dist("train", unbroken, *KEYS, seconds=900)
    assert done.returncode == 0, done.stderr
    reference = hash_file(unbroken / FINAL / "model.safetensors")
    kills: list[str] = []
    runs: list[dict[str, Any]] = []
    while len(kills) < wanted:
        run = folder / f"run-{len(runs)}"
        shutil.copytree(seed, run)
        killed_run(run, kills, wanted, longest, chance)
        job = TrainJob.from_json(atomic.read_json(run / "train/shard-0/job.json"))
        found = lineage(job.path, job.identity)
        runs.append(
            {
                "kills_so_far": len(kills),
                "equal": hash_file(run / FINAL / "model.safetensors") == reference,
                "positions": found.positions,
                "commits": len(found.commits),
                "replayed": found.replayed,
            }
        )
        print(runs[-1], file=sys.stderr, flush=True)
    positions = lineage(unbroken / "train/shard-0", job.identity).positions
    equal = all(run["equal"] and run["positions"] == positions for run in runs)
    return {"kills": dict(Counter(kills)), "runs": runs, "positions": positions, "equal": equal}


def killed_run(
    run: Path, kills: list[str], wanted: int, longest: float, chance: random.Random
) -> None:
    """Start, kill, and start again until the final weights are there."""
    while not (run / FINAL / "COMPLETE").exists():
        driver = subprocess.Popen(
            command("train", run, *KEYS), env=environment(), stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        while driver.poll() is None:
            if len(kills) < wanted:
                wait(driver, chance.uniform(0, longest))
                kill(driver, chance.choice(KINDS), kills)
            else:
                driver.wait(900)
        if driver.returncode not in (0, 75, -signal.SIGKILL, -signal.SIGTERM, 1):
            raise SystemExit(f"the driver ended with {driver.returncode}")


def wait(driver: subprocess.Popen[bytes], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while driver.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)


def kill(driver: subprocess.Popen[bytes], kind: str, kills: list[str]) -> None:
    if driver.poll() is not None:
        return
    if kind == "sigterm":
        driver.send_signal(signal.SIGTERM)
    elif kind == "driver":
        driver.kill()
    else:
        victims = [p for p in psutil.Process(driver.pid).children(recursive=True) if is_a(p, kind)]
        if not victims:
            return
        victims[0].kill()
    kills.append(kind)
    if kind in ("sigterm", "driver"):
        driver.wait(300)


def is_a(process: psutil.Process, kind: str) -> bool:
    try:
        rank = "RayTrainWorker" in " ".join(process.cmdline())
    except psutil.Error:
        return False
    return rank == (kind == "rank")


if __name__ == "__main__":
    main()
