"""Findings for whoever must approve a machine: what listens where, tokens, modes, locks."""

from __future__ import annotations

import errno
import fcntl
import ipaddress
import os
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from memo_dist.cluster import ray_token
from memo_dist.doctor.types import Finding

_LISTENS = "0A"
"""The state of a socket in /proc/net/tcp."""
_SHOWN = 8
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)


def security() -> Iterator[Finding]:
    """Look at this user's listening ports, Ray's token, the umask and locks of this folder."""
    yield from _listening()
    yield from _token()
    yield _umask()
    yield from _locks(Path.cwd())


def _listening() -> Iterator[Finding]:
    """Ports on which this user's processes listen for more than this machine."""
    names = _names_of_sockets()
    places: dict[str, set[int]] = defaultdict(set)
    for name in ("tcp", "tcp6"):
        table = Path(f"/proc/net/{name}")
        if not table.exists():
            yield Finding("ok", "listening", "not known here: no /proc/net")
            return
        for line in table.read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == _LISTENS and words[9] in names and not _is_loopback(words[1]):
                places[names[words[9]]].add(int(words[1].rpartition(":")[2], 16))
    if not places:
        yield Finding("ok", "listening", "no process of yours is open to other machines")
        return
    shown = [
        f"{command} {', '.join(map(str, sorted(ports)))}"
        for command, ports in sorted(places.items())[:_SHOWN]
    ]
    more = f"; {len(places) - _SHOWN} more" if len(places) > _SHOWN else ""
    yield Finding(
        "warn", "listening", f"open to other machines: {'; '.join(shown)}{more}; use a firewall"
    )


def _names_of_sockets() -> dict[str, str]:
    """{socket's inode: command} of this user's processes."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # gone meanwhile, or another user's
            if entry.stat().st_uid != os.getuid():
                continue
            command = (entry / "comm").read_text().strip()
            for file in (entry / "fd").iterdir():
                target = str(file.readlink())
                if target.startswith("socket:["):
                    found[target[8:-1]] = command
    return found


def _is_loopback(local: str) -> bool:
    """Of an address as /proc/net has it: 32-bit words in this machine's order of bytes."""
    digits = local.rpartition(":")[0]
    words = [int(digits[i : i + 8], 16) for i in range(0, len(digits), 8)]
    packed = b"".join(word.to_bytes(4, "little") for word in words)
    address = ipaddress.ip_address(packed)
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        return address.ipv4_mapped.is_loopback
    return address.is_loopback


def _token() -> Iterator[Finding]:
    mode = os.environ.get(ray_token.MODE)
    if mode is not None and mode.lower() != "token":
        yield Finding(
            "bad",
            "ray token",
            f"{ray_token.MODE}={mode} switches Ray's authentication off: unset it",
        )
        return
    file = ray_token.token_file()
    if os.environ.get(ray_token.TOKEN):
        yield Finding("ok", "ray token", f"in {ray_token.TOKEN}")
    elif file is None:
        yield Finding("ok", "ray token", "none: enough for this machine; a cluster needs one")
    elif ray_token.readable_by_others(file):
        yield Finding("warn", "ray token", f"{file} can be read by others: chmod 600 {file}")
    else:
        yield Finding("ok", "ray token", f"{file}, for you alone")


def _umask() -> Finding:
    current = os.umask(0o077)
    os.umask(current)
    text = f"{current:04o}; runs are closed to others whatever it is"
    if not current & 0o002:
        return Finding("warn", "umask", f"{text}, but other files of yours can be changed by all")
    return Finding("ok", "umask", text)


def _locks(folder: Path) -> Iterator[Finding]:
    """Whether the file system of a folder has the locks that keep a run to one writer."""
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".tmp-lock-") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _NO_LOCKS:
            yield Finding(
                "warn", "locks", f"the file system of {folder} has no flock: mount it with flock"
            )
        else:
            yield Finding("warn", "locks", f"{folder} cannot be written: not tried")
    else:
        yield Finding("ok", "locks", f"flock works in {folder}")
