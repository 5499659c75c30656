"""A tiny process beside a local Ray session that ends it when the driver dies.

Run as a file (``python -IS guard.py PARENT_PID FOLDER LIMIT COUNTER...``) so that it needs nothing
but the standard library. Ray's daemons die with their driver, but its two agents try to report
that to the dead GCS first, for about a minute (Ray 2.60, ``report_raylet_error_logs``). This
process kills whatever carries the session's mark in its environment, and removes the session's
folder.
https://github.com/ray-project/ray/pull/25516
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

MARK = "MEMO_DIST_RAY_SESSION"
"""Environment variable (the session's folder) that all processes of a session inherit."""
POLL_SECONDS = 0.5
KILL_SECONDS = 20.0
SETTLE_SECONDS = 3.0


def marked_processes(folder: str) -> Iterator[int]:
    """Pids of this user's processes that belong to the session in ``folder``.

    A process that renames itself (``ray::RuntimeEnvAgent``) may write over its environment, so
    one that has a log of the session open counts too, as each of Ray's has. Other files there are
    opened by launches that look for leftovers.
    """
    # https://github.com/dvarrazzo/py-setproctitle/issues/166
    mark = f"{MARK}={folder}".encode()
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # gone meanwhile, or another user's
            marked = mark in (entry / "environ").read_bytes().split(b"\0")
            if int(entry.name) != os.getpid() and (marked or _has_open(entry, folder)):
                yield int(entry.name)


def _has_open(entry: Path, folder: str) -> bool:
    inside = folder.rstrip("/") + "/"
    targets = [str(file.readlink()) for file in (entry / "fd").iterdir()]
    logs = [name for name in targets if name.startswith(inside) and "/logs/" in name]
    return any(not Path(name).is_dir() for name in logs)


def end_session(folder: str, settle: float) -> None:
    """Kill the session's processes until none was seen for ``settle`` s, then remove its folder.

    A daemon may have been starting a worker at the moment it was killed, so one look that finds
    nothing is not enough.
    """
    now = time.monotonic()
    deadline, seen = now + KILL_SECONDS, now
    while now < deadline and now - seen <= settle:
        for pid in marked_processes(folder):
            seen = now
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.1)
        now = time.monotonic()
    shutil.rmtree(folder, ignore_errors=True)


def oom_kills(counters: Iterable[str]) -> int:
    """Processes killed for want of memory, as the highest of some cgroups' counters has it."""
    found = [0]
    for name in counters:
        with suppress(OSError, ValueError):
            for line in Path(name).read_text(encoding="ascii").splitlines():
                field, _, value = line.partition(" ")
                if field == "oom_kill":
                    found.append(int(value))
    return max(found)


def main(parent: int, folder: str, limit: str, counters: Sequence[str]) -> None:
    """Wait until ``parent`` is gone (this process then has another one), say so, and clean up.

    A driver that ends by itself kills this process first.
    """
    before = oom_kills(counters)
    while os.getppid() == parent:
        time.sleep(POLL_SECONDS)
    with suppress(OSError):
        ending = _ending(oom_kills(counters) - before, limit)
        sys.stderr.write(f"memo-dist: process {parent} {ending}\n")
        sys.stderr.flush()
    end_session(folder, SETTLE_SECONDS)


def _ending(kills: int, limit: str) -> str:
    again = "what was complete is kept, and the same command continues"
    if not kills:
        return f"was killed; {again}"
    return (
        f"was killed: out of memory ({limit}); lower cluster.workers, cluster.synthesis_workers"
        f" or train.micro_batch_tokens, or give it more memory; {again}"
    )


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4:])
