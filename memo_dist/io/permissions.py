"""Who may read what a run writes: its owner alone, or a group too; never everybody.

Documents, journals, transcripts and weights all hold what the documents say, so one rule holds for
the whole folder.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_BASE = "base"
_SHARED_BITS = stat.S_ISGID
"""Kept on folders: files inside then get the folder's group."""


def mask(group_readable: bool) -> int:
    """The umask of a process that writes into a run."""
    return 0o027 if group_readable else 0o077


@contextmanager
def creating(group_readable: bool) -> Iterator[None]:
    """New files and folders of this process, and of those that it starts, are closed to others."""
    before = os.umask(mask(group_readable))
    try:
        yield
    finally:
        os.umask(before)


def make_folder(path: Path, group_readable: bool) -> None:
    """Make a folder that is closed to others; those above it get the user's own modes.

    Raises:
        OSError: it cannot be made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with creating(group_readable):
        path.mkdir(exist_ok=True)


def settle(
    root: Path, group_readable: bool, removed: Callable[[str], bool] = lambda path: False
) -> None:
    """Give everything below ``root`` the modes of the run; what belongs to others stays.

    Files of an earlier version, of a library that has modes of its own, and of a cluster's workers
    become like all others; so does everything when ``run.group_readable`` changes.

    Args:
        root: the run.
        group_readable: ``run.group_readable``.
        removed: called before with each entry below ``root``, in the same walk; True: it is gone.
    """
    closed = mask(group_readable)
    for folder, folders, names in os.walk(root):
        _set(folder, 0o777 & ~closed, _SHARED_BITS)
        folders[:] = [name for name in folders if not removed(f"{folder}/{name}")]
        for path in (f"{folder}/{name}" for name in names):
            if not removed(path):
                _set(path, 0o666 & ~closed, 0)


def _set(path: str, mode: int, kept: int) -> None:
    with suppress(OSError):  # gone meanwhile, or another user's
        found = os.lstat(path)
        if stat.S_ISLNK(found.st_mode) or _is_public_base(path, found):
            return
        new = mode | (found.st_mode & kept)
        if stat.S_IMODE(found.st_mode) != new:
            Path(path).chmod(new)


def _is_public_base(path: str, found: os.stat_result) -> bool:
    """A link to a base model outside the run, which others may use and which holds no documents."""
    return stat.S_ISREG(found.st_mode) and found.st_nlink > 1 and Path(path).parent.name == _BASE
