"""Rows of the pending buffer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

PENDING, CONSOLIDATING, TRAINED, DELETING, GONE = (
    "pending",
    "consolidating",
    "trained",
    "tombstoned",
    "gone",
)
"""States of a document. ``pending``: its text is in the buffer. ``consolidating``: also, and an
update trains it. ``trained``: the memory has it, and the buffer no text. ``tombstoned``: deleted,
and the memory is being trained without it. ``gone``: nothing is left of it."""
WAITING, RUNNING, SUCCEEDED, FAILED = "PENDING", "RUNNING", "SUCCEEDED", "FAILED"
"""States of an event, by mem0's names."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A document that was written through the server.

    Attributes:
        id: of the document.
        version: counts its writes from 1.
        title, text: text is empty once the buffer has none.
        metadata: JSON values of the writer.
        scope: {entity: name}; empty: shared.
        state: see :data:`PENDING`.
        created, updated: seconds since the epoch.
    """

    id: str
    version: int
    title: str
    text: str
    metadata: Mapping[str, Any]
    scope: Mapping[str, str]
    state: str
    created: float
    updated: float


@dataclass(frozen=True, slots=True)
class Hit:
    """A pending text that a search found.

    Attributes:
        document: it.
        score: BM25, larger is better.
    """

    document: Stored
    score: float


@dataclass(frozen=True, slots=True)
class Event:
    """What a write leads to.

    Attributes:
        id: of the event.
        kind: ``ADD``, ``UPDATE``, ``DELETE`` or ``CONSOLIDATE``.
        document: its id; "": of several.
        state: see :data:`WAITING`.
        message: why it failed.
        caller: name of the key.
        created, updated: seconds since the epoch.
        scope: of its document.
    """

    id: str
    kind: str
    document: str
    state: str
    message: str
    caller: str
    created: float
    updated: float
    scope: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Change:
    """One line of a document's history.

    Attributes:
        document, version, kind: what happened to which version.
        hash: SHA-256 of the text; "" once the document was deleted: it would prove its content.
        time: seconds since the epoch.
        caller: name of the key.
    """

    document: str
    version: int
    kind: str
    hash: str
    time: float
    caller: str
