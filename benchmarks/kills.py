"""Kill -9 at random moments of an encode until it has finished, and compare with an unbroken run.

    python benchmarks/kills.py [--kills 20] [--seed 1] [--out benchmarks/results/kills.json]

Each kill hits the driver or one of its Ray processes (a synthesis worker, a rank, a daemon),
chosen at random; after a driver's death the same command is started again. At the end the
reflections must be byte-identical and the exported weights equal. Runs are repeated (each in a
fresh folder) until the asked number of kills was done.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from cli import ENCODE_SECONDS, TINY, command, environment, memo_dist, result, tiny_corpus

from memo_dist.io import atomic
from memo_dist.runs import library_versions

LONGEST_WAIT = 35.0
"""Seconds: kills fall uniformly within this time after a start, about one tiny encode."""


def main() -> None:
    """Run the benchmark; exit 1 if any run differs from the unbroken one."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    chance = random.Random(options.seed)
    with tempfile.TemporaryDirectory(prefix="memo-kills-") as name:
        report = _kill_until(Path(name), options.kills, chance)
    report |= {"seed": options.seed, "versions": library_versions(), "machine": platform.machine()}
    print(json.dumps(report, indent=2))
    if options.out:
        atomic.write_json(options.out, report)
    sys.exit(0 if report["equal"] else 1)


def _kill_until(folder: Path, wanted: int, chance: random.Random) -> dict[str, object]:
    corpus = tiny_corpus(folder / "corpus")
    unbroken = folder / "unbroken"
    done = memo_dist("encode", corpus, "--run", unbroken, *TINY, seconds=ENCODE_SECONDS)
    if done.returncode:
        raise SystemExit(done.stderr)
    reference = result(unbroken)
    kills: list[dict[str, object]] = []
    equal, runs = True, 0
    while len(kills) < wanted:
        run = folder / f"run-{runs}"
        _one_run(corpus, run, kills, wanted, chance)
        same = result(run) == reference
        print(f"run {runs}: {len(kills)} kills so far, equal {same}", file=sys.stderr, flush=True)
        equal, runs = equal and same, runs + 1
    return {"kills": kills, "runs": runs, "equal": equal}


def _one_run(
    corpus: Path, run: Path, kills: list[dict[str, object]], wanted: int, chance: random.Random
) -> None:
    """Start, kill and restart until the run ends by itself with exit 0."""
    arguments = command("encode", corpus, "--run", run, *TINY)
    failures = 0
    while True:
        log = (run.parent / f"{run.name}.log").open("ab")
        driver = subprocess.Popen(
            arguments, env=environment(), stdout=log, stderr=log, start_new_session=True
        )
        code = _kill_some(driver, run, kills, wanted, chance)
        if code == 0:
            return
        if code > 0:  # a daemon's death may end a launch; the same command must go on
            failures += 1
            if failures > wanted:
                raise SystemExit(f"{run.name} does not finish; see {log.name}")


def _kill_some(
    driver: subprocess.Popen[bytes],
    run: Path,
    kills: list[dict[str, object]],
    wanted: int,
    chance: random.Random,
) -> int:
    """Kill processes of one launch until the driver is dead or done; its exit code."""
    while True:
        try:
            limit = chance.uniform(1, LONGEST_WAIT) if len(kills) < wanted else ENCODE_SECONDS
            return driver.wait(limit)
        except subprocess.TimeoutExpired:
            if len(kills) >= wanted:
                driver.kill()
                raise SystemExit(f"{run.name} hangs") from None
        victim = _choose(driver.pid, chance)
        kills.append({"run": run.name, "victim": victim[1], "time": round(time.time(), 1)})
        victim[0].kill()
        if victim[0].pid == driver.pid:
            return driver.wait(60)


def _choose(driver: int, chance: random.Random) -> tuple[psutil.Process, str]:
    """The driver in one of three kills, else one of its descendants."""
    process = psutil.Process(driver)
    children = process.children(recursive=True)
    if not children or chance.random() < 1 / 3:
        return process, "driver"
    child = chance.choice(children)
    try:
        words = [Path(word).name for word in child.cmdline()[:4]]
        return child, " ".join(words).strip()[:60] or child.name()
    except psutil.Error:
        return process, "driver"


if __name__ == "__main__":
    main()
