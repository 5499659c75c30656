"""How a process of memo_dist begins and ends: a third of a short command's time lies there."""

from __future__ import annotations

import atexit
import errno
import gc
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn, TextIO

_COLLECT_AFTER = 10_000
"""New objects between two collections; Python 3.11 and 3.12 have 700. Imports of torch and
transformers make millions that stay, and going through them again and again took a fifth of the
time."""


def begin() -> None:
    """Of a command, before its first large import."""
    gc.set_threshold(_COLLECT_AFTER)


def end_without_memory(message: str, code: int) -> None:
    """End with ``message`` and ``code`` where a new thread has no memory to start with.

    ``Thread.start`` waits for a sign of the new thread, and for ever where that has died before
    it could give one. The message is made now: there may be no memory for it then.
    """
    # https://github.com/python/cpython/issues/140746
    line, before = f"memo-dist: {message}\n".encode(), sys.unraisablehook

    def hook(event: sys.UnraisableHookArgs) -> None:
        if issubclass(event.exc_type, MemoryError) and "thread started by" in (event.err_msg or ""):
            os.write(2, line)
            os._exit(code)
        before(event)

    sys.unraisablehook = hook


@contextmanager
def imports() -> Iterator[None]:
    """Around the large imports of a process that goes on to train: what they made is not looked
    at again, and other garbage is collected as early as ever."""
    before = gc.get_threshold()
    begin()
    try:
        yield
    finally:
        gc.freeze()
        gc.set_threshold(*before)


def accelerator_environment(gpu: bool) -> dict[str, str]:
    """Variables for a process that will train.

    Without a GPU DeepSpeed need not look for one, and does not warn that it has found none. With
    one, segments that grow keep rows of other lengths from leaving memory that nothing fits into;
    what is set where the command runs is passed on. https://docs.pytorch.org/docs/stable/notes/cuda.html
    """
    if not gpu:
        return {"DS_ACCELERATOR": "cpu"}
    names = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")
    chosen = next((os.environ[name] for name in names if os.environ.get(name)), "")
    return {names[0]: chosen or "expandable_segments:True"}


def leave(code: int) -> NoReturn:
    """End with ``code`` as ``sys.exit`` does, but without taking modules apart object by object.

    Threads that are no daemons are waited for, exit handlers run, and output is written; after
    torch and transformers were imported the rest takes more than a second. A success whose output
    cannot be written is none.
    """
    threading._shutdown()  # type: ignore[attr-defined] # what Python's own end begins with
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        if not _written(stream):
            code = code or 1
    os._exit(code)


def _written(stream: TextIO | None) -> bool:
    """Flush; False where that fails. A stream that was never open, or is closed, is left alone."""
    if stream is None or stream.closed:
        return True
    try:
        stream.flush()
    except OSError as error:
        if error.errno != errno.EPIPE:  # whose reader has seen enough
            with suppress(OSError):
                os.write(2, f"memo-dist: output could not be written: {error.strerror}\n".encode())
        return False
    return True
