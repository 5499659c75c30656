"""Errors that end a verb, each with the exit code that a shell or a scheduler sees.

Exit codes: 0 done, 1 failed, 2 usage or configuration, 75 stopped with state saved
(``EX_TEMPFAIL``: run the same command again), 130 interrupted by the user.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterable

EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_STOPPED = 75
EXIT_INTERRUPTED = 130


class MemoDistError(Exception):
    """Base of every error that is shown to the user as one message, without a traceback."""

    exit_code = EXIT_FAILED


class UsageError(MemoDistError, ValueError):
    """The input, the configuration or the command is wrong; nothing was started.

    The message names what is wrong, the actual value, and what to change.
    """

    exit_code = EXIT_USAGE


class DamagedFileError(UsageError):
    """A file that memo_dist wrote, or was given, does not hold what it should."""

    @classmethod
    def of(cls, source: object, reason: str) -> DamagedFileError:
        """The error of a file (``source``: its path, and the place in it) with what is wrong."""
        return cls(
            f"{source} is damaged: {reason}; bring it back from a copy, or remove it and run the"
            " command that made it again"
        )


class RunError(MemoDistError, RuntimeError):
    """The work itself failed (a gate was missed, a worker kept dying, a disk is full)."""

    exit_code = EXIT_FAILED


class StoppedError(MemoDistError):
    """Stopped on request (preempted, budget reached) with the state saved: run it again."""

    exit_code = EXIT_STOPPED


class AwaitingRepliesError(StoppedError):
    """Replies that come as files are missing: put them there, then run the same command again."""


class InterruptedRunError(MemoDistError):
    """The user pressed Ctrl-C; what was complete is kept."""

    exit_code = EXIT_INTERRUPTED


def suggest(name: str, known: Iterable[str]) -> str:
    """Return `` (did you mean 'x'?)`` for a close match among ``known``, else an empty string."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean '{close[0]}'?)" if close else ""


def install_hint(extra: str) -> str:
    """How to install the packages of an optional dependency, with their tested versions.

    The project is installed from its clone: an index may carry another package of its name.
    """
    return f"in the clone run {sys.executable} -m pip install -c constraints.txt -e '.[{extra}]'"
