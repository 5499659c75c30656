"""A corpus in an object store: its objects are listed, and fetched for the readers when needed.

Never more than a few objects lie on the disk, so the corpus may be larger than it.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future
from itertools import islice
from pathlib import Path
from typing import Any

from memo_dist.corpus.types import Quarantined
from memo_dist.errors import UsageError
from memo_dist.io import atomic
from memo_dist.io.relative import colliding, objection
from memo_dist.io.store import PARALLEL, StoredObject, StoreUrl, open_store

_OTHER_VERSION = "?versionId="


class StoredCorpus:
    """The objects below a URL, or the one that it names.

    Attributes:
        origins: keys relative to the URL, which are the paths that a local copy would have.
        quarantined: objects whose keys could not be such paths.
        single: whether the URL names one object.
    """

    def __init__(self, url: StoreUrl) -> None:
        """List them.

        Raises:
            UsageError: there are none; or see :meth:`Store.objects`.
            RunError: see there.
        """
        self._store = open_store(url)
        found = self._store.objects()
        if not found:
            raise UsageError(f"corpus '{url}' does not exist: no object has this prefix")
        self.single = found.keys() == {""}
        if not self.single:
            found.pop("", None)
        named = {key or url.name: item for key, item in found.items()}
        self.quarantined = list(_refused(named))
        refused = {entry.origin for entry in self.quarantined}
        self._objects = {key: item for key, item in named.items() if key not in refused}
        self._digests: dict[str, str] = {}

    @property
    def origins(self) -> Sequence[str]:
        """See the class."""
        return list(self._objects)

    def size(self, origin: str) -> int:
        """Bytes of an object."""
        return self._objects[origin].size

    def recall(self, rows: Iterable[dict[str, Any]]) -> None:
        """Take over the hashes of an earlier :meth:`state`, of objects that are the same since."""
        for row in rows:
            item = self._objects.get(row["path"])
            if item is not None and item.version and item.version == row.get("version"):
                self._digests[row["path"]] = row["sha256"]

    def state(self, origins: Sequence[str]) -> list[dict[str, Any]]:
        """SHA-256 and version of each object; what was not read or recalled is read for it.

        Raises:
            RunError: see :meth:`Store.blocks`.
        """
        unknown = [origin for origin in origins if origin not in self._digests]
        with self._store.parallel() as pool:
            list(pool.map(lambda origin: self._fetched(origin, Path(os.devnull)), unknown))
        return [
            {"path": name, "sha256": self._digests[name], "version": self._objects[name].version}
            for name in origins
        ]

    def fetch(self, origins: Iterable[str], folder: Path | None) -> Generator[Path]:
        """Fetch objects, a few ahead; each file is there until the next one is asked for.

        Args:
            origins: what to fetch, in this order.
            folder: where a private folder is made for them, and removed; None: the temporary one.

        Raises:
            RunError: see :meth:`Store.blocks`.
            OSError: the disk is full.
        """
        left = enumerate(origins)
        waiting: deque[Future[Path]] = deque()
        with (
            tempfile.TemporaryDirectory(prefix=atomic.temp_prefix(), dir=folder) as name,
            self._store.parallel() as pool,
        ):
            while True:
                for number, origin in islice(left, PARALLEL - len(waiting)):
                    waiting.append(pool.submit(self._fetched, origin, Path(name, str(number))))
                if not waiting:
                    return
                path = waiting.popleft().result()
                yield path
                path.unlink()

    def _fetched(self, origin: str, path: Path) -> Path:
        hasher = hashlib.sha256()
        with path.open("wb") as stream:
            for block in self._store.blocks(self._objects[origin]):
                hasher.update(block)
                stream.write(block)
        self._digests[origin] = hasher.hexdigest()
        return path


def _refused(objects: dict[str, StoredObject]) -> Iterator[Quarantined]:
    twins = colliding(objects)
    for key in objects:
        reason = objection(key)
        if not reason and key in twins:
            reason = "another object has this name after Unicode normalisation"
        if not reason and _OTHER_VERSION in key:
            reason = f"the client of the store reads {_OTHER_VERSION} as a version"
        if reason:
            yield Quarantined(key, "bad_name", f"the key of the object is refused: {reason}")
