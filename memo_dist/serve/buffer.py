"""The pending buffer: what was written and is not trained yet, in one SQLite file of the run.

Every call is one transaction, on the disk when it returns: a crash at any moment leaves a write
whole or not there.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path

from memo_dist.answers.keywords import FUNCTION_WORDS
from memo_dist.io.hashing import sha256_text
from memo_dist.serve.buffer_file import COLUMNS, BufferFile, blank, json_text, stored
from memo_dist.serve.errors import ApiError, not_found
from memo_dist.serve.keys import Scope
from memo_dist.serve.records import (
    CONSOLIDATING,
    DELETING,
    FAILED,
    GONE,
    PENDING,
    RUNNING,
    SUCCEEDED,
    TRAINED,
    WAITING,
    Change,
    Event,
    Hit,
    Stored,
)

_WORD = re.compile(r"\w+")


class PendingBuffer(BufferFile):
    """The documents of one run that its memory does not know yet; threads may share it."""

    def __init__(self, path: Path, most: int) -> None:
        """Open or create the file.

        Args:
            path: of the file; its folder is made.
            most: documents that may wait.

        Raises:
            RunError: see :class:`BufferFile`.
        """
        super().__init__(path)
        self._most = most

    # -- writes ------------------------------------------------------------------------------------

    def add(self, document: Stored, caller: str, known: str = "") -> tuple[Stored, Event]:
        """Store a new document; the same one again (id, title and text) changes nothing.

        Args:
            document: its version and times are set here.
            caller: name of the key.
            known: content hash under which the memory has the id; "": it does not.

        Raises:
            ApiError: 409, the id is taken or was deleted; 507, the buffer is full.
        """
        with self._transaction():
            there = self._find(document.id)
            if there is not None and there.state in (DELETING, GONE):
                raise ApiError(409, "conflict", "a document with this id was deleted", "id")
            if there is not None:
                if self._is_same(there, document):
                    return there, self._event_of(there)
                raise ApiError(409, "conflict", "there is another document with this id", "id")
            if known:
                raise ApiError(409, "conflict", "the memory has a document with this id", "id")
            return self._put(document, "ADD", there, caller, known)

    def replace(self, document: Stored, caller: str, known: str = "") -> tuple[Stored, Event]:
        """Store another text for a document of the buffer, or of the memory (``known``).

        Raises:
            ApiError: 404, there is none, or it was deleted; 507, the buffer is full.
        """
        with self._transaction():
            there = self._find(document.id)
            if there is not None and there.state in (DELETING, GONE):
                raise not_found("document")
            if there is None and not known:
                raise not_found("document")
            done = self._put(document, "UPDATE", there, caller, known)
        self.empty_log()
        return done

    def delete(self, name: str, caller: str, known: str = "") -> Event:
        """Remove a document's text at once; where the memory may have it, a ``forget`` follows.

        Raises:
            ApiError: 404, there is none.
        """
        with self._transaction():
            there = self._find(name)
            if (there is None and not known) or (there is not None and there.state == GONE):
                raise not_found("document")
            if there is None:
                there = blank(name)
                self._insert(there, known)
            if there.state == DELETING:
                return self._event_of(there)
            untrained = there.state == PENDING and not known and not self._was_submitted(name)
            state = GONE if untrained else DELETING
            self._purge(name)
            self._forget_words()
            now = time.time()
            self._db.execute(
                "UPDATE documents SET version=version+1, title='', text='', metadata='{}', "
                "state=?, updated=? WHERE id=?",
                (state, now, name),
            )
            self._db.execute("UPDATE history SET hash='' WHERE document=?", (name,))
            self._close_events(name, there.version + 1)
            self._remember(name, there.version + 1, "DELETE", "", caller)
            event = self._new_event(
                "DELETE", name, there.version + 1, caller, there.scope,
                SUCCEEDED if untrained else WAITING,
            )  # fmt: skip
        self.empty_log()
        return event

    def request_consolidation(self, caller: str) -> Event:
        """An event for a consolidation; one that waits already stands for both."""
        with self._transaction():
            rows = self._events("WHERE kind='CONSOLIDATE' AND state=? LIMIT 1", (WAITING,))
            return rows[0] if rows else self._new_event("CONSOLIDATE", "", 0, caller, {}, WAITING)

    def _is_same(self, there: Stored, document: Stored) -> bool:
        """Whether a document that is written has the id, title, text and scope of one that is
        there; of a trained text only the hash is left."""
        if (there.title, there.scope) != (document.title, document.scope):
            return False
        if there.state != TRAINED:
            return there.text == document.text
        rows = self._db.execute(
            "SELECT hash FROM history WHERE document=? AND version=? AND kind='TRAINED'",
            (there.id, there.version),
        ).fetchall()
        return (sha256_text(document.text),) in rows

    def _put(
        self, document: Stored, kind: str, there: Stored | None, caller: str, known: str
    ) -> tuple[Stored, Event]:
        waiting = self._count((PENDING, CONSOLIDATING))
        if waiting >= self._most and (there is None or not there.text):
            raise ApiError(
                507, "buffer_full",
                f"{waiting} documents wait to be trained (serve.max_pending); consolidate first",
            )  # fmt: skip
        version = there.version + 1 if there else 1
        created = there.created if there else time.time()
        fresh = Stored(
            document.id, version, document.title, document.text, document.metadata,
            document.scope, PENDING, created, time.time(),
        )  # fmt: skip
        submitted = self._was_submitted(document.id)
        self._purge(document.id)
        self._insert(fresh, known, submitted)
        self._db.execute(
            "INSERT INTO search(id, title, text) VALUES(?,?,?)",
            (fresh.id, fresh.title, fresh.text),
        )
        self._close_events(fresh.id, version)
        self._remember(fresh.id, version, kind, sha256_text(fresh.text), caller)
        return fresh, self._new_event(kind, fresh.id, version, caller, fresh.scope, WAITING)

    # -- consolidation -----------------------------------------------------------------------------

    def begin_consolidation(self, scopes: bool) -> list[Scope]:
        """The scopes that have documents to train, the shared one first.

        Args:
            scopes: others than the shared one, too.
        """
        with self._transaction():
            self._db.execute(
                "UPDATE events SET state=?, updated=? WHERE kind='CONSOLIDATE' AND state=?",
                (RUNNING, time.time(), WAITING),
            )
            rows = self._db.execute(
                "SELECT DISTINCT scope FROM documents WHERE state IN (?,?)",
                (PENDING, CONSOLIDATING),
            ).fetchall()
        found: list[Scope] = [json.loads(text) for (text,) in sorted(rows)]
        return sorted((one for one in found if scopes or not one), key=bool)

    def end_consolidation(self, failed: str = "") -> None:
        """Every scope of :meth:`begin_consolidation` had its turn; ``failed``: why one was not
        trained."""
        with self._transaction():
            self._db.execute(
                "UPDATE events SET state=?, message=?, updated=? WHERE kind='CONSOLIDATE' "
                "AND state=?",
                (FAILED if failed else SUCCEEDED, failed, time.time(), RUNNING),
            )

    def begin_batch(
        self, scope: Scope | None = None, known: Mapping[str, str] | None = None
    ) -> list[Stored]:
        """Documents of one scope to train now: those of a batch that was begun, or all.

        They stay in the buffer until :meth:`end_batch`.

        Args:
            scope: exactly this one; None: the shared one.
            known: {id: content hash} of what its memory has now: until the batch ends no answer
                comes from these revisions. A batch that was begun keeps those of its begin.
        """
        exact, before = json_text(scope or {}), known or {}
        with self._transaction():
            begun = self._select("WHERE state=? AND scope=? ORDER BY id", (CONSOLIDATING, exact))
            if begun:
                return begun
            batch = self._select("WHERE state=? AND scope=? ORDER BY id", (PENDING, exact))
            for row in batch:
                # Since the write, the memory may have been trained on another revision.
                self._db.execute(
                    "UPDATE documents SET state=?, submitted=1, superseded=? WHERE id=?",
                    (CONSOLIDATING, before.get(row.id, ""), row.id),
                )
                self._set_events(row.id, row.version, RUNNING)
            return batch

    def end_batch(
        self, batch: Sequence[Stored], refused: Mapping[str, str], failed: str = ""
    ) -> None:
        """The batch is trained: its texts leave the buffer. Or it failed: they wait again.

        Args:
            batch: of :meth:`begin_batch`.
            refused: {id: reason} of documents that the update did not take; they wait again.
            failed: why nothing was trained; "": it was.
        """
        with self._transaction():
            for row in batch:
                reason = failed or refused.get(row.id, "")
                changed = self._db.execute(
                    "UPDATE documents SET state=?, text=CASE ? WHEN '' THEN '' ELSE text END, "
                    "updated=? WHERE id=? AND version=? AND state=?",
                    (PENDING if reason else TRAINED, reason, time.time(), row.id, row.version,
                     CONSOLIDATING),
                ).rowcount  # fmt: skip
                if changed and not reason:
                    self._purge(row.id)
                    self._remember(row.id, row.version, "TRAINED", sha256_text(row.text), "")
                self._set_events(row.id, row.version, FAILED if reason else SUCCEEDED, reason)
            self._forget_words()
        self.empty_log()

    def to_forget(self) -> list[Stored]:
        """Deleted documents that a memory may have, those of a scope together."""
        with self._lock:
            return self._select("WHERE state=? ORDER BY scope, id", (DELETING,))

    def end_forget(self, names: Sequence[str]) -> None:
        """The documents are forgotten."""
        with self._transaction():
            for there in self._deleting(names):
                self._db.execute(
                    "UPDATE documents SET state=?, superseded='', submitted=0 WHERE id=?",
                    (GONE, there.id),
                )
                self._remember(there.id, there.version, "FORGOTTEN", "", "")
                self._set_events(there.id, there.version, SUCCEEDED)

    def fail_forget(self, reasons: Mapping[str, str], state: str = FAILED) -> None:
        """Documents are not forgotten yet: they stay hidden, and it is tried again.

        Args:
            reasons: {id: why}.
            state: of their events.
        """
        with self._transaction():
            for there in self._deleting(reasons):
                self._set_events(there.id, there.version, state, reasons[there.id])

    def _deleting(self, names: Iterable[str]) -> list[Stored]:
        found = (self._find(name) for name in names)
        return [there for there in found if there is not None and there.state == DELETING]

    def hidden(self) -> dict[str, str]:
        """{document: content hash that no answer may come from; "": any}."""
        with self._lock:
            rows = self._db.execute(
                "SELECT id, CASE state WHEN ? THEN superseded ELSE '' END FROM documents "
                "WHERE state IN (?,?) OR (state=? AND superseded<>'')",
                (CONSOLIDATING, PENDING, DELETING, CONSOLIDATING),
            ).fetchall()
        return {str(name): str(content) for name, content in rows}

    # -- reads -------------------------------------------------------------------------------------

    def mark(self) -> int:
        """Of this moment, for :meth:`changed_since`."""
        with self._lock:
            (number,) = self._db.execute("SELECT max(number) FROM history").fetchone()
        return int(number or 0)

    def changed_since(self, mark: int) -> set[str]:
        """Documents that were deleted or got another text since then."""
        with self._lock:
            rows = self._db.execute(
                "SELECT document FROM history WHERE number>? AND kind IN ('DELETE','UPDATE')",
                (mark,),
            ).fetchall()
        return {str(name) for (name,) in rows}

    def get(self, name: str) -> Stored | None:
        """A document that was written here and is not gone."""
        with self._lock:
            there = self._find(name)
        return there if there is not None and there.state not in (GONE, DELETING) else None

    def listed(self, scope: Scope | None, limit: int, offset: int = 0) -> list[Stored]:
        """Documents of a scope that are not deleted, newest first; None: of every scope."""
        where, values = _of_scope(scope)
        with self._lock:
            return self._select(
                f"WHERE state NOT IN (?,?) AND {where} ORDER BY updated DESC, id LIMIT ? OFFSET ?",
                (GONE, DELETING, *values, limit, offset),
            )

    def removed(self) -> set[str]:
        """Ids that are deleted, of whatever the memory still has."""
        with self._lock:
            rows = self._db.execute(
                "SELECT id FROM documents WHERE state IN (?,?)", (GONE, DELETING)
            ).fetchall()
        return {str(name) for (name,) in rows}

    def waiting(self, scopes: bool = False) -> int:
        """Number of documents that wait to be trained, of the shared scope or (``scopes``) all.

        One whose training failed waits for a request, or for another text.
        """
        with self._lock:
            (number,) = self._db.execute(
                "SELECT count(*) FROM documents d WHERE state=? AND (? OR scope='{}') AND NOT "
                "EXISTS (SELECT 1 FROM events WHERE document=d.id AND version=d.version "
                "AND state=?)",
                (PENDING, scopes, FAILED),
            ).fetchone()
        return int(number)

    def scopes_within(self, scope: Scope, limit: int) -> list[Scope]:
        """The scopes that have all entities of ``scope``, the last written ones first."""
        where, values = _of_scope(scope)
        with self._lock:
            rows = self._db.execute(
                f"SELECT scope FROM documents d WHERE state<>? AND {where} "  # noqa: S608
                "GROUP BY scope ORDER BY max(updated) DESC, scope LIMIT ?",
                (GONE, *values, limit),
            ).fetchall()
        return [json.loads(text) for (text,) in rows]

    def texts(self) -> int:
        """Number of documents whose text is in the buffer, of every scope."""
        with self._lock:
            return self._count((PENDING, CONSOLIDATING))

    def consolidation_requested(self) -> bool:
        """Whether a consolidation waits, or was begun and not ended (a crash)."""
        with self._lock:
            return bool(
                self._events("WHERE kind='CONSOLIDATE' AND state IN (?,?)", (WAITING, RUNNING))
                or self._count((CONSOLIDATING,))
            )

    def search(self, question: str, scope: Scope, shared: bool, limit: int) -> list[Hit]:
        """Texts of a scope that share words with a question, best first.

        Args:
            question: its words are looked up; operators of FTS5 mean nothing.
            scope: texts of exactly these entities or more; empty: the shared ones.
            shared: the shared ones as well.
            limit: most hits.
        """
        words = _search_words(question)
        if not words:
            return []
        where, values = _of_scope(scope)
        if shared and scope:
            where = f"({where} OR scope='{{}}')"
        query = " OR ".join(f'"{word}"' for word in words)
        columns = ", ".join(f"d.{name}" for name in COLUMNS.split(", "))
        with self._lock:
            rows = self._db.execute(
                f"SELECT {columns}, -bm25(search) FROM search JOIN documents d "  # noqa: S608
                f"ON d.id = search.id WHERE search MATCH ? AND d.state IN (?,?) AND {where} "
                "ORDER BY bm25(search), d.id LIMIT ?",
                (query, PENDING, CONSOLIDATING, *values, limit),
            ).fetchall()
        return [Hit(stored(row[:-1]), float(row[-1])) for row in rows]

    def history(self, name: str) -> list[Change]:
        """What happened to a document, oldest first."""
        with self._lock:
            rows = self._db.execute(
                "SELECT document, version, kind, hash, time, caller FROM history "
                "WHERE document=? ORDER BY number",
                (name,),
            ).fetchall()
        return [Change(*row) for row in rows]

    def event(self, name: str) -> Event | None:
        """One event."""
        with self._lock:
            rows = self._events("WHERE id=?", (name,))
        return rows[0] if rows else None

    def events(
        self, limit: int, state: str = "", seen: Callable[[Event], bool] = lambda event: True
    ) -> list[Event]:
        """The newest events, newest first.

        Args:
            limit: most events.
            state: of them; "": any.
            seen: whether an event is one of them.
        """
        rest = "WHERE ? IN ('', state) ORDER BY created DESC, id"
        with self._lock:
            return list(islice(filter(seen, self._iter_events(rest, (state,))), limit))

    def scope_of(self, name: str) -> Scope:
        """The scope of a document, also of a deleted one; empty: shared, or not written here."""
        with self._lock:
            there = self._find(name)
        return there.scope if there else {}

    def entities(self) -> list[tuple[str, str, int]]:
        """(entity, name, documents) of every scope."""
        with self._lock:
            rows = self._db.execute(
                "SELECT kind, name, count(*) FROM scopes JOIN documents ON id=document "
                "WHERE state NOT IN (?,?) GROUP BY kind, name ORDER BY kind, name",
                (GONE, DELETING),
            ).fetchall()
        return [(str(kind), str(name), int(number)) for kind, name, number in rows]


def _of_scope(scope: Scope | None) -> tuple[str, list[str]]:
    """A condition on ``documents`` for a scope, and its values."""
    if scope is None:
        return "1", []
    if not scope:
        return "scope='{}'", []
    parts = ["EXISTS (SELECT 1 FROM scopes WHERE document=d.id AND kind=? AND name=?)"] * len(scope)
    return " AND ".join(parts), [word for pair in scope.items() for word in pair]


def _search_words(question: str) -> list[str]:
    """Words to look up, without function words unless nothing else is left."""
    words = list(dict.fromkeys(word.lower() for word in _WORD.findall(question)))
    return ([word for word in words if word not in FUNCTION_WORDS] or words)[:64]
