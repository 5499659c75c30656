"""Locks between processes: a file that one process holds, or several share, for a while."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TextIO

from memo_dist.io.leases import Lease

logger = logging.getLogger(__name__)

_POLL_SECONDS = 0.2
_UNSUPPORTED = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL)
"""What flock says on Lustre mounted without ``-o flock``, on old NFS, and on some FUSE mounts."""


@contextmanager
def file_lock(
    path: Path, seconds: float, busy: Callable[[str], Exception], shared: bool = False
) -> Iterator[TextIO]:
    """Hold a lock on a file while the block lasts; the file stays.

    It is an advisory lock of the operating system: a holder that is killed releases it. Threads
    of one process exclude each other, too. Where the file system has no such locks, a lease with a
    heartbeat takes its place, with a warning (:mod:`memo_dist.io.leases`).

    Args:
        path: made where it is missing; its folder must exist.
        seconds: how long to wait for the lock; 0: one try.
        busy: makes the error, from what the holder has written into the file.
        shared: together with others that share it; else alone.

    Yields:
        The open file, to write into; what is flushed is there for ``busy``.

    Raises:
        OSError: the file cannot be opened.
        Exception: what ``busy`` makes, where the lock was not free in time.
    """
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    lease: Lease | None = None
    with path.open("a+", encoding="utf-8") as stream:
        deadline = time.monotonic() + seconds
        try:
            taken = _try_lock(stream, kind)
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise
            _warn_once(path, error.strerror or str(error))
            lease = Lease(path, shared)
            taken = lease.take()
        while not taken:
            if time.monotonic() >= deadline:
                stream.seek(0)
                raise busy((lease.holder() if lease else "") or stream.read().strip())
            time.sleep(_POLL_SECONDS)
            taken = lease.take() if lease else _try_lock(stream, kind)
        try:
            yield stream
        finally:
            if lease:
                lease.release()


def holder() -> str:
    """This process, as a lock names its holder."""
    return f"{os.getpid()} on {platform.node()}"


def _try_lock(stream: TextIO, kind: int) -> bool:
    try:
        fcntl.flock(stream, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@cache
def _warn_once(path: Path, reason: str) -> None:
    logger.warning(
        "file locks (flock) do not work for %s (%s): a lease file with a heartbeat is used; mount"
        " Lustre with -o flock, or NFS with its lock service, to have real locks",
        path,
        reason,
    )
