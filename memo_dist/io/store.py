"""Object stores by URL (``s3://``, ``gs://``, ``hdfs://``): the one place that knows fsspec.

Credentials and endpoints come from the environment, where the store's own tools read them. None of
them may stand in a URL, so that none comes into a run, a log or a message. Every call has a
deadline.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

from memo_dist.errors import MemoDistError, RunError, UsageError, install_hint, suggest
from memo_dist.io.relative import objection

EXTRA = "object-store"
PACKAGES = {"s3": "s3fs", "gs": "gcsfs", "hdfs": "pyarrow"}
"""{scheme: the package through which fsspec speaks to that store}."""
WAIT_SECONDS = 120.0
"""Deadline of one call, beyond what its bytes may take."""
LIST_SECONDS = 1800.0
"""Deadline of a listing, which asks for a thousand names at a time."""
PARALLEL = 8
"""Objects that are sent or fetched at once."""
_SLOWEST = 2**18
"""Bytes a second that a transfer must reach."""
_LOOK_SECONDS = 0.5
"""Between two looks of a call whether its result is wanted any more."""
_BLOCK = 2**23
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_NAME_NODE = re.compile(r"[A-Za-z0-9._-]*(:\d+)?")
_LOGIN = re.compile(r"(?<=://)\S*@")
_VERSIONS = ("ETag", "etag", "generation", "mtime", "LastModified", "updated")
"""What a store calls the mark of an object's content, the surest first."""
_LOGIN_ERRORS = ("NoCredentialsError", "PartialCredentialsError", "ProfileNotFound")
_WHERE = {
    "s3": "AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_PROFILE",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS",
    "hdfs": "HADOOP_CONF_DIR, CLASSPATH, KRB5CCNAME",
}
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class StoreUrl:
    """A place in an object store; :func:`read_place` makes it.

    Attributes:
        scheme: one of :data:`PACKAGES`.
        bucket: bucket, or name node.
        prefix: path below it, without slashes at its ends; may be empty.
    """

    scheme: str
    bucket: str
    prefix: str

    def __str__(self) -> str:
        return "/".join(filter(None, (f"{self.scheme}://{self.bucket}", self.prefix)))

    @property
    def name(self) -> str:
        """Its last part."""
        return self.prefix.rpartition("/")[2]


Place = Path | StoreUrl
"""Where documents are: on a disk, or in an object store."""


@dataclass(frozen=True, slots=True)
class StoredObject:
    """An object as a listing shows it.

    Attributes:
        key: relative to the URL that was listed; empty: it is what the URL itself names.
        size: in bytes.
        version: changes with its content (an ETag, or a time); empty: the store tells none.
    """

    key: str
    size: int
    version: str


def read_place(text: str) -> Place:
    """What a user names: a path, or a URL if ``://`` stands in it.

    Raises:
        UsageError: a URL of an unknown store, with a login in it, or with an unsafe path. The
            message does not repeat what may be a secret.
    """
    scheme, mark, rest = text.partition("://")
    if not mark:
        return Path(text)
    if scheme not in PACKAGES:
        known = ", ".join(f"{name}://" for name in PACKAGES)
        raise UsageError(
            f"'{scheme:.20}://' is no object store{suggest(scheme, PACKAGES)}; known are {known}"
        )
    bucket, _, prefix = rest.partition("/")
    prefix = prefix.rstrip("/")
    host = _NAME_NODE if scheme == "hdfs" else _BUCKET
    if not host.fullmatch(bucket) or "?" in rest or "::" in rest:
        raise UsageError(
            f"{scheme}://...: write {scheme}://BUCKET/PREFIX, without a login, options behind '?'"
            f" or '::'; credentials and endpoint are taken from the environment ({_WHERE[scheme]})"
        )
    reason = objection(prefix) if prefix else ""
    if reason:
        raise UsageError(f"{scheme}://{bucket}/{prefix}: the path is refused: {reason}")
    return StoreUrl(scheme, bucket, prefix)


def read_store_url(text: str) -> StoreUrl:
    """The URL that a user names.

    Raises:
        UsageError: it is none, or see :func:`read_place`.
    """
    place = read_place(text)
    if isinstance(place, Path):
        raise UsageError(f"{text!r} is no URL of an object store; write s3://BUCKET/PREFIX")
    return place


class Store:
    """The objects below one URL; :func:`open_store` makes it."""

    def __init__(self, url: StoreUrl, filesystem: Any, root: str) -> None:
        """Of ``url``, which ``filesystem`` of fsspec calls ``root``."""
        self.url = url
        self._filesystem = filesystem
        self._root = root.rstrip("/")
        self._ended = threading.Event()

    @contextmanager
    def parallel(self) -> Iterator[ThreadPoolExecutor]:
        """Threads for :data:`PARALLEL` calls at once; an error or a stop does not wait for them."""
        pool = ThreadPoolExecutor(PARALLEL)
        try:
            yield pool
        except BaseException:
            self._ended.set()
            raise
        finally:
            pool.shutdown(cancel_futures=True)
            self._ended.clear()

    def objects(self) -> dict[str, StoredObject]:
        """Every object below the URL, and the one at the URL, by key.

        Raises:
            UsageError: no such bucket, no permission or no credentials.
            RunError: the store cannot be reached, or does not answer in time.
        """
        found: dict[str, dict[str, Any]] = self._call(
            "list it", lambda: self._filesystem.find(self._root, detail=True), LIST_SECONDS
        )
        objects = {}
        for name, row in found.items():
            key = name.removeprefix(self._root).removeprefix("/")
            size = int(row["size"] or 0)
            if row["type"] == "file" and (size or not name.endswith("/")):  # else a folder's mark
                objects[key] = StoredObject(key, size, _version(row))
        return objects

    def blocks(self, item: StoredObject) -> Iterator[bytes]:
        """The bytes of an object of the listing.

        Raises:
            RunError: it is another one by now, or the store does not answer in time.
        """
        with self._call(f"read {item.key!r}", lambda: self._open(item)) as stream:
            left = item.size
            while block := self._call(f"read {item.key!r}", lambda: stream.read(_BLOCK)):
                left -= len(block)
                if left < 0:
                    break
                yield block
        if left:
            raise self._changed(item)

    def put(self, key: str, file: Path) -> None:
        """Make a file an object, whole or not at all.

        Raises:
            UsageError, RunError: see :meth:`objects`.
        """
        path = self._path(key)
        seconds = WAIT_SECONDS + file.stat().st_size / _SLOWEST
        self._call(f"write {key!r}", lambda: self._filesystem.put_file(str(file), path), seconds)

    def put_bytes(self, key: str, data: bytes) -> None:
        """Make bytes an object, see :meth:`put`."""
        seconds = WAIT_SECONDS + len(data) / _SLOWEST
        path = self._path(key)
        self._call(f"write {key!r}", lambda: self._filesystem.pipe_file(path, data), seconds)

    def remove(self, key: str) -> None:
        """Remove an object; see :meth:`objects` for errors."""
        self._call(f"remove {key!r}", lambda: self._filesystem.rm_file(self._path(key)))

    def _path(self, key: str) -> str:
        return f"{self._root}/{key}" if key else self._root

    def _open(self, item: StoredObject) -> Any:
        path = self._path(item.key)
        try:
            stream = self._filesystem.open(path, "rb", block_size=_BLOCK, cache_type="none")
            details = getattr(stream, "details", None) or self._filesystem.info(path)
        except FileNotFoundError:
            raise self._changed(item) from None
        if _version(details) != item.version:
            stream.close()
            raise self._changed(item)
        return stream

    def _changed(self, item: StoredObject) -> RunError:
        return RunError(
            f"{self.url}: the object {item.key!r} changed while it was read; run the command again"
        )

    def _call(self, doing: str, call: Callable[[], _T], seconds: float = WAIT_SECONDS) -> _T:
        """What ``call`` returns, within a deadline, and unless the work has ended."""
        future = _started(call)
        end = time.monotonic() + seconds
        while not future.done() and time.monotonic() < end and not self._ended.is_set():
            wait([future], min(_LOOK_SECONDS, seconds))
        if not future.done():
            late = f"no answer within {seconds:.0f} s to: {doing}; {self._advice()}"
            raise RunError(f"{self.url}: {'ended' if self._ended.is_set() else late}")
        try:
            return future.result()
        except Exception as error:
            raise self._failure(doing, error) from None

    def _failure(self, doing: str, error: Exception) -> Exception:
        if isinstance(error, MemoDistError | MemoryError):
            return error
        lines = _LOGIN.sub("[hidden]@", str(error)).strip().splitlines()
        name = type(error).__name__
        told = f"{self.url}: cannot {doing}: {name}: {lines[0] if lines else ''}"[:400]
        if isinstance(error, FileNotFoundError):
            return UsageError(f"{told}; check the bucket and the path")
        if isinstance(error, PermissionError) or name in _LOGIN_ERRORS:
            return UsageError(f"{told}; {self._advice()}")
        return RunError(f"{told}; {self._advice()}")

    def _advice(self) -> str:
        return f"check the network and the environment ({_WHERE[self.url.scheme]})"


def open_store(url: StoreUrl) -> Store:
    """Open a place in a store; nothing is asked of it yet.

    Raises:
        UsageError: a package is missing, or the client cannot be made.
        RunError: it is not made in time.
    """
    package = PACKAGES[url.scheme]
    missing = [name for name in ("fsspec", package) if find_spec(name) is None]
    if missing:
        hint = install_hint(EXTRA)
        hint = f"pip install {package}, as new as fsspec" if missing == ["gcsfs"] else hint
        raise UsageError(f"{url}: the package {missing[0]} is not installed: {hint}")
    # Imported here: most commands read no store.
    from fsspec.core import url_to_fs

    options: dict[str, Any] = {"use_listings_cache": False, "skip_instance_cache": True}
    if url.scheme == "s3":
        options["max_concurrency"] = 1  # parts of one object in memory, of 50 MB each
    opening = _started(lambda: url_to_fs(str(url), **options))
    wait([opening], WAIT_SECONDS)
    if not opening.done():
        raise RunError(f"{url}: not opened within {WAIT_SECONDS:.0f} s; check {_WHERE[url.scheme]}")
    try:
        filesystem, root = opening.result()
    except Exception as error:
        told = _LOGIN.sub("[hidden]@", f"{type(error).__name__}: {error}").splitlines()[0][:300]
        raise UsageError(
            f"{url}: the store cannot be opened ({told}); check {_WHERE[url.scheme]}"
        ) from None
    return Store(url, filesystem, root)


def _started(call: Callable[[], _T]) -> Future[_T]:
    """A call in a thread of its own: not every library has a deadline itself."""
    future: Future[_T] = Future()

    def work() -> None:
        try:
            future.set_result(call())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=work, daemon=True, name="store").start()
    return future


def _version(row: dict[str, Any]) -> str:
    found = next((row[name] for name in _VERSIONS if row.get(name)), "")
    return str(found).strip('"')
