"""New processes without their imports: a server has imported the libraries once, and forks.

``popen`` runs a Python command line in a fork of that server, as ``subprocess.Popen`` would run
it in a new interpreter: same arguments, variables, folder, standard streams, process group,
signals and exit code. Workers that Ray starts for such a command are forks too.

What a fork cannot show is what imports do: how long they take, and a signal during them. Tests of
that, and with ``MEMO_TESTS_LONG`` all tests, use new interpreters (see ``cli.py``).

The server's side of this file runs in the server, :func:`_stand_in` in a small process in place
of each of Ray's workers. Both need nothing from the tests' folder.
"""

from __future__ import annotations

import atexit
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import IO, Any

IMPORTED = (
    "memo_dist.training.worker", "deepspeed", "peft", "transformers.models.llama.modeling_llama",
    "tokenizers", "aiohttp", "pandas", "pyarrow", "fsspec", "requests", "pydantic", "jinja2",
    "psutil", "memo_dist.cli.ask", "memo_dist.cli.encode", "memo_dist.cli.evaluate",
    "memo_dist.cli.export", "memo_dist.cli.fuse", "memo_dist.cli.plan", "memo_dist.cli.scale",
    "memo_dist.cli.status",
)  # fmt: skip
"""Not Ray: its library reads the environment (token, job, settings) when it is loaded."""
START_SECONDS = 300
POLL_SECONDS = 0.2
STREAM = int | IO[Any]
_INTERPRETER = """#!/bin/sh
case "$*" in
*default_worker.py*) exec "{0}" -IS "{1}" stand-in {2} "$@" ;;
*) exec "{0}" "$@" ;;
esac
"""


def available() -> bool:
    """Under pytest alone: benchmarks that use ``cli.py`` measure new interpreters.

    Not on a machine with a GPU, whose driver does not survive a fork; nor for long tests.
    """
    long = os.environ.get("MEMO_TESTS_LONG")
    gpu = Path("/dev/nvidiactl").exists()
    return "PYTEST_CURRENT_TEST" in os.environ and not long and not gpu


class Forked:
    """A running command; the part of ``subprocess.Popen`` that tests use."""

    def __init__(self, address: str, request: dict[str, Any], streams: Sequence[STREAM]) -> None:
        self._connection = socket.socket(socket.AF_UNIX)
        self._connection.connect(address)
        numbers = [s if isinstance(s, int) else s.fileno() for s in streams]
        data = json.dumps(request).encode()
        socket.send_fds(self._connection, [len(data).to_bytes(8, "big")], numbers)
        self._connection.sendall(data)
        self.args: list[str] = request["words"]
        self.pid = int.from_bytes(self._read(), "big")
        self.returncode: int | None = None

    def poll(self) -> int | None:
        return self._ended(0)

    def wait(self, timeout: float | None = None) -> int:
        code = self._ended(timeout)
        if code is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _ended(self, timeout: float | None) -> int | None:
        if self.returncode is None:
            self._connection.settimeout(timeout)
            with suppress(BlockingIOError, TimeoutError):
                status = int.from_bytes(self._read(), "big")
                self.returncode = os.waitstatus_to_exitcode(status)
                self._connection.close()
        return self.returncode

    def _read(self) -> bytes:
        data = self._connection.recv(8)
        if len(data) != 8:
            raise RuntimeError("the fork server has ended")
        return data


def popen(
    words: Sequence[str | Path],
    env: Mapping[str, str],
    stdout: STREAM,
    stderr: STREAM,
    start_new_session: bool = False,
) -> Forked:
    """Run ``python WORDS`` (``-m MODULE ...`` or ``FILE ...``); standard input is empty."""
    address, python = _server()
    request = {
        "words": [*map(str, words)],
        "env": dict(env),
        "folder": str(Path.cwd()),
        "session": start_new_session,
        "python": python,
    }
    with Path(os.devnull).open() as nothing:
        return Forked(address, request, (nothing, stdout, stderr))


@cache
def _server() -> tuple[str, str]:
    """The running server's socket, and what stands in for the interpreter of Ray's workers."""
    folder = tempfile.TemporaryDirectory(prefix="memo-fork-", dir="/tmp")
    address, python = f"{folder.name}/socket", Path(folder.name) / "python"
    python.write_text(_INTERPRETER.format(sys.executable, __file__, address))
    python.chmod(0o755)
    server = subprocess.Popen(
        [sys.executable, __file__, "serve", address],
        stdin=subprocess.PIPE,
        env={**os.environ, "DS_ACCELERATOR": "cpu"},
        start_new_session=True,
        cwd=Path(__file__).parents[1],
    )
    atexit.register(_end, server, folder)
    deadline = time.monotonic() + START_SECONDS
    while not Path(address).exists():
        assert server.poll() is None, "the fork server did not start"
        assert time.monotonic() < deadline, "the fork server did not start in time"
        time.sleep(0.05)
    return address, str(python)


def _end(server: subprocess.Popen[bytes], folder: tempfile.TemporaryDirectory[str]) -> None:
    server.kill()
    server.wait()
    folder.cleanup()


# -- the server ------------------------------------------------------------------------------------


def _serve(address: str) -> None:
    """Fork for each connection, until standard input ends, which the tests' process holds."""
    import gc
    import importlib

    for name in IMPORTED:
        importlib.import_module(name)
    assert "ray" not in sys.modules
    gc.freeze()
    wake, woken = socket.socketpair()
    for end in (wake, woken):
        end.setblocking(False)
    signal.set_wakeup_fd(woken.fileno(), warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(f"{address}.new")
    listener.listen(64)
    Path(f"{address}.new").rename(address)
    waiting = selectors.DefaultSelector()
    for ready in (0, wake, listener):
        waiting.register(ready, selectors.EVENT_READ)
    running: dict[int, socket.socket] = {}
    while True:
        for key, _ in waiting.select():
            if key.fileobj == 0:
                os._exit(0)
            elif key.fileobj is wake:
                wake.recv(4096)
                _reap(running)
            else:
                _accept(listener.accept()[0], running, (wake, woken, listener))


def _reap(running: dict[int, socket.socket]) -> None:
    with suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            with running.pop(pid) as client, suppress(OSError):
                client.sendall(status.to_bytes(8, "big"))


def _accept(
    client: socket.socket, running: dict[int, socket.socket], own: Sequence[socket.socket]
) -> None:
    size, streams, _, _ = socket.recv_fds(client, 8, 3)
    data = b""
    while len(data) < int.from_bytes(size, "big"):
        data += client.recv(1 << 16)
    pid = os.fork()
    if not pid:
        for inherited in (client, *running.values(), *own):
            inherited.close()
        _become(json.loads(data), streams)
    for stream in streams:
        os.close(stream)
    running[pid] = client
    with suppress(OSError):
        client.sendall(pid.to_bytes(8, "big"))


def _become(request: dict[str, Any], streams: Sequence[int]) -> None:
    """In the fork: what a new interpreter would find; ends with the command's exit code."""
    import random

    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if request["session"]:
        os.setsid()
    else:
        os.setpgid(0, 0)  # a signal to its group must not reach the server
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["env"])
    sys.executable = request["python"]
    tempfile.tempdir = None
    random.seed()
    _leave(_run(request["words"]))


def _run(words: list[str]) -> int:
    import runpy
    import traceback
    import warnings

    path = [entry for entry in os.environ.get("PYTHONPATH", "").split(":") if entry]
    try:
        if words[0] == "-m":
            sys.argv, sys.path[:1] = words[1:], [str(Path.cwd()), *path]
            warnings.filterwarnings("ignore", "'.*' found in sys.modules", module="runpy")
            runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv, sys.path[:1] = words, [str(Path(words[0]).parent), *path]
            runpy.run_path(words[0], run_name="__main__")
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        print(end.code, file=sys.stderr)
        return 1
    except BaseException as error:
        traceback.print_exc()
        if isinstance(error, KeyboardInterrupt):
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGINT)
        return 1
    return 0


def _leave(code: int) -> None:
    from memo_dist import process

    process.leave(code)


# -- in place of one of Ray's workers --------------------------------------------------------------


def _stand_in(address: str, words: list[str]) -> int:
    """Ask the server for the worker, and live as long as it: Ray watches this process."""
    words = words[1:] if words[0] == "-u" else words
    request = {
        "words": words,
        "env": dict(os.environ),
        "folder": str(Path.cwd()),
        "session": True,  # Ray ends the whole group of a worker that died
        "python": sys.executable,
    }
    raylet = os.getppid()
    worker = Forked(address, request, (0, 1, 2))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: worker.send_signal(number))
    while True:
        with suppress(subprocess.TimeoutExpired):
            code = worker.wait(POLL_SECONDS)
            return 128 - code if code < 0 else code
        if os.getppid() != raylet:
            worker.kill()


if __name__ == "__main__":
    role, socket_path, *rest = sys.argv[1:]
    sys.exit(_serve(socket_path) if role == "serve" else _stand_in(socket_path, rest))
