"""How torchrun's agents meet: a fixed first machine, a store on one address, nothing unpickled.

torchrun's own dynamic rendezvous (``c10d``, and with it ``--standalone``) unpickles what stands in
a store that anybody who reaches its port may write: whoever does runs code as the owner of the
training. Its ``static`` one reads plain numbers, but listens on all interfaces and needs each
machine's number. This one listens on the address of the first machine alone, and counts the others
as they come.
"""

from __future__ import annotations

import os
import secrets
import socket
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

from torch._C._distributed_c10d import PrefixStore, Store, TCPStore
from torch.distributed.elastic.rendezvous import (
    RendezvousHandler,
    RendezvousInfo,
    RendezvousParameters,
    RendezvousStoreInfo,
    rendezvous_handler_registry,
)

from memo_dist.cluster.address import own_address
from memo_dist.cluster.store import LOOPBACK, listening_store
from memo_dist.errors import RunError

BACKEND = "memo-dist"
_SECONDS = 600.0
"""Seconds for the other machines to come."""


class StaticMeeting(RendezvousHandler):
    """The rendezvous of one training: all machines once, in the order in which they come."""

    def __init__(self, host: str, port: int, nodes: int, run_id: str, seconds: float) -> None:
        self._host, self._port, self._nodes, self._id = host, port, nodes, run_id
        self._timeout = timedelta(seconds=seconds)
        self._met: tuple[TCPStore, int] | None = None

    def get_backend(self) -> str:
        """Its name."""
        return BACKEND

    @property
    def use_agent_store(self) -> bool:
        """The ranks use the agents' store: no second port."""
        return True

    def next_rendezvous(self) -> RendezvousInfo:
        """Meet the others; again after a restart, at the same place.

        Raises:
            RunError: more machines than ``launch.nodes`` came, or the first is not there.
        """
        if self._met is None:
            self._met = self._meet()
        store, node = self._met
        place = RendezvousStoreInfo(store.host, store.port)
        return RendezvousInfo(PrefixStore(self._id, store), node, self._nodes, place)

    def _meet(self) -> tuple[TCPStore, int]:
        if _is_here(self._host):
            host = own_address(self._host) if self._nodes > 1 else self._host
            return listening_store(host, self._port, self._nodes, self._timeout), 0
        store = TCPStore(self._host, self._port, self._nodes, False, self._timeout)
        node = self._number(PrefixStore(self._id, store))
        return store, node

    def _number(self, store: Store) -> int:
        """This machine's number: they are counted from 1 as they come."""
        node = int(store.add("memo-dist/machines", 1))
        if node >= self._nodes:
            raise RunError(
                f"machine {node + 1} of launch.nodes={self._nodes} came to"
                f" {self._host}:{self._port}: end what is left of an earlier launch, or raise"
                " launch.nodes"
            )
        return node

    def is_closed(self) -> bool:
        """Never: it ends with the agents."""
        return False

    def set_closed(self) -> None:
        """Nothing is kept open for others."""

    def num_nodes_waiting(self) -> int:
        """Machines do not come later."""
        return 0

    def get_run_id(self) -> str:
        """What the keys of this training begin with."""
        return self._id

    def shutdown(self) -> bool:
        """The store ends with the process."""
        return True


def register() -> None:
    """Let torchrun know this rendezvous."""
    rendezvous_handler_registry.register(BACKEND, _handler)


def _handler(parameters: RendezvousParameters) -> RendezvousHandler:
    host, _, port = parameters.endpoint.rpartition(":")
    seconds = float(parameters.get_as_int("timeout", int(_SECONDS)) or _SECONDS)
    return StaticMeeting(host, int(port), parameters.max_nodes, parameters.run_id, seconds)


def one_machine() -> list[str]:
    """torchrun's arguments for ranks on this machine alone: a free port of the loopback."""
    return ["--nnodes=1", *_arguments(f"{LOOPBACK}:0", secrets.token_hex(16))]


def several_machines(endpoint: str, secret: Path) -> list[str]:
    """torchrun's arguments to meet at ``endpoint``, under a name that ``secret`` holds.

    Raises:
        RunError: the file cannot be written.
    """
    return _arguments(endpoint, _shared_id(secret))


def _arguments(endpoint: str, run_id: str) -> list[str]:
    return [f"--rdzv-backend={BACKEND}", f"--rdzv-endpoint={endpoint}", f"--rdzv-id={run_id}"]


def _shared_id(path: Path) -> str:
    """A random name that all machines read in a file of the run, which only its owner may read.

    It is never an argument of a process: those may be read by every user of a machine.
    """
    own = path.with_name(f".tmp-{secrets.token_hex(8)}")
    try:
        if path.parent.parent.is_dir():  # a run that nothing was trained in yet has no train/
            path.parent.mkdir(mode=0o700, exist_ok=True)
        descriptor = os.open(own, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as stream:
            stream.write(secrets.token_hex(16))
            stream.flush()
            os.fsync(stream.fileno())
        with suppress(FileExistsError):
            os.link(own, path)  # the first one of all machines wins
        return path.read_text(encoding="ascii").strip()
    except OSError as error:
        raise RunError(f"{path} cannot be written: {error.strerror}") from error
    finally:
        own.unlink(missing_ok=True)


def _is_here(host: str) -> bool:
    """Whether ``host`` is this machine: one of its addresses can be listened on."""
    found: list[Any] = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)
    family, _, _, _, address = found[0]
    try:
        with socket.create_server(address[:2], family=family):
            return True
    except OSError:
        return False
