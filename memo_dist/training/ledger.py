"""The ledger: which positions of the data order went into the weights, launch by launch.

``ledger.jsonl`` in a shard's folder gets a line when a launch starts and when a checkpoint (or
the final weights) is complete. A line is appended and flushed by rank 0; a half-written last
line is what a kill left and is dropped at the next start.

- ``start``: launch, the step it continues from, ranks and ZeRO stage, and the positions that an
  earlier launch had trained on without a checkpoint, which are now trained on again (replay).
- ``commit``: launch, step, and the positions consumed since the commit that it builds on
  (``parent``: that commit's step).

Following parents back from the final commit gives the final weights' lineage; in it every
position is consumed once.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from memo_dist.errors import RunError
from memo_dist.io import atomic

FILE = "ledger.jsonl"


@dataclass(frozen=True)
class Lineage:
    """What went into the final weights.

    Attributes:
        positions: positions of the data order consumed, each once.
        commits: steps of the commits, oldest first.
        replayed: positions that launches trained on again because no checkpoint held them.
    """

    positions: int
    commits: tuple[int, ...]
    replayed: int


class Ledger:
    """One shard's ledger; only rank 0 writes it."""

    def __init__(self, folder: Path, job: str) -> None:
        self._path = folder / FILE
        self._job = job
        self._rows = [row for row in _whole_lines(self._path) if row["job"] == job]
        self._launch = 1 + sum(row["event"] == "start" for row in self._rows)
        self._parent = self._position = 0

    def stalled_starts(self) -> int:
        """Starts since the last commit."""
        count = 0
        for row in reversed(self._rows):
            if row["event"] == "commit":
                break
            count += 1
        return count

    def start(self, step: int, position: int, reached: int, **shape: int) -> None:
        """Record a launch.

        Args:
            step: the step that it continues from; 0: from the base.
            position: of the data order, where it continues.
            reached: position up to which an earlier launch had trained.
            shape: ranks and ZeRO stage.
        """
        self._parent, self._position = step, position
        replay = [position, reached] if reached > position else None
        self._append("start", step=step, position=position, replay=replay, **shape)

    def commit(self, step: int, position: int) -> None:
        """Record that a complete checkpoint of ``step`` holds all positions before ``position``."""
        consumed = [self._position, position]
        self._append("commit", step=step, parent=self._parent, positions=consumed)
        self._parent, self._position = step, position

    def _append(self, event: str, **values: Any) -> None:
        row = {"event": event, "launch": self._launch, "job": self._job, "time": time.time()}
        self._rows.append(row | values)
        data = json.dumps(row | values) + "\n"
        _end_last_line(self._path)
        with self._path.open("a", encoding="utf-8") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())


def lineage(folder: Path, job: str) -> Lineage:
    """Check a finished shard's ledger.

    Raises:
        RunError: a position is missing from the final weights' lineage, or in it twice.
    """
    rows = [row for row in _whole_lines(folder / FILE) if row["job"] == job]
    chain: list[dict[str, Any]] = []
    for row in reversed(rows):
        if row["event"] == "commit" and (not chain or row["step"] == chain[0]["parent"]):
            chain.insert(0, row)
    end = 0
    for row in chain:
        first, last = row["positions"]
        if first != end:
            raise RunError(f"{folder / FILE}: step {row['step']} begins at {first}, not at {end}")
        end = last
    replays = [row["replay"] for row in rows if row["event"] == "start" and row["replay"]]
    replayed = sum(last - first for first, last in replays)
    return Lineage(end, tuple(row["step"] for row in chain), replayed)


def _whole_lines(path: Path) -> list[dict[str, Any]]:
    return [row for _, row in atomic.whole_rows(path)] if path.exists() else []


def _end_last_line(path: Path) -> None:
    """Cut off a line that a kill left half-written."""
    if path.exists() and not (data := path.read_bytes()).endswith(b"\n"):
        atomic.write_bytes(path, data[: data.rfind(b"\n") + 1])
