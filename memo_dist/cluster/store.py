"""The store in which training ranks meet, on one address instead of on all of a machine's.

torch's ``TCPStore`` listens on every interface and asks nobody who they are. Here the socket is
opened first, on the address at which the ranks meet alone, and handed to it; a rank that is alone
opens none. What ranks read from a store is never unpickled.
https://github.com/pytorch/pytorch/issues/116486
"""

from __future__ import annotations

import os
import socket
from datetime import timedelta

from torch._C._distributed_c10d import HashStore, Store, TCPStore

from memo_dist.errors import RunError

LOOPBACK = "127.0.0.1"
_AGENT_STORE = "TORCHELASTIC_USE_AGENT_STORE"


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


def rank_store(timeout: timedelta) -> Store:
    """The store of the rank environment: rank 0 opens it, unless torchrun's agent has.

    Raises:
        RunError: rank 0 cannot open it.
    """
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    agents = os.environ.get(_AGENT_STORE) == str(True)
    if world == 1 and not agents:
        return HashStore()
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    if rank == 0 and not agents:
        return listening_store(host, port, world, timeout)
    return TCPStore(host, port, world, is_master=False, timeout=timeout)
