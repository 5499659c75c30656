"""The address at which other machines reach this one.

Debian and Ubuntu write ``127.0.1.1 NAME`` into /etc/hosts: a machine then listens on its own
loopback when it listens on its own name, and nobody else can connect.
"""

from __future__ import annotations

import fcntl
import ipaddress
import socket
import struct
from contextlib import closing

from memo_dist.errors import RunError

_OUTSIDE = "192.0.2.1"
"""Of no machine (RFC 5737). Connecting a UDP socket sends nothing, it only chooses a route."""
_SIOCGIFADDR = 0x8915


def own_address(name: str) -> str:
    """An address of this machine that others can reach.

    Args:
        name: of this machine; an address stays as it is.

    Returns:
        The first address of the name outside the loopback; else that of the interface of the
        default route.

    Raises:
        RunError: there is none.
    """
    if _is_address(name):
        return name
    found = [*_resolved(name), *_routed(_OUTSIDE)]
    outside = [address for address in found if not is_loopback(address)]
    if outside:
        return outside[0]
    known = f"is {', '.join(sorted(set(found)))} here" if found else "has no address here"
    raise RunError(
        f"{name} {known}: other machines cannot reach that; give the name the address of the"
        " machines' network in /etc/hosts or the name service (Debian and Ubuntu write 127.0.1.1)"
    )


def is_loopback(address: str) -> bool:
    """Whether only this machine reaches an address."""
    return ipaddress.ip_address(address.partition("%")[0]).is_loopback


def interface_towards(host: str) -> str | None:
    """The interface that reaches ``host``, where this machine's own name does not name one.

    Gloo listens on the address of the machine's name; None: that is right.
    """
    own = _resolved(socket.gethostname())
    if not own or not all(map(is_loopback, own)):
        return None
    addresses = {_address_of(name): name for _, name in socket.if_nameindex()}
    outside = (address for address in _routed(host) if not is_loopback(address))
    return next((addresses[address] for address in outside if address in addresses), None)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _resolved(name: str) -> list[str]:
    """The addresses of a name, IPv4 first."""
    try:
        found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except OSError:
        return []
    ordered = sorted(found, key=lambda entry: entry[0] != socket.AF_INET)
    return list(dict.fromkeys(str(entry[4][0]) for entry in ordered))


def _routed(host: str) -> list[str]:
    """This machine's own address on the way to ``host``; empty where no route leads there."""
    with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as probe:
        try:
            probe.connect((host, 9))
        except OSError:
            return []
        return [str(probe.getsockname()[0])]


def _address_of(interface: str) -> str:
    """The IPv4 address of an interface; "" where it has none."""
    with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as probe:
        try:
            packed = struct.pack("256s", interface.encode()[:15])
            answer = fcntl.ioctl(probe.fileno(), _SIOCGIFADDR, packed)
        except OSError:
            return ""
    return socket.inet_ntoa(answer[20:24])
