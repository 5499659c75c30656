"""``STATUS.json`` and ``metrics.jsonl``: what a run says of itself, one writer a file."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from memo_dist.errors import DamagedFileError, InterruptedRunError, StoppedError
from memo_dist.io import atomic, processes

_OF_A_MOMENT = ("state", "time", "host", "place", "pid")


class StatusWriter:
    """Writes a stage's state: ``STATUS.json`` is replaced, ``metrics.jsonl`` is appended to."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._status = folder / "STATUS.json"
        self._metrics = folder / "metrics.jsonl"

    def status(self, state: str, **values: Any) -> None:
        """Replace the status; ``state`` is running, done, failed or stopped.

        A running stage names its process: it cannot write another status when it is killed.
        """
        who: dict[str, Any] = {}
        if state == "running":
            who = {"host": platform.node(), "place": processes.here(), "pid": os.getpid()}
        atomic.write_json(self._status, {"state": state, "time": time.time(), **values, **who})

    def metric(self, **values: Any) -> None:
        """Append one line of metrics with the current time (seconds since the epoch)."""
        with self._metrics.open("ab") as stream:
            stream.write(atomic.json_line({"time": time.time(), **values}))


@contextmanager
def failure_noted(folder: Path) -> Iterator[None]:
    """Leave ``failed`` or ``stopped`` where the block ends with an error, whichever it is."""
    try:
        yield
    except BaseException as error:
        stopped = isinstance(error, (StoppedError, InterruptedRunError, KeyboardInterrupt))
        note_failure(folder, f"{type(error).__name__}: {error}", stopped)
        raise


def note_failure(folder: Path, error: str, stopped: bool = False) -> None:
    """Say in a stage's STATUS.json how it ended; the numbers of its last status stay.

    On a full disk nothing is written: the error itself is the one to show.
    """
    with suppress(OSError, DamagedFileError):
        before = read_status(folder) or {}
        kept = {key: value for key, value in before.items() if key not in _OF_A_MOMENT}
        state = "stopped" if stopped else "failed"
        StatusWriter(folder).status(state, **{**kept, "error": error})


def has_died(status: Mapping[str, Any]) -> bool:
    """Whether a stage that says it is running was killed on this machine."""
    return status.get("state") == "running" and processes.is_dead(
        status.get("place"), status.get("pid")
    )


def read_status(folder: Path) -> dict[str, Any] | None:
    """The last status a stage wrote, or None where it never started."""
    path = folder / "STATUS.json"
    return atomic.read_json(path) if path.exists() else None
