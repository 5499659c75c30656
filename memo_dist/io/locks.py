"""Locks between processes: a file that one process holds, or several share, for a while."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

_POLL_SECONDS = 0.2


@contextmanager
def file_lock(
    path: Path, seconds: float, busy: Callable[[str], Exception], shared: bool = False
) -> Iterator[TextIO]:
    """Hold a lock on a file while the block lasts; the file stays.

    It is an advisory lock of the operating system: a holder that is killed releases it. Threads
    of one process exclude each other, too.

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
    with path.open("a+", encoding="utf-8") as stream:
        deadline = time.monotonic() + seconds
        while not _try_lock(stream, kind):
            if time.monotonic() >= deadline:
                stream.seek(0)
                raise busy(stream.read().strip())
            time.sleep(_POLL_SECONDS)
        yield stream


def _try_lock(stream: TextIO, kind: int) -> bool:
    try:
        fcntl.flock(stream, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
