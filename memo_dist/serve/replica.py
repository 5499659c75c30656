"""What runs in one replica of Ray Serve: an engine of its own over the same run.

Of Ray 2.60: every replica opens a gRPC server on all interfaces, for handles that do not pass
their requests as Ray's own calls do. Ours do, so here it listens on the loopback alone.
https://github.com/ray-project/ray/issues/64544
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray import serve
from ray._private import state
from ray.serve._private import replica as of_ray

from memo_dist.answering import Answered
from memo_dist.config.schema import Config
from memo_dist.errors import MemoDistError, RunError
from memo_dist.io.runfolder import RunFolder
from memo_dist.serve.engine import Engine

_PORT_OPENER = "add_port_to_grpc_server"


@dataclass(frozen=True)
class Heard:
    """What a replica says to a batch.

    Attributes:
        generation: number of the generation that answered.
        answers: in the order of the questions; empty where there is an error.
        error: of the batch. As a value: a raised one is written into Ray's logs.
    """

    generation: int
    answers: tuple[Answered, ...] = ()
    error: MemoDistError | None = None


class Replica:
    """Loads the memory, and answers batches; Ray Serve calls it from several threads."""

    def __init__(self, root: str, config: Config, application: str, job: str) -> None:
        """Load the generation that holds.

        Args:
            root: of the run; a folder that all nodes see.
            config: of the server.
            application: in Ray Serve that this replica is part of.
            job: hexadecimal id of the server's job in Ray; the application ends with it.

        Raises:
            UsageError, RunError: the memory cannot be loaded.
        """
        _listen_on_the_loopback()
        self._application, self._job = application, job
        self._asked: list[Mapping[str, str]] = []
        self._lock = threading.Lock()
        self._modes: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        self._engine = Engine(RunFolder(Path(root)), config, self._hidden)
        self._engine.refresh()

    def answer(
        self, mode: str, questions: Sequence[str], hidden: Mapping[str, str], number: int
    ) -> Heard:
        """Answer a batch.

        Args:
            mode: of ``serve.modes``.
            questions: what is asked.
            hidden: what no answer may come from, see ``Hides``.
            number: of the generation that the server answers from. Another one here means that
                this replica has to look for a newer one first.
        """
        try:
            if self._engine.number != number:
                self._look_for_newer()
            with self._withheld(hidden), self._modes[mode], self._engine.using() as loaded:
                answers = loaded.answerers[mode].answer(questions)
                return Heard(loaded.known.number, tuple(answers))
        except MemoDistError as error:
            return Heard(self._engine.number, error=error)

    def _look_for_newer(self) -> None:
        try:
            self._engine.refresh()
        except MemoDistError as error:  # no fault of the question, and its paths are not for users
            raise RunError(f"a replica cannot load the memory: {error}") from error

    def refresh(self) -> Heard:
        """Answer from the generation that holds, once it is loaded beside the one before."""
        error = None
        try:
            self._engine.refresh()
        except MemoDistError as found:
            error = found
        return Heard(self._engine.number, error=error)

    def check_health(self) -> None:
        """Called by Ray Serve: end the application of a server that was killed."""
        if _ended(self._job):
            serve.delete(self._application, _blocking=False)

    @contextmanager
    def _withheld(self, hidden: Mapping[str, str]) -> Iterator[None]:
        with self._lock:
            self._asked.append(hidden)
        try:
            yield
        finally:
            with self._lock:
                self._asked = [one for one in self._asked if one is not hidden]

    def _hidden(self) -> Mapping[str, str]:
        """What any of the batches in progress must not be answered from."""
        found: dict[str, str] = {}
        with self._lock:
            for name, content in (row for one in self._asked for row in one.items()):
                found[name] = content if found.get(name, content) == content else ""
        return found


def _listen_on_the_loopback() -> None:
    open_port = getattr(of_ray, _PORT_OPENER, None)
    if open_port is None:
        raise RunError(
            "this version of Ray opens the port of a replica in an unknown way, perhaps for other"
            " machines: install the version of constraints.txt, or set serve.replicas=0"
        )

    def opened(server: Any, address: str) -> Any:
        return open_port(server, f"127.0.0.1:{address.rpartition(':')[2]}")

    setattr(of_ray, _PORT_OPENER, opened)


def _ended(job: str) -> bool:
    return any(row["JobID"] == job and row["IsDead"] for row in state.jobs())
