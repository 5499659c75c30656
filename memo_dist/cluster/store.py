"""The store in which training ranks meet, on one address instead of on all of a machine's.

torch's ``TCPStore`` listens on every interface and authenticates no client. Here the socket is
opened first, on the address at which the ranks meet alone, and handed to it; a rank that is alone
opens none. What ranks read from a store is never unpickled.
https://github.com/pytorch/pytorch/issues/116486
"""

from __future__ import annotations

import os
import socket
import time
from datetime import timedelta

from torch._C._distributed_c10d import HashStore, PrefixStore, Store, TCPStore

from memo_dist.cluster.address import own_address
from memo_dist.cluster.rendezvous import ranks_missing
from memo_dist.cluster.stop import STOP
from memo_dist.errors import RunError

LOOPBACK = "127.0.0.1"
_AGENT_STORE = "TORCHELASTIC_USE_AGENT_STORE"
_ATTEMPT, _POLL, _FIRST_POLL = 5.0, 0.2, 0.005  # seconds
_UNTRAINED = "nothing was trained yet; run the same command again"


def listening_store(host: str, port: int, world: int, timeout: timedelta) -> TCPStore:
    """A store that others reach at ``host`` only.

    Args:
        host: a name or an address of this machine.
        port: 0 takes a free one; the store's ``port`` says which.
        world: how many will use it.
        timeout: of one of its calls.

    Raises:
        RunError: another process listens there, or ``host`` is no address of this machine.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.create_server(address[:2], family=family, backlog=2048)
    except OSError as error:
        raise RunError(
            f"ranks cannot meet at {host}:{port}: {error.strerror or error}; is another process"
            " there, or is it another machine's address?"
        ) from error
    port = listening.getsockname()[1]
    return TCPStore(
        host,
        port,
        world,
        is_master=True,
        timeout=timeout,
        wait_for_workers=False,
        master_listen_fd=listening.detach(),
    )


def rank_store(timeout: timedelta, seconds: float) -> Store:
    """The store of the rank environment, once all ranks have come to it.

    Rank 0 opens it, unless torchrun's agent has; the agent keeps it when it starts ranks again, so
    each attempt has keys of its own.

    Args:
        timeout: of one of its calls, later on.
        seconds: how long to wait for the ranks.

    Raises:
        RunError: rank 0 cannot open it, or ranks did not come; says have and want.
        StoppedError: a stop was requested meanwhile.
    """
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    agents = os.environ.get(_AGENT_STORE) == str(True)
    if world == 1 and not agents:
        return HashStore()
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    deadline = time.monotonic() + seconds
    if rank == 0 and not agents:
        opened = listening_store(_reachable(host, world), port, world, timeout)
    else:
        opened = _connected(host, port, world, deadline, seconds)
        opened.set_timeout(timeout)
    store = PrefixStore(f"attempt-{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", opened)
    _await_all(store, rank, world, deadline, seconds)
    return store


def _reachable(host: str, world: int) -> str:
    """Where rank 0 listens: on this machine's name, unless ranks come from other machines."""
    alone = int(os.environ.get("LOCAL_WORLD_SIZE") or world) >= world
    return host if alone else own_address(host)


def announce(store: Store, event: str) -> None:
    """Let the ranks go on that wait for ``event`` in :func:`await_event`."""
    store.set(f"event/{event}", "")


def await_event(
    store: Store, event: str, stopped: str = _UNTRAINED, grace: float | None = 0.0
) -> None:
    """Wait for another rank's :func:`announce`, as long as that rank works.

    A collective would end such a wait after its timeout, however well the other rank gets on.

    Args:
        store: where the ranks met.
        event: what is announced.
        stopped: what to say where a stop ends the wait.
        grace: seconds to wait on once a stop is requested; None: to the end.

    Raises:
        RunError: the store is gone, and so is the rank that keeps it.
        StoppedError: a stop was requested meanwhile.
    """
    pause, stop_seen = _FIRST_POLL, None
    while not _announced(store, event):
        now = time.monotonic()
        stop_seen = now if STOP() and stop_seen is None else stop_seen
        if grace is not None and stop_seen is not None and now - stop_seen >= grace:
            raise STOP.error(stopped)
        time.sleep(pause)
        pause = min(2 * pause, _POLL)


def _announced(store: Store, event: str) -> bool:
    try:
        return store.check([f"event/{event}"])
    except RuntimeError as error:
        raise RunError(f"rank 0 is gone before it said '{event}'; see its log") from error


def group_store() -> Store:
    """The store of this process' group, however it was made."""
    from torch.distributed import distributed_c10d

    store: Store = distributed_c10d._get_default_store()
    return store


def _connected(host: str, port: int, world: int, deadline: float, seconds: float) -> TCPStore:
    """Connect in short attempts: torch's own wait can be neither stopped nor explained."""
    while True:
        _check_stop()
        left = deadline - time.monotonic()
        if left <= 0:
            raise ranks_missing([0], world, seconds, f"; nothing answers at {host}:{port}")
        try:
            attempt = timedelta(seconds=max(0.1, min(_ATTEMPT, left)))
            return TCPStore(host, port, world, is_master=False, timeout=attempt)
        except RuntimeError:  # torch's errors of the network and of stores are its children
            time.sleep(_POLL)


def _await_all(store: Store, rank: int, world: int, deadline: float, seconds: float) -> None:
    store.set(f"here/{rank}", "")
    missing = list(range(world))
    while missing := [other for other in missing if not store.check([f"here/{other}"])]:
        _check_stop()
        if time.monotonic() >= deadline:
            raise ranks_missing(missing, world, seconds)
        time.sleep(_POLL)


def _check_stop() -> None:
    if STOP():
        raise STOP.error(_UNTRAINED)
