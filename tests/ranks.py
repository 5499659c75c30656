"""Training ranks for tests, started as any launcher would: by the rank environment alone.

A fork server imports the libraries once; each rank is a fork of it, so that a launch costs a
second instead of ten.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import traceback
from pathlib import Path

from ports import free_ports

from memo_dist.errors import MemoDistError

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["memo_dist.training.worker", "deepspeed", "peft", "ranks"])


def launch(folder: Path, world: int = 1, seconds: float = 240) -> tuple[list[int], str]:
    """Train ``folder/job.json`` on ``world`` ranks; their exit codes and their output."""
    (port,) = free_ports()
    ranks = [start(folder, rank, world, port) for rank in range(world)]
    for rank in ranks:
        rank.join(seconds)
    codes = [99 if rank.exitcode is None else rank.exitcode for rank in ranks]
    for rank in ranks:
        rank.kill()
    return codes, "\n".join(log_file(folder, rank).read_text() for rank in range(world))


def start(folder: Path, rank: int, world: int, port: int) -> multiprocessing.Process:
    process = _context.Process(target=_rank, args=(folder, rank, world, port))
    process.start()
    return process


def log_file(folder: Path, rank: int) -> Path:
    return folder / f"rank-{rank}.log"


def _rank(folder: Path, rank: int, world: int, port: int) -> None:
    log = log_file(folder, rank).open("w")
    os.dup2(log.fileno(), 1)
    os.dup2(log.fileno(), 2)
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world),
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "DS_ACCELERATOR": "cpu",
    }  # fmt: skip
    from memo_dist.io import atomic
    from memo_dist.training.worker import train_rank

    try:
        train_rank(atomic.read_json(folder / "job.json"))
    except MemoDistError as error:
        print(error, flush=True)
        sys.exit(error.exit_code)
    except BaseException:
        traceback.print_exc()
        sys.stdout.flush()
        os._exit(1)
