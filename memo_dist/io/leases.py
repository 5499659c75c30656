"""Locks by files with a heartbeat, for file systems on which flock does not work.

``<path>.leases/`` holds one file a holder, with its host and process: ``sole``, or
``shared-<host>-<process>-<number>``. A holder touches its file every :data:`BEAT_SECONDS`. A lease
is over when its process has ended, as far as that can be seen (on the same host,
in the same container), or when it was
not touched for :data:`STALE_SECONDS` by the clock of the file system, which all hosts share.
"""

from __future__ import annotations

import itertools
import os
import platform
import secrets
import threading
from contextlib import suppress
from pathlib import Path

from memo_dist.io import atomic, processes

BEAT_SECONDS = 10.0
STALE_SECONDS = 90.0
_SOLE = "sole"
_numbers = itertools.count()


class Lease:
    """One holder's place among the leases of a path; :meth:`take` it, then :meth:`release` it."""

    def __init__(self, path: Path, shared: bool) -> None:
        """Of ``path``: ``shared`` with others, or alone."""
        self._folder = Path(f"{path}.leases")
        mine = f"{platform.node()}-{os.getpid()}-{next(_numbers)}"
        self._mine = self._folder / (f"shared-{mine}" if shared else _SOLE)
        self._shared = shared
        self._row = {
            "host": platform.node(),
            "place": processes.here(),
            "pid": os.getpid(),
            "token": secrets.token_hex(8),
        }
        self._ended = threading.Event()

    def take(self) -> bool:
        """Try once; False: others hold it.

        Both kinds first write their file and then look for the other kind: of two that come at
        once at most one goes on.

        Raises:
            OSError: the folder cannot be written.
        """
        self._folder.mkdir(exist_ok=True)
        self._clean()
        try:
            with self._mine.open("x", encoding="utf-8") as stream:
                stream.write(atomic.json_line(self._row).decode())
        except FileExistsError:
            return False
        if any(self._keeps_out(path) for path in self._folder.iterdir()):
            self.release()
            return False
        threading.Thread(target=self._beat, daemon=True, name="lease").start()
        return True

    def release(self) -> None:
        """Give it up."""
        self._ended.set()
        with suppress(OSError):  # the folder stays while others hold leases
            self._mine.unlink()
            self._folder.rmdir()

    def holder(self) -> str:
        """Who keeps this lease from being taken, for people."""
        rows = [_read(path) for path in sorted(self._folder.glob("*"))]
        return ", ".join(f"{row['pid']} on {row['host']}" for row in rows if row)

    def _beat(self) -> None:
        while not self._ended.wait(BEAT_SECONDS):
            with suppress(OSError):
                os.utime(self._mine)

    def _keeps_out(self, path: Path) -> bool:
        return path != self._mine and (path.name == _SOLE or not self._shared)

    def _clean(self) -> None:
        """Remove leases that are over. The file's new name decides between two that do so."""
        now = self._now()
        for path in self._folder.iterdir():
            row = _read(path)
            if not _is_over(path, row, now):
                continue
            gone = self._folder.with_name(f"{atomic.TEMP_PREFIX}lease-{secrets.token_hex(8)}")
            with suppress(OSError):
                path.rename(gone)
                if _read(gone) != row:  # another one had cleaned before, and taken it
                    gone.rename(path)
                gone.unlink(missing_ok=True)

    def _now(self) -> float:
        """The file system's clock, in seconds."""
        probe = self._folder.with_name(f"{atomic.TEMP_PREFIX}lease-{secrets.token_hex(8)}")
        probe.touch()
        try:
            return probe.stat().st_mtime
        finally:
            probe.unlink()


def _read(path: Path) -> dict[str, object] | None:
    with suppress(OSError, ValueError):
        row: dict[str, object] = atomic.read_json(path)
        return row if {"host", "pid"} <= row.keys() else None
    return None


def _is_over(path: Path, row: dict[str, object] | None, now: float) -> bool:
    if row and row.get("place") == processes.here():
        return processes.is_dead(row["place"], row["pid"])
    try:
        return now - path.stat().st_mtime > STALE_SECONDS
    except FileNotFoundError:
        return False
