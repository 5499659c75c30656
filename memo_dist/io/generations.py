"""Generations of a folder: complete copies side by side, of which a pointer file names one.

    memory/           generation 0: what a folder holds before its first change
    memory/gen-<n>/   later ones
    memory/CURRENT    which one holds; missing: generation 0

A new generation is built beside the one that holds, and :func:`switch` replaces the pointer in one
rename. A crash at any moment leaves the old generation or the new one.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from memo_dist.errors import UsageError
from memo_dist.io import atomic
from memo_dist.io.checked_lines import from_line, to_line

POINTER = "CURRENT"
_NAME = re.compile(r"gen-([1-9]\d*)")
_REMOVED = f"{atomic.TEMP_PREFIX}removed-"
"""Prefix of a generation that is being removed."""


def current_number(folder: Path) -> int:
    """The number of the generation that holds in ``folder``.

    Raises:
        UsageError: the pointer is damaged, or names what is not there.
    """
    path = folder / POINTER
    try:
        row = from_line(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return 0
    number = row.get("generation") if row else None
    if not isinstance(number, int) or number < 1:
        found = ", ".join(generation(folder, n).name for n in numbers(folder) if n) or "none"
        raise UsageError(
            f"{path} is damaged: it names no generation (there: {found}); bring it back from a"
            " copy, or remove it and run `memo-dist export` again"
        )
    if not generation(folder, number).is_dir():
        raise UsageError(f"{path} names generation {number}, which is not in {folder}")
    return number


def generation(folder: Path, number: int) -> Path:
    """The folder of a generation; number 0 is ``folder`` itself."""
    return folder / f"gen-{number}" if number else folder


def numbers(folder: Path) -> list[int]:
    """The numbers of the generations in ``folder``, ascending, unfinished ones included."""
    names = (path.name for path in folder.glob("gen-*"))
    found = (_NAME.fullmatch(name) for name in names)
    return [0, *sorted(int(match[1]) for match in found if match)]


def switch(folder: Path, number: int) -> None:
    """Let a complete generation hold from now on."""
    atomic.write_bytes(folder / POINTER, to_line({"generation": number}))


def prune(
    folder: Path, keep: int, marker: str, parts: Sequence[str], force: bool = False
) -> list[int]:
    """Remove generations before the one that holds.

    Args:
        folder: of the generations.
        keep: how many stay, the one that holds included.
        marker: name of the file that readers hold, see :func:`held`.
        parts: globs of what generation 0 has beside its marker.
        force: remove also those that a reader holds.

    Returns:
        Numbers of old generations that stay because a reader holds them.
    """
    for path in folder.glob(f"{_REMOVED}*"):
        shutil.rmtree(path)
    last = current_number(folder) - keep
    old = [n for n in numbers(folder) if n <= last and (generation(folder, n) / marker).exists()]
    in_use = [n for n in old if not force and _is_held(generation(folder, n) / marker)]
    for number in old:
        if number not in in_use:
            _remove(folder, number, marker, parts)
    return in_use


def _remove(folder: Path, number: int, marker: str, parts: Sequence[str]) -> None:
    """Remove a generation; one that is half removed is seen as removed, or removed again."""
    path = generation(folder, number)
    if number:
        hidden = path.with_name(f"{_REMOVED}{path.name}")
        path.rename(hidden)
        shutil.rmtree(hidden)
        return
    for part in (part for pattern in parts for part in path.glob(pattern)):
        if part.is_dir():
            shutil.rmtree(part)
        else:
            part.unlink()
    (path / marker).unlink()


@contextmanager
def held(folder: Path, marker: str) -> Iterator[None]:
    """Keep a generation from being pruned while the block lasts.

    File systems without locks keep nothing: there ``memory.keep_generations`` alone decides.
    """
    with (folder / marker).open("rb") as stream:
        with suppress(OSError):
            fcntl.flock(stream, fcntl.LOCK_SH)
        yield


def _is_held(path: Path) -> bool:
    with path.open("rb") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False
    return False


def link_folder(source: Path, target: Path) -> None:
    """Make ``target`` a folder of the same files, by hard links where the file system has them.

    Files of generations are replaced, never written in place: a link is as good as a copy.
    """
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target, copy_function=link_file)
    atomic.fsync_folder(target)


def link_file(source: str, target: str) -> None:
    """Make ``target`` the same file as ``source``, or a copy where there are no links."""
    try:
        os.link(source, target)
    except OSError:  # no links here, or too many of one file
        shutil.copyfile(source, target)
        with open(target, "rb") as stream:  # noqa: PTH123 - copytree gives names
            os.fsync(stream.fileno())
