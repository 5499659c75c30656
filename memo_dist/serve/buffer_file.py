"""The file of the pending buffer: its tables, transactions and rows.

Every transaction is on the disk when it ends (WAL, ``synchronous=FULL``). Processes may share the
file; it belongs on a disk of the machine, because SQLite's locks do not hold on network file
systems.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

from memo_dist.errors import RunError
from memo_dist.serve.keys import Scope
from memo_dist.serve.records import FAILED, RUNNING, SUCCEEDED, TRAINED, WAITING, Event, Stored

_BUSY_SECONDS = 30.0
COLUMNS = "id, version, title, text, metadata, scope, state, created, updated"
"""Of ``documents``, in the order of the fields of ``Stored``."""
_EVENT = "id, kind, document, state, message, caller, created, updated, scope"


class BufferFile:
    """The tables, and what reads and writes their rows; threads may share it."""

    def __init__(self, path: Path) -> None:
        """Open or create the file.

        Args:
            path: of the file; its folder is made.

        Raises:
            RunError: the file is damaged, or SQLite has no FTS5.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = threading.RLock()
        try:
            self._db = sqlite3.connect(
                path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
            path.chmod(0o600)
            for pragma in ("journal_mode=WAL", "synchronous=FULL", "secure_delete=ON"):
                self._db.execute(f"PRAGMA {pragma}")
            self._db.executescript(files("memo_dist.serve").joinpath("schema.sql").read_text())
        except sqlite3.Error as error:
            raise RunError(f"the pending buffer '{path}' cannot be opened: {error}") from error

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    def empty_log(self) -> None:
        """Empty the write-ahead log: it holds pages of before a change or a deletion."""
        with self._lock:
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def _find(self, name: str) -> Stored | None:
        rows = self._select("WHERE id=?", (name,))
        return rows[0] if rows else None

    def _select(self, rest: str, values: Sequence[Any]) -> list[Stored]:
        rows = self._db.execute(f"SELECT {COLUMNS} FROM documents d {rest}", values)  # noqa: S608
        return [stored(row) for row in rows.fetchall()]

    def _count(self, states: Sequence[str]) -> int:
        marks = ",".join("?" * len(states))
        (number,) = self._db.execute(
            f"SELECT count(*) FROM documents WHERE state IN ({marks})",  # noqa: S608
            states,
        ).fetchone()
        return int(number)

    def _was_submitted(self, name: str) -> bool:
        row = self._db.execute("SELECT submitted FROM documents WHERE id=?", (name,)).fetchone()
        return bool(row and row[0])

    def _insert(self, row: Stored, known: str, submitted: bool = False) -> None:
        self._db.execute(
            f"INSERT OR REPLACE INTO documents ({COLUMNS}, submitted, superseded) "  # noqa: S608
            "VALUES (?,?,?,?,?,?,?,?,?,?,?)",
            (row.id, row.version, row.title, row.text, json_text(row.metadata),
             json_text(row.scope), row.state, row.created, row.updated, int(submitted), known),
        )  # fmt: skip
        self._db.execute("DELETE FROM scopes WHERE document=?", (row.id,))
        self._db.executemany(
            "INSERT INTO scopes VALUES (?,?,?)",
            [(row.id, kind, name) for kind, name in row.scope.items()],
        )

    def _purge(self, name: str) -> None:
        self._db.execute("DELETE FROM search WHERE id=?", (name,))

    def _forget_words(self) -> None:
        """Merge the index: until then it holds the words of texts that were deleted."""
        # FTS5's option 'secure-delete' does the same with less work, from SQLite 3.42 on.
        self._db.execute("INSERT INTO search(search) VALUES('optimize')")

    def _remember(self, name: str, version: int, kind: str, content: str, caller: str) -> None:
        self._db.execute(
            "INSERT INTO history(document, version, kind, hash, time, caller) VALUES(?,?,?,?,?,?)",
            (name, version, kind, content, time.time(), caller),
        )

    def _new_event(  # noqa: PLR0913
        self, kind: str, name: str, version: int, caller: str, scope: Scope, state: str
    ) -> Event:
        now = time.time()
        event = Event(str(uuid.uuid4()), kind, name, state, "", caller, now, now, dict(scope))
        self._db.execute(
            "INSERT INTO events(id, kind, document, version, state, caller, scope, created, "
            "updated) VALUES(?,?,?,?,?,?,?,?,?)",
            (event.id, kind, name, version, state, caller, json_text(scope), now, now),
        )
        return event

    def _events(self, rest: str, values: Sequence[Any]) -> list[Event]:
        return list(self._iter_events(rest, values))

    def _iter_events(self, rest: str, values: Sequence[Any]) -> Iterator[Event]:
        rows = self._db.execute(f"SELECT {_EVENT} FROM events {rest}", values)  # noqa: S608
        return map(_event, rows)

    def _event_of(self, there: Stored) -> Event:
        """The newest event of a document."""
        rest = "WHERE document=? ORDER BY version DESC, created DESC LIMIT 1"
        return self._events(rest, (there.id,))[0]

    def _set_events(self, name: str, version: int, state: str, message: str = "") -> None:
        self._db.execute(
            "UPDATE events SET state=?, message=?, updated=? WHERE document=? AND version=? "
            "AND state<>?",
            (state, message, time.time(), name, version, SUCCEEDED),
        )

    def _close_events(self, name: str, version: int) -> None:
        """A later write has taken the place of earlier ones: these have had their effect."""
        self._db.execute(
            "UPDATE events SET state=?, message='superseded', updated=? WHERE document=? "
            "AND version<? AND state IN (?,?,?)",
            (SUCCEEDED, time.time(), name, version, WAITING, RUNNING, FAILED),
        )


def json_text(value: Mapping[str, Any]) -> str:
    """A JSON object as the file holds it."""
    return json.dumps(dict(value), sort_keys=True, ensure_ascii=False)


def stored(row: Sequence[Any]) -> Stored:
    """The document of a row of :data:`COLUMNS`."""
    name, version, title, text, metadata, scope, state, created, updated = row
    return Stored(
        name, version, title, text, json.loads(metadata), json.loads(scope), state, created, updated
    )


def _event(row: Sequence[Any]) -> Event:
    name, kind, document, state, message, caller, created, updated, scope = row
    return Event(name, kind, document, state, message, caller, created, updated, json.loads(scope))


def blank(name: str) -> Stored:
    """A document of the memory that was not written here."""
    now = time.time()
    return Stored(name, 0, "", "", {}, {}, TRAINED, now, now)
