"""What killed launches left: temporary files of a run, and folders of Ray sessions; ours only."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from memo_dist.cluster import guard
from memo_dist.cluster.resources import memory_limit, oom_counters
from memo_dist.errors import DamagedFileError
from memo_dist.io import atomic, processes

OWNER = "owner.json"
"""In the folder of a Ray session: which process made it."""


def claim(folder: Path) -> None:
    """Write into a folder which process it belongs to."""
    atomic.write_json(folder / OWNER, {"place": processes.here(), "pid": os.getpid()})


def start_guard(folder: Path) -> subprocess.Popen[bytes]:
    """Start the process that ends the Ray session in ``folder`` if this process is killed."""
    command = [sys.executable, "-IS", guard.__file__, str(os.getpid()), str(folder)]
    command += [memory_limit(), *map(str, oom_counters())]
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True
    )


def clean_sessions(parent: Path, prefix: str) -> None:
    """End and remove this user's sessions in ``parent`` whose process is dead.

    A session of another machine or container, whose processes cannot be seen here, stays.
    """
    for folder in parent.glob(f"{prefix}*"):
        with suppress(OSError, DamagedFileError):
            if folder.stat().st_uid == os.getuid() and _is_dead(folder / OWNER):
                guard.end_session(str(folder), settle=0.0)


def remove_abandoned(path: str) -> bool:
    """Remove a temporary file or folder of a run whose process is dead; whether it was one.

    Called by the run's only writer.
    """
    if not atomic.is_abandoned(path.rpartition("/")[2]):
        return False
    if Path(path).is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        Path(path).unlink(missing_ok=True)
    return True


def _is_dead(owner: Path) -> bool:
    row = atomic.read_json(owner)
    return processes.is_dead(row["place"], row["pid"])
