"""Documents are read in a process of their own, which may be killed: by time, or by memory.

One process reads many files, one after the other; a new one starts after one that ended. Requests
and answers are lines of JSON over its standard input and output. It ends with its parent.
"""

from __future__ import annotations

import atexit
import ctypes
import json
import os
import resource
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from memo_dist.corpus.listing import SourceFile
from memo_dist.corpus.types import Document, Quarantined
from memo_dist.errors import RunError

_START_SECONDS = 120.0
"""Patience with a process that starts: imports on a slow disk."""
_READ_BYTES = 2**20
_MIB = 2**20
_END = "end"
_READY, _FAILED = "ready", "failed"
_PR_SET_PDEATHSIG = 1

Item = Document | Quarantined


@dataclass(frozen=True, slots=True)
class Limits:
    """What one document may take.

    Attributes:
        max_bytes: largest document, in bytes (a file, or the text of one row).
        seconds: longest time to read one document.
        megabytes: most memory, in MiB, beyond what the process needs itself.
    """

    max_bytes: int
    seconds: float
    megabytes: int


class _DiedError(Exception):
    """The process ended, or had to be ended, while it read a file."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


class ReaderProcess:
    """A process that reads files; started when the first file comes."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._buffer = b""
        self._megabytes = 0

    def read(self, file: SourceFile, limits: Limits) -> Iterator[Item]:
        """Yield the documents of a file, or the reasons against them.

        A file that takes too long or too much gives what was read of it before, and one entry
        that names the reason (``time_limit``, ``memory_limit`` or ``reader_died``).
        """
        request = {
            **{"path": os.fspath(file.path), "origin": file.origin, "suffix": file.suffix},
            **{"document_id": file.document_id, "max_bytes": limits.max_bytes},
        }
        count = 0
        try:
            self._start(limits)
            self._send(request)
            while (row := self._line(limits.seconds, limits)) != _END:
                yield _item(row)
                count += 1
        except _DiedError as error:
            self.close()
            rest = f"; what follows the first {count} rows was not read" if count else ""
            yield Quarantined(file.origin, error.reason, error.detail + rest)
        except BaseException:  # also a consumer that reads no further: answers would be left
            self.close()
            raise

    def close(self) -> None:
        """End the process."""
        if self._process is None:
            return
        process, self._process, self._buffer = self._process, None, b""
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                with suppress(OSError):
                    stream.close()

    def _start(self, limits: Limits) -> None:
        running = self._process is not None and self._process.poll() is None
        if running and self._megabytes == limits.megabytes:
            return
        self.close()
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        # Arrow's own allocator reserves 1 GiB of addresses at once: a limit near it would refuse
        # every file. https://arrow.apache.org/docs/cpp/env_vars.html
        environment["ARROW_DEFAULT_MEMORY_POOL"] = "system"
        command = [sys.executable, "-P", "-m", __name__, str(limits.megabytes), str(os.getpid())]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,  # Ctrl-C is the parent's to answer
        )
        self._megabytes = limits.megabytes
        if self._line(_START_SECONDS, limits) != _READY:
            raise RunError(
                "cannot unpack the model that recognises languages into"
                f" {tempfile.gettempdir()} (TMPDIR): {self._line(_START_SECONDS, limits)}"
            )

    def _send(self, request: dict[str, Any]) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # the answer tells why it ended
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()

    def _line(self, seconds: float, limits: Limits) -> Any:
        """The next answer."""
        assert self._process is not None
        assert self._process.stdout is not None
        deadline = time.monotonic() + seconds
        parts = [self._buffer]
        while b"\n" not in parts[-1]:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._process.stdout], [], [], left)[0]:
                detail = f"not read within corpus.seconds_per_document={limits.seconds:g}"
                raise _DiedError("time_limit", detail)
            data = os.read(self._process.stdout.fileno(), _READ_BYTES)
            if not data:
                raise self._died(limits)
            parts.append(data)
        line, _, self._buffer = b"".join(parts).partition(b"\n")
        return json.loads(line)

    def _died(self, limits: Limits) -> _DiedError:
        assert self._process is not None
        code = self._process.wait()
        if code == _OUT_OF_MEMORY:
            detail = f"reading it needs more than corpus.megabytes_per_document={limits.megabytes}"
            return _DiedError("memory_limit", detail)
        ended = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        return _DiedError("reader_died", f"the process that read it ended with {ended}")


_OUT_OF_MEMORY = 77
"""Exit code of the process when its memory limit was reached."""
_reader = ReaderProcess()
atexit.register(_reader.close)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lambda: _reader.__init__())  # type: ignore[misc]


def read_files(files: Iterable[SourceFile], limits: Limits) -> Iterator[Item]:
    """Yield every document of the files, or the reason against it, in order."""
    for file in files:
        yield from _reader.read(file, limits)


def _item(row: dict[str, Any]) -> Item:
    return Quarantined.from_json(row) if "reason" in row else Document.from_json(row)


def main() -> None:
    """The process: answers requests until its standard input ends."""
    from memo_dist.corpus.language import load_identifier
    from memo_dist.corpus.readers import read_file

    requests, answers = _streams()
    try:
        load_identifier()  # before the first file: a full disk is no fault of a document
    except OSError as error:
        _answer(answers, _FAILED)
        _answer(answers, error.strerror or str(error))
        return
    _limit(int(sys.argv[1]), int(sys.argv[2]))
    _answer(answers, _READY)
    for line in requests:
        request = json.loads(line)
        max_bytes = request.pop("max_bytes")
        file = SourceFile(**{**request, "path": Path(request["path"])})
        try:
            for item in read_file(file, max_bytes):
                _answer(answers, item.to_json())
            _answer(answers, _END)
        except MemoryError:
            os._exit(_OUT_OF_MEMORY)


def _streams() -> tuple[BinaryIO, BinaryIO]:
    """Standard input and output for the protocol; what a library prints goes nowhere."""
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(nothing, 1)
    return requests, answers


def _answer(answers: BinaryIO, row: Any) -> None:
    answers.write(json.dumps(row).encode() + b"\n")
    answers.flush()


def _limit(megabytes: int, parent: int) -> None:
    """Limit the memory beyond what is in use, and end with the parent."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + megabytes * _MIB
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(resource.RLIMIT_AS, (most, hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(AttributeError, OSError):  # Linux: a reader that hangs ends with its parent too
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)


if __name__ == "__main__":
    main()
