"""Training ranks for tests, started as any launcher would: by the rank environment alone.

Each is a fork of a process that has imported the libraries (``forks.py``), so that a launch costs
a second instead of ten.
"""

from __future__ import annotations

import subprocess
import sys
import traceback
from pathlib import Path

from cli import Process, environment, run_python
from ports import free_ports

from memo_dist.errors import MemoDistError


def launch(folder: Path, world: int = 1, seconds: float = 240) -> tuple[list[int], str]:
    """Train ``folder/job.json`` on ``world`` ranks; their exit codes and their output."""
    (port,) = free_ports()
    ranks = [start(folder, rank, world, port) for rank in range(world)]
    codes = [_code(rank, seconds) for rank in ranks]
    for rank in ranks:
        rank.kill()
    return codes, "\n".join(log_file(folder, rank).read_text() for rank in range(world))


def start(folder: Path, rank: int, world: int, port: int) -> Process:
    variables = {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world),
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "DS_ACCELERATOR": "cpu",
    }  # fmt: skip
    with log_file(folder, rank).open("wb") as log:
        return run_python([__file__, folder], {**environment(), **variables}, log)


def log_file(folder: Path, rank: int) -> Path:
    return folder / f"rank-{rank}.log"


def _code(rank: Process, seconds: float) -> int:
    try:
        return rank.wait(seconds)
    except subprocess.TimeoutExpired:
        return 99


def _train(folder: Path) -> int:
    from memo_dist.io import atomic
    from memo_dist.training.worker import train_rank

    try:
        train_rank(atomic.read_json(folder / "job.json"))
    except MemoDistError as error:
        print(error, flush=True)
        return error.exit_code
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(_train(Path(sys.argv[1])))
