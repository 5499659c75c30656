"""A small process between the server and a vLLM process, which ends that with the server.

Run as a file (``python -IS keeper.py COMMAND WORD...``): it needs the standard library alone. Its
standard input is a pipe that the server holds; when that closes, however the server ended, it ends
the whole process group of vLLM, whose engine is a process of its own.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress

_END_SECONDS = 10.0
_POLL_SECONDS = 0.5


def main(words: Sequence[str]) -> int:
    """Run a command until it ends or standard input does; its exit code."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):  # the server's end decides
        signal.signal(number, lambda *_: None)
    child = subprocess.Popen(words, stdin=subprocess.DEVNULL, start_new_session=True)
    while child.poll() is None:
        ready, _, _ = select.select([0], [], [], _POLL_SECONDS)
        if ready and not os.read(0, 1):
            child.terminate()
            with suppress(subprocess.TimeoutExpired):
                child.wait(_END_SECONDS)
            break
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    return child.wait()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
