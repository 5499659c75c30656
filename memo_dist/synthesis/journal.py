"""The journal of a partition: one line a finished unit.

A unit whose line is not believed (see :mod:`memo_dist.io.checked_lines`) is done again. Of
several believable lines of one unit the last one holds.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import Any

from memo_dist.io.checked_lines import LineFile, LineTail


@dataclass(frozen=True, slots=True)
class Record:
    """What one unit yielded.

    Attributes:
        unit: the unit's id.
        key: hash of everything the result depends on; a record with another key is stale.
        failed: the step raised an exception; the traceback is the only entry of ``rejected``.
        reflections, rejected: JSON objects.
    """

    unit: str
    key: str
    failed: bool
    reflections: list[dict[str, Any]]
    rejected: list[dict[str, Any]]

    def to_row(self) -> dict[str, Any]:
        """The record as a JSON object."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> Record | None:
        """The inverse; None where the row is no record."""
        try:
            return cls(**row)
        except TypeError:
            return None


class Journal:
    """A partition's journal, open for appending; knows where each unit's record stands."""

    def __init__(self, path: Path) -> None:
        self._lines = LineFile(path)
        self._offsets: dict[tuple[str, str], int] = {}
        for offset, row in self._lines.rows():
            record = Record.from_row(row)
            if record is not None:
                self._offsets[record.unit, record.key] = offset

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._lines.close()

    def get(self, unit: str, key: str) -> Record | None:
        """The record of a unit with this key, if one is there."""
        offset = self._offsets.get((unit, key))
        if offset is None:
            return None
        row = self._lines.row_at(offset)
        return None if row is None else Record.from_row(row)

    def has_result(self, unit: str, key: str) -> bool:
        """Whether the unit is done and did not fail."""
        known = self.get(unit, key)
        return known is not None and not known.failed

    def append(self, record: Record, sync: bool = True) -> None:
        """Append a record; with ``sync`` it is on the disk before this returns.

        Raises:
            OSError: the disk is full; what stands in the journal stays readable.
        """
        self._offsets[record.unit, record.key] = self._lines.append(record.to_row())
        if sync:
            self._lines.sync()


class JournalTail:
    """Follows a journal that another process writes."""

    def __init__(self, path: Path) -> None:
        self._tail = LineTail(path)

    def new_records(self) -> Iterator[Record]:
        """The believable records that were completed since the last call."""
        for row in self._tail.new_rows():
            record = Record.from_row(row)
            if record is not None:
                yield record
