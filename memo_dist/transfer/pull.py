"""``memo-dist pull``: a copy in an object store becomes a run; every file is verified.

The folder is a run only when all of it is there: ``config.yaml`` comes last.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from memo_dist.cluster.leftovers import remove_abandoned
from memo_dist.errors import RunError, UsageError
from memo_dist.io import atomic, permissions
from memo_dist.io.hashing import hash_file
from memo_dist.io.runfolder import RunFolder
from memo_dist.io.store import Store, StoredObject, StoreUrl, open_store
from memo_dist.observability.progress import progress
from memo_dist.runs import is_foreign, locked
from memo_dist.transfer.manifest import CONFIG, PULLING, CopiedFile, CopyManifest, read_manifest


@dataclass(frozen=True, slots=True)
class Pulled:
    """What a pull did.

    Attributes:
        files, size: of the run; size in bytes.
        fetched: files that were not there whole before.
    """

    files: int
    size: int
    fetched: int


def pull(url: StoreUrl, root: Path) -> Pulled:
    """Bring a run back from a store. After a kill, the same call fetches what is missing.

    Args:
        url: of a copy that ``push`` made.
        root: a new folder, or one that this call has begun.

    Raises:
        UsageError: no copy, one that is refused, or a folder that holds something else.
        RunError: an object is missing or damaged, the disk is too small, or the store does not
            answer in time.
    """
    run = RunFolder(root)
    _begun(run, url)
    store = open_store(url)
    there = store.objects()
    manifest = read_manifest(store, there)
    permissions.make_folder(root, group_readable=False)
    with permissions.creating(group_readable=False), locked(run):
        before = _begun(run, url)
        fetched = 0
        if not run.config.exists():
            # What a killed pull had begun to write; it may be a document that was forgotten since.
            permissions.settle(root, False, remove_abandoned)
            _remove(root, before - manifest.files.keys())
            row = {"url": str(url), "manifest": manifest.to_json()}
            atomic.write_json(root / PULLING, row)
            fetched = _Transfer(store, there, root, manifest).run()
        (root / PULLING).unlink()
    size = sum(file.size for file in manifest.files.values())
    return Pulled(len(manifest.files), size, fetched)


def _begun(run: RunFolder, url: StoreUrl) -> set[str]:
    """The files that an unfinished pull of this copy was to fetch.

    Raises:
        UsageError: the folder is a run, holds other files, or a pull from elsewhere began there.
    """
    marker = run.root / PULLING
    if run.root.exists() and not run.root.is_dir():
        raise UsageError(f"{run.root} is a file, not a folder; name another RUN")
    if not marker.exists():
        if run.root.is_dir() and any(is_foreign(path) for path in run.root.iterdir()):
            raise UsageError(f"{run.root} holds files already; name an empty folder as RUN")
        return set()
    row = atomic.read_json(marker)
    if row["url"] != str(url):
        raise UsageError(
            f"{run.root} holds an unfinished pull of {row['url']}, not of {url}; end that one, or"
            " name another RUN"
        )
    return set(CopyManifest.from_json(row["manifest"], str(marker)).files)


def _remove(root: Path, paths: Collection[str]) -> None:
    """Files of the copy as it was when the pull began, which it has no longer."""
    for path in paths:
        _inside(root, path).unlink(missing_ok=True)


def _inside(root: Path, path: str) -> Path:
    """The place of a file; links in the folder must not lead out of it.

    Raises:
        UsageError: one does.
    """
    target = root / path
    if not target.parent.resolve().is_relative_to(root.resolve()):
        raise UsageError(f"{target} lies outside of {root} by a link; remove the link")
    return target


class _Transfer:
    """From one store to one folder."""

    def __init__(
        self, store: Store, there: dict[str, StoredObject], root: Path, manifest: CopyManifest
    ) -> None:
        self._store, self._there, self._root = store, there, root
        self._files = manifest.files

    def run(self) -> int:
        """Fetch every file, ``config.yaml`` last; returns how many were not there before."""
        self._check_objects()
        todo = [path for path in sorted(self._files) if not self._is_whole(path)]
        self._check_space(todo)
        first = [path for path in todo if path != CONFIG]
        with (
            self._store.parallel() as pool,
            progress(len(first), "pull", unit="files") as report,
        ):
            for _ in pool.map(self._fetch, first):
                report.advance()
        self._fetch(CONFIG)
        return len(todo)

    def _is_whole(self, path: str) -> bool:
        file, target = self._files[path], _inside(self._root, path)
        return (
            target.is_file()
            and target.stat().st_size == file.size
            and hash_file(target) == file.sha256
        )

    def _check_objects(self) -> None:
        for path, file in self._files.items():
            item = self._there.get(file.key)
            if item is None or item.size != file.size:
                found = "missing" if item is None else f"of {item.size} bytes, not {file.size}"
                raise RunError(
                    f"{self._store.url}: the object of {path!r} is {found}; push the run again"
                )

    def _check_space(self, todo: Collection[str]) -> None:
        need = sum(self._files[path].size for path in todo)
        free = shutil.disk_usage(self._root).free
        if need > free:
            raise RunError(
                f"{self._root}: {need / 2**30:.1f} GiB are to be fetched, {free / 2**30:.1f} GiB"
                " are free; name a RUN on a larger disk"
            )

    def _fetch(self, path: str) -> None:
        file = self._files[path]
        atomic.write_with(_inside(self._root, path), lambda stream: self._copy(path, file, stream))

    def _copy(self, path: str, file: CopiedFile, stream: BinaryIO) -> None:
        hasher = hashlib.sha256()
        for block in self._store.blocks(self._there[file.key]):
            hasher.update(block)
            stream.write(block)
        if hasher.hexdigest() != file.sha256:
            raise RunError(
                f"{self._store.url}: the object of {path!r} is damaged: its SHA-256 is"
                f" {hasher.hexdigest()[:16]}; remove {file.key} there and push the run again"
            )
