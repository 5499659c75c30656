"""Requests to stop: signals set a flag that every loop polls; nothing is torn down in a handler.

SIGTERM and SIGUSR1 (schedulers' preemption) mean "save and exit 75"; SIGINT (Ctrl-C) means
"save and exit 130", and a second one interrupts at once.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from memo_dist.errors import InterruptedRunError, MemoDistError, StoppedError

_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


class StopFlag:
    """Whether a stop was requested, and by which signal."""

    def __init__(self) -> None:
        self._signal: int | None = None

    def __call__(self) -> bool:
        """True once a stop was requested."""
        return self._signal is not None

    @property
    def interrupted(self) -> bool:
        """Whether it was the user's Ctrl-C."""
        return self._signal == signal.SIGINT

    def install(self) -> None:
        """Handle SIGTERM, SIGUSR1 and SIGINT; call again after a library took them over.

        Outside the main thread (tests, notebooks' helpers) there is nothing to install.
        """
        if threading.current_thread() is not threading.main_thread():
            return
        for number in _SIGNALS:
            signal.signal(number, self._handle)

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Handle the signals while the block lasts; then the program's own handlers are back.

        The flag is down at the beginning and at the end: an earlier stop does not end later work.
        """
        main = threading.current_thread() is threading.main_thread()
        before = {number: signal.getsignal(number) for number in _SIGNALS} if main else {}
        self._signal = None
        self.install()
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, signal.SIG_DFL if handler is None else handler)
            self._signal = None

    def leave(self) -> None:
        """Let no SIGUSR1 that comes now end the process before its exit code is out.

        The work has ended; Python's teardown puts the default action back for its own handlers.
        """
        # https://github.com/python/cpython/pull/7146
        if signal.getsignal(signal.SIGUSR1) == self._handle:
            signal.signal(signal.SIGUSR1, signal.SIG_IGN)

    def error(self, what: str) -> MemoDistError:
        """The error that ends the verb after its state was saved."""
        if self.interrupted:
            return InterruptedRunError(f"interrupted; {what}")
        return StoppedError(f"stopped by a signal; {what}")

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.interrupted:
            raise KeyboardInterrupt
        self._signal = number


STOP = StopFlag()
"""The process' one flag: the command line installs it, loops poll it."""
