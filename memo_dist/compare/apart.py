"""A task in a process of its own: its memory is its own, and its end is only its row's."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
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
    process = _start(task)
    asked, deadline = False, 0.0
    while process.poll() is None:
        if should_stop() and not asked:
            asked = True
            process.terminate()
            deadline = time.monotonic() + _GRACE_SECONDS
        if asked and time.monotonic() > deadline:
            process.kill()
        with suppress(subprocess.TimeoutExpired):
            process.wait(_POLL_SECONDS)
    return _outcome(task, process.returncode, asked)


def _outcome(task: Task, code: int, asked: bool) -> Outcome:
    """What the process has written; of one that could not, how it ended."""
    written = Outcome.read(task.outcome)
    own = written if written is not None and written.key == task.key else None
    if own is not None and code == 0:
        return own
    known = own or Outcome(task.key, "failed")
    found = replace(known, state="stopped" if asked else "failed", reason=_ended(code))
    write_outcome(task, found)
    return found


def _start(task: Task) -> subprocess.Popen[bytes]:
    """A new interpreter: a forked one would share the models that this one has loaded."""
    paths = os.pathsep.join(path for path in sys.path if path)
    command = [sys.executable, "-P", "-m", "memo_dist.compare.apart"]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, env={**os.environ, "PYTHONPATH": paths}
    )
    assert process.stdin is not None
    with suppress(BrokenPipeError), process.stdin as stream:
        stream.write(pickle.dumps((task, os.getpid())))
    return process


def _ended(code: int) -> str:
    if code < 0:
        name = signal.Signals(-code).name
        memory = " (out of memory?)" if -code == signal.SIGKILL else ""
        return f"its process was ended by {name}{memory}"
    return f"its process ended with exit code {code} and no result"


def main() -> None:
    """The process: a stop request, or the end of the parent, stops it at the next batch."""
    from memo_dist.cluster.stop import STOP
    from memo_dist.observability.logs import quiet_libraries

    STOP.install()
    quiet_libraries()
    task, parent = pickle.load(sys.stdin.buffer)  # noqa: S301 - the pipe of the parent
    run_task(task, lambda: STOP() or os.getppid() != parent)


if __name__ == "__main__":
    main()
