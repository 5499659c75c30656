"""``memo-dist push``: a run becomes a copy in an object store, whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from memo_dist.change import merged as merged_bank
from memo_dist.change.pending import Pending
from memo_dist.errors import RunError, UsageError
from memo_dist.io import atomic
from memo_dist.io.hashing import hash_file, hash_value
from memo_dist.io.relative import objection
from memo_dist.io.runfolder import RunFolder
from memo_dist.io.store import PARALLEL, Store, StoredObject, StoreUrl, open_store
from memo_dist.observability.progress import progress
from memo_dist.runs import existing_run, locked
from memo_dist.transfer.manifest import (
    MANIFEST,
    CopiedFile,
    CopyManifest,
    is_object,
    left_out,
    read_manifest,
)

_WHOLE = ("s3", "gs")
"""Stores in which an object is there whole or not at all."""


@dataclass(frozen=True, slots=True)
class Pushed:
    """What a push did.

    Attributes:
        files, size: of the copy; size in bytes.
        sent: objects that were not there before.
        removed: objects that only earlier copies of the run had.
    """

    files: int
    size: int
    sent: int
    removed: int


def push(root: Path, url: StoreUrl) -> Pushed:
    """Copy a run to a store. Nothing that takes the run's lock writes into it meanwhile.

    A copy that is there stays in force until the new one is whole. After a kill, the same call
    sends what is missing.

    Args:
        root: the run.
        url: where the copy is, or will be.

    Raises:
        UsageError: no run, one that is being written, one whose ``forget`` has not ended, or a URL
            that holds another run's copy; or see :func:`open_store`.
        RunError: the store cannot be reached, does not answer in time, or holds a manifest that
            cannot be read; a file changed meanwhile.
    """
    run, _ = existing_run(root)
    if url.scheme not in _WHOLE:
        raise UsageError(
            f"{url}: a run is not pushed to {url.scheme}://, whose client writes objects bit by bit"
            f" in their place; known are {', '.join(f'{name}://' for name in _WHOLE)}"
        )
    store = open_store(url)
    with locked(run):
        if Pending.load(run.generations):
            raise UsageError(
                f"{root}: a `memo-dist forget` has not ended, so the run still holds its documents;"
                " end it first"
            )
        there = store.objects()
        files, marks = _files(run)
        manifest = CopyManifest(_identity(run), files)
        if MANIFEST in there and _earlier(store, there).run != manifest.run:
            raise UsageError(
                f"{url} holds the copy of another run; name another URL, or remove that copy"
            )
        sent = _send(run, store, manifest, marks, there)
        store.put_bytes(MANIFEST, atomic.json_line(manifest.to_json()))
        removed = _remove_others(store, manifest, there)
    size = sum(file.size for file in manifest.files.values())
    return Pushed(len(manifest.files), size, sent, removed)


def _identity(run: RunFolder) -> str:
    """What a run and its copies keep for ever: its first launch, or from what it was merged."""
    merged = run.generations / merged_bank.FILE
    if merged.exists():
        return hash_file(merged)
    return hash_value(atomic.read_json(run.run_json)["launches"][:1])


def _earlier(store: Store, there: dict[str, StoredObject]) -> CopyManifest:
    """The manifest that is there.

    Raises:
        RunError: it cannot be read; says how to replace it.
    """
    try:
        return read_manifest(store, there)
    except UsageError as error:
        raise RunError(
            f"{error}; to replace that copy remove {MANIFEST} there and run the command again"
        ) from None


def _files(run: RunFolder) -> tuple[dict[str, CopiedFile], dict[str, _Mark]]:
    """Every file that is copied, and its mark before it was read.

    Raises:
        UsageError: a file has a name that could not be brought back.
    """
    names = sorted(_names(run.root))
    for name in names:
        reason = objection(name)
        if reason:
            raise UsageError(f"{run.root}: the file {name!r} cannot be copied: {reason}")
    paths = [run.root / name for name in names]
    marks = [_mark(path) for path in paths]
    with ThreadPoolExecutor(PARALLEL) as pool:
        digests = list(pool.map(hash_file, paths))
    rows = zip(names, digests, marks, strict=True)
    files = {name: CopiedFile(digest, mark.size) for name, digest, mark in rows}
    return files, dict(zip(names, marks, strict=True))


class _Mark(NamedTuple):
    """What changes with a file's content."""

    file: int
    size: int
    changed: int


def _mark(path: Path) -> _Mark:
    found = path.stat()
    return _Mark(found.st_ino, found.st_size, found.st_mtime_ns)


def _names(root: Path) -> Iterator[str]:
    """Regular files below ``root``; links are not followed, they could lead out of the run."""
    for folder, _, names in os.walk(root):
        for path in (Path(folder, name) for name in names):
            name = path.relative_to(root).as_posix()
            if path.is_file() and not path.is_symlink() and not left_out(name):
                yield name


def _send(
    run: RunFolder,
    store: Store,
    manifest: CopyManifest,
    marks: dict[str, _Mark],
    there: dict[str, StoredObject],
) -> int:
    """Send the objects that are not there whole; returns their number.

    Raises:
        RunError: a file changed since it was hashed: an evaluation, say, takes no lock.
    """
    todo = {
        file.key: path
        for path, file in manifest.files.items()
        if file.key not in there or there[file.key].size != file.size
    }

    def send(key: str, path: str) -> None:
        file = run.root / path
        changed = RunError(f"{file} changed while it was sent; run the command again")
        if not _is_same(file, marks[path]):
            raise changed
        store.put(key, file)
        if not _is_same(file, marks[path]):
            store.remove(key)
            raise changed

    with store.parallel() as pool, progress(len(todo), "push", unit="objects") as report:
        for _ in pool.map(send, todo.keys(), todo.values()):
            report.advance()
    return len(todo)


def _is_same(file: Path, mark: _Mark) -> bool:
    try:
        return _mark(file) == mark
    except FileNotFoundError:
        return False


def _remove_others(store: Store, manifest: CopyManifest, there: dict[str, StoredObject]) -> int:
    """Remove objects of earlier copies that this one does not name; returns their number."""
    named = {file.key for file in manifest.files.values()}
    gone = [key for key in there if is_object(key) and key not in named]
    with store.parallel() as pool:
        list(pool.map(store.remove, gone))
    return len(gone)
