"""Whose process ids a number is one of: this machine's and name space's, or those of others."""

from __future__ import annotations

import platform
import zlib
from functools import cache
from pathlib import Path


@cache
def here() -> str:
    """A mark of this machine and its processes' name space, 8 hexadecimal digits.

    Containers of one machine may have its name, and other process ids.
    """
    try:
        space = str(Path("/proc/self/ns/pid").readlink())
    except OSError:  # no /proc
        space = ""
    return f"{zlib.crc32(f'{platform.node()} {space}'.encode()):08x}"


def is_dead(place: object, pid: object) -> bool:
    """Whether a process has ended, as far as that can be seen from here.

    Args:
        place: what :func:`here` was for that process; of another place nothing is known.
        pid: its number there.
    """
    return place == here() and not Path(f"/proc/{pid}").exists()
