"""Text that one thread writes and another one reads, piece by piece."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from queue import SimpleQueue

Pieces = Generator[str, None, None]


def written_apart(write: Callable[[], Pieces]) -> Iterator[str]:
    """The pieces of ``write()``, which a thread of its own produces as fast as it can.

    Locks and torch's inference mode, which belong to a thread, thus never stay with the reader,
    and a reader that is slow keeps no model busy. A reader that leaves early ends the writing
    before its next piece.

    Args:
        write: a generator function; called once, in the new thread.

    Raises:
        Exception: what ``write`` raises, in the reader's thread, after the pieces before it.
    """
    pieces: SimpleQueue[str | BaseException | None] = SimpleQueue()
    left = threading.Event()
    writer = threading.Thread(target=_write, args=(write, pieces, left), daemon=True)
    writer.start()
    try:
        while (piece := pieces.get()) is not None:
            if isinstance(piece, BaseException):
                raise piece
            yield piece
    finally:
        left.set()
        writer.join()


def _write(
    write: Callable[[], Pieces],
    pieces: SimpleQueue[str | BaseException | None],
    left: threading.Event,
) -> None:
    end: BaseException | None = None
    try:
        with closing(write()) as written:
            for piece in written:
                if left.is_set():
                    break
                pieces.put(piece)
    except BaseException as error:
        end = error
    pieces.put(end)
