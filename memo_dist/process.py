"""How a process of memo_dist begins and ends: a third of a short command's time lies there."""

from __future__ import annotations

import atexit
import gc
import os
import sys
import threading
from typing import NoReturn

_COLLECT_AFTER = 10_000
"""New objects between two collections, of Python's 700: imports of torch and transformers make
millions that stay, and looking at them again and again took a fifth of their time."""


def begin() -> None:
    """Before the first large import."""
    gc.set_threshold(_COLLECT_AFTER)


def leave(code: int) -> NoReturn:
    """End with ``code`` as ``sys.exit`` does, but without taking modules apart object by object.

    Threads that are no daemons are waited for, exit handlers run, and output is written; after
    torch and transformers were imported the rest takes more than a second.
    """
    threading._shutdown()  # type: ignore[attr-defined] # what Py_Finalize begins with
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):  # a pipe's reader has gone, or the stream is closed
            code = code or 1
    os._exit(code)
