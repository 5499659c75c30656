"""A task in a process of its own: its memory is its own, and its end is only its row's."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from dataclasses import replace

from memo_dist.compare.task import Outcome, Task, run_task, write_outcome

_POLL_SECONDS = 0.2
_GRACE_SECONDS = 30.0
"""After a stop request a process has this long to keep what it has."""


def run_apart(task: Task, should_stop: Callable[[], bool]) -> Outcome:
    """Work on a task in a new process.

    A process that ends without an outcome (the system's out-of-memory killer, a crash of native
    code) gives the state "failed".
    """
    before = Outcome.read(task.outcome)
    if before is not None:
        write_outcome(task, replace(before, state="stopped", reason="it has not ended"))
    process = multiprocessing.get_context("spawn").Process(
        target=_work, args=(task, os.getpid()), name=f"compare-{task.method}", daemon=True
    )
    process.start()
    asked = False
    while process.is_alive():
        process.join(_POLL_SECONDS)
        if should_stop() and not asked:
            asked = True
            process.terminate()
            process.join(_GRACE_SECONDS)
            process.kill()
    process.join()
    outcome = Outcome.read(task.outcome)
    ended = outcome is not None and outcome.key == task.key and process.exitcode == 0
    if outcome is not None and ended:
        return outcome
    found = Outcome(task.key, "stopped" if asked else "failed", _ended(process.exitcode))
    write_outcome(task, found)
    return found


def _ended(code: int | None) -> str:
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        memory = " (out of memory?)" if -code == signal.SIGKILL else ""
        return f"its process was ended by {name}{memory}"
    return f"its process ended with exit code {code} and no result"


def _work(task: Task, parent: int) -> None:
    """The process: a stop request, or the end of the parent, stops it at the next batch."""
    from memo_dist.cluster.stop import STOP
    from memo_dist.observability.logs import quiet_libraries

    STOP.install()
    quiet_libraries()
    run_task(task, lambda: STOP() or os.getppid() != parent)
