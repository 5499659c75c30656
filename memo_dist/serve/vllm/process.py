"""A process of vLLM that belongs to this server: started, looked after, started again, ended."""

from __future__ import annotations

import http.client
import logging
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from memo_dist.config.serve_schema import ServeConfig
from memo_dist.errors import RunError, UsageError
from memo_dist.serve.keys import VARIABLE
from memo_dist.serve.vllm import keeper
from memo_dist.serve.vllm.client import Client, RefusedError, UnreachableError

logger = logging.getLogger(__name__)

_POLL_SECONDS = 0.25
_DEATH_SECONDS = 20.0
_END_SECONDS = 15.0
_LOG_TAIL = 20_000
_ENVIRONMENT = {
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",  # everything it reads is in folders of this machine
    "VLLM_HOST_IP": "127.0.0.1",  # for the store in which its processes meet
}
_WITHOUT = (VARIABLE, "PYTHONPATH", "PYTHONHOME", "VLLM_API_KEY")
"""Of this process: secrets, and what would lead another environment's Python astray."""


class VllmProcess:
    """One ``vllm serve``, which listens on a socket in a folder of its own; threads may share it.

    No port is opened for requests: who may use the folder (mode 0700) may use vLLM.
    """

    def __init__(
        self, words: Sequence[str], settings: ServeConfig, log: Path, secrets: Collection[str] = ()
    ) -> None:
        """Begin to start it; :meth:`wait` waits until it answers.

        Args:
            words: of ``vllm serve``, behind the command.
            settings: ``serve.vllm_*``.
            log: what it writes is added to this file.
            secrets: environment variables that it does not get.

        Raises:
            UsageError: there is no such command.
        """
        command = vllm_command(settings)
        self._folder = Path(tempfile.mkdtemp(prefix="memo-vllm-"))
        socket = self._folder / "api"
        self._words = [*command, "serve", *words, "--uds", str(socket), *settings.vllm_args]
        self._log, self._deadline = log, settings.vllm_start_seconds
        self._client = Client(socket, seconds=settings.answer_seconds)
        self._without = {*_WITHOUT, *secrets}
        self._lock = threading.Lock()
        self._ended = False
        self._process = self._begin()

    def wait(self, until: float) -> None:
        """Wait until it answers.

        Args:
            until: deadline, of ``time.monotonic``.

        Raises:
            RunError: it ended, or did not answer in time.
        """
        while True:
            if (code := self._process.poll()) is not None:
                raise RunError(f"vLLM ended with code {code} at its start: {self._why()}")
            with suppress(RunError):
                self._client.get("/models")
                return
            if self._ended:
                raise RunError("vLLM is not started: its server ends")
            if time.monotonic() > until:
                raise RunError(
                    f"vLLM did not answer within {self._deadline:g} s"
                    f" (serve.vllm_start_seconds): see {self._log}"
                )
            time.sleep(_POLL_SECONDS)

    def get(self, path: str) -> dict[str, Any]:
        """See :meth:`Client.get`."""
        return self._client.get(path)

    def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """See :meth:`Client.post`; where the process has died it is started again, once a call.

        Raises:
            RunError: it does not answer, or does not start again.
        """
        try:
            return self._client.post(path, body)
        except UnreachableError:
            self._revive()
        except RefusedError as error:  # a server whose engine has died says so before it ends
            if error.status < http.client.INTERNAL_SERVER_ERROR:
                raise
            self._revive()
        return self._client.post(path, body)

    def end(self) -> None:
        """End it, with all processes that it has started."""
        self._ended = True  # whoever holds the lock, to start it again, gives up
        with self._lock:
            self._stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _revive(self) -> None:
        """Start a process that has died again; one that lives, and did not answer, is left alone.

        Calls that find it dead wait for the first of them.
        """
        with suppress(subprocess.TimeoutExpired):  # it takes a moment to end
            self._process.wait(_DEATH_SECONDS)
        with self._lock:
            if self._ended or self._process.poll() is None:
                return
            logger.warning("a vLLM process ended and is started again; its log is %s", self._log)
            self._process = self._begin()
            try:
                self.wait(time.monotonic() + self._deadline)
            except RunError:
                self._stop()
                raise

    def _begin(self) -> subprocess.Popen[bytes]:
        for left in self._folder.iterdir():
            left.unlink(missing_ok=True)
        env = {name: value for name, value in os.environ.items() if name not in self._without}
        env |= _ENVIRONMENT | {"VLLM_RPC_BASE_PATH": str(self._folder)}
        env.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")  # several would share the same cores
        words = [sys.executable, "-IS", keeper.__file__, *self._words]
        with self._log.open("ab") as log:
            return subprocess.Popen(
                words,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=env,
                start_new_session=True,  # a Ctrl-C is for the server, which then ends it
            )

    def _stop(self) -> None:
        if self._process.stdin:
            self._process.stdin.close()
        try:
            self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _why(self) -> str:
        """The last line of its log that names an error."""
        text = self._log.read_bytes()[-_LOG_TAIL:].decode("utf-8", "replace")
        lines = [line.strip() for line in text.splitlines() if "Error" in line]
        return f"{lines[-1][-300:] if lines else 'it does not say why'} (its log is {self._log})"


def vllm_command(settings: ServeConfig) -> list[str]:
    """The words of ``serve.vllm_command``.

    Raises:
        UsageError: there is no such command.
    """
    words = shlex.split(settings.vllm_command)
    if not words or shutil.which(words[0]) is None:
        raise UsageError(
            f"serve.engine=vllm needs vLLM, and serve.vllm_command='{settings.vllm_command}' is no"
            " command here: install it into an environment of its own (docs/serving.md) and name"
            " that one's bin/vllm, or name running servers with serve.vllm_urls"
        )
    return words
