"""What a copy of a run in an object store is.

    URL/manifest.json       every file of the run: path, SHA-256, size; written last
    URL/objects/<sha256>    the bytes of a file; equal files are one object

A copy is what its manifest names. The objects of the next copy come beside those of the one before,
and one write of the manifest puts it in force; then the objects that it does not name are removed.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import Any

from memo_dist.errors import DamagedFileError, UsageError
from memo_dist.io import atomic
from memo_dist.io.hashing import hash_value
from memo_dist.io.marker import CHECK, check_holds
from memo_dist.io.relative import below_files, colliding, objection
from memo_dist.io.store import Store, StoredObject

MANIFEST = "manifest.json"
CONFIG = "config.yaml"
"""The file that makes a folder a run: the last one that is brought back."""
PULLING = ".pull.json"
"""Stands in a run that is being brought back."""
SCHEMA_VERSION = 1
_LEFT_OUT = (".lock", ".lock.leases", "serve", PULLING)
"""Not copied: locks, and what a server holds (runs of scopes are pushed by themselves)."""
_MOST_BYTES = 2**28
_OBJECT = re.compile(r"objects/[0-9a-f]{64}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class CopiedFile:
    """A file of a copy.

    Attributes:
        sha256: of its bytes; names its object.
        size: in bytes.
    """

    sha256: str
    size: int

    @property
    def key(self) -> str:
        """Of its object."""
        return f"objects/{self.sha256}"


@dataclass(frozen=True, slots=True)
class CopyManifest:
    """The manifest of a copy.

    Attributes:
        run: tells the copies of one run from those of another.
        files: by path relative to the run.
    """

    run: str
    files: dict[str, CopiedFile]

    def to_json(self) -> dict[str, Any]:
        """The content of ``manifest.json``, with its own hash."""
        values = {"schema_version": SCHEMA_VERSION, **asdict(self)}
        return {**values, CHECK: hash_value(values)}

    @classmethod
    def from_json(cls, row: dict[str, Any], source: str) -> CopyManifest:
        """The inverse of :meth:`to_json`; ``source`` is named in errors.

        Raises:
            DamagedFileError: it is no manifest, or another one than was written.
            UsageError: another version wrote it, or it names a path that is refused.
        """
        if row.get("schema_version") != SCHEMA_VERSION:
            raise UsageError(
                f"{source} has schema version {row.get('schema_version')!r:.40}, this memo_dist"
                f" reads {SCHEMA_VERSION}: push the run again"
            )
        if CHECK not in row or not check_holds(row):
            raise DamagedFileError.of(source, "its contents are not those that were written")
        rows = row["files"]
        if not isinstance(rows, dict):
            raise DamagedFileError.of(source, "its field 'files' is no object")
        files = {path: _file(source, path, value) for path, value in rows.items()}
        _check_paths(source, files)
        return cls(str(row["run"]), files)


def left_out(path: str) -> bool:
    """Whether a file of a run is not copied: locks, temporary files, what a server holds."""
    parts = path.split("/")
    return parts[0] in _LEFT_OUT or any(part.startswith(atomic.TEMP_PREFIX) for part in parts)


def is_object(key: str) -> bool:
    """Whether a key is one of a copy's objects; others below the URL are left alone."""
    return _OBJECT.fullmatch(key) is not None


def read_manifest(store: Store, there: dict[str, StoredObject]) -> CopyManifest:
    """The manifest of the copy in a store.

    Args:
        store: of the copy.
        there: its objects.

    Raises:
        UsageError: there is no copy, or see :meth:`CopyManifest.from_json`.
        RunError: see :meth:`Store.blocks`.
    """
    source = f"{store.url}/{MANIFEST}"
    if MANIFEST not in there:
        raise UsageError(
            f"{store.url} holds no complete copy of a run: there is no {MANIFEST}; check the URL,"
            " or end the `memo-dist push` that began it"
        )
    if there[MANIFEST].size > _MOST_BYTES:
        raise DamagedFileError.of(source, f"it has {there[MANIFEST].size} bytes")
    data = b"".join(store.blocks(there[MANIFEST]))
    return CopyManifest.from_json(atomic.parse_json(data, source), source)


def _file(source: str, path: str, value: Any) -> CopiedFile:
    file = atomic.as_record(value, f"{source}, file {path!r},", CopiedFile)
    whole = type(file.size) is int and file.size >= 0 and isinstance(file.sha256, str)
    if not whole or not _SHA256.fullmatch(file.sha256):
        raise DamagedFileError.of(source, f"file {path!r} has no SHA-256 and size")
    return file


def _check_paths(source: str, files: dict[str, CopiedFile]) -> None:
    """Refuse paths that could leave the run, or that cannot all be files.

    Raises:
        UsageError: names the first one.
    """
    if CONFIG not in files:
        raise UsageError(f"{source} names no {CONFIG}: it is no copy of a run")
    for path in sorted(files):
        reason = objection(path)
        if not reason and left_out(path):
            reason = "it is a file that is not copied"
        if reason:
            raise UsageError(f"{source} names {path[:200]!r}, which is refused: {reason}")
    for path in sorted(colliding(files) | below_files(files)):
        raise UsageError(
            f"{source} names {path!r}, which is refused: another path collides with it"
        )
