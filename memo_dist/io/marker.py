"""Markers: JSON files, written last, that name the files beside them with their SHA-256.

``COMPLETE`` is the marker of a whole folder and also has every file's size. Other markers
(``bank.json``, ``gate.json``, ``activations.json``, manifests) have the field ``sha256`` among
others. Sizes tell a torn file at once; hashes tell silent damage (flipped bits, blocks of zeros),
and are compared whenever the files are read.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from memo_dist.errors import RunError
from memo_dist.io import atomic
from memo_dist.io.hashing import hash_file, hash_value

logger = logging.getLogger(__name__)

COMPLETE = "COMPLETE"
HASHES = "sha256"
"""Field of a marker: {path relative to the marker's folder: SHA-256}."""
CHECK = "check"
"""Field of a marker: hash of its other fields."""
_DIGESTS = "digests-"
_THREADS = 4
GIB = 2**30


def hashes(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """SHA-256 of those of a folder's files that are there, by name: a marker's field."""
    return {name: hash_file(folder / name) for name in names if (folder / name).is_file()}


def note_hashes(folder: Path, writer: int, names: Iterable[str]) -> None:
    """Hash what one of several writers wrote, so that :func:`mark_complete` need not.

    Args:
        folder: that will be marked.
        writer: its number (the rank).
        names: its files.
    """
    atomic.write_json(folder / f"{_DIGESTS}{writer}.json", hashes(folder, names))


def mark_complete(folder: Path) -> None:
    """Flush every file of a folder to the disk and write its marker."""
    sizes, digests = {}, {}
    noted: dict[str, str] = {}
    for path in folder.glob(f"{_DIGESTS}*.json"):
        noted |= atomic.read_json(path)
    for file in sorted(p for p in folder.rglob("*") if p.is_file() and p.name != COMPLETE):
        name = str(file.relative_to(folder))
        with file.open("rb") as stream:
            os.fsync(stream.fileno())
        sizes[name] = file.stat().st_size
        digests[name] = noted.get(name) or hash_file(file)
    values = {"files": sizes, HASHES: digests}
    atomic.write_json(folder / COMPLETE, {**values, CHECK: hash_value(values)})


def check_holds(row: Mapping[str, Any]) -> bool:
    """Whether a marker's contents are those that its own hash names; it may have none."""
    own = {name: value for name, value in row.items() if name != CHECK}
    return CHECK not in row or row[CHECK] == hash_value(own)


def is_complete(folder: Path) -> bool:
    """Whether the marker is there and every file has the size that it names."""
    marker = folder / COMPLETE
    if not marker.exists():
        return False
    sizes: dict[str, int] = atomic.read_json(marker)["files"]
    files = {name: folder / name for name in sizes}
    return all(
        files[name].is_file() and files[name].stat().st_size == sizes[name] for name in sizes
    )


def damage(
    marker: Path, limit_gb: float = 0.0, part: tuple[int, int] = (0, 1), only: str = ""
) -> list[str]:
    """What is wrong with the files that a marker names, a line each; empty: nothing.

    Args:
        marker: an earlier version's has no hashes and proves nothing.
        limit_gb: larger files (GiB) are not hashed, which is logged; 0: all are.
        part: (i, n): only the i-th of n parts of the files, for ranks that share the work.
        only: the file to look at; "": all.

    Raises:
        UsageError: the marker itself cannot be read.
    """
    row = atomic.read_json(marker)
    if not check_holds(row):
        return [f"{marker} is damaged: its contents are not those that memo-dist wrote"]
    named: Mapping[str, str] = row.get(HASHES, {})
    mine = sorted(name for name in named if only in ("", name))[part[0] :: part[1]]
    paths = {name: marker.parent / name for name in mine}
    lines = [f"{path} is missing" for path in paths.values() if not path.is_file()]
    found = {name: path for name, path in paths.items() if path.is_file()}
    large = {n for n, p in found.items() if limit_gb and p.stat().st_size > limit_gb * GIB}
    if large:
        logger.warning(
            "%s: not hashed, as memory.hashed_gb=%g: %s",
            marker.parent,
            limit_gb,
            ", ".join(sorted(large)),
        )
    hashed = [name for name in found if name not in large]
    with ThreadPoolExecutor(_THREADS) as pool:  # hashlib works outside of Python's lock
        digests = pool.map(lambda name: hash_file(found[name]), hashed)
    for name, digest in zip(hashed, digests, strict=True):
        if digest != named[name]:
            lines.append(
                f"{found[name]} is damaged: SHA-256 {digest[:16]},"
                f" {marker.name} says {named[name][:16]}"
            )
    return lines


def require_whole(markers: Iterable[Path], advice: str, limit_gb: float = 0.0) -> None:
    """Refuse damaged files; markers that are not there prove nothing.

    Args:
        markers: see :func:`damage`.
        advice: what to do; ends the message.
        limit_gb: see :func:`damage`.

    Raises:
        RunError: names every damaged file.
    """
    lines = [line for path in markers if path.exists() for line in damage(path, limit_gb)]
    if lines:
        raise RunError("\n  ".join(lines) + f"; {advice}")


@contextmanager
def checked_while(check: Callable[[], None]) -> Iterator[None]:
    """Run ``check`` in a thread while the block reads the same files.

    What it raises comes first: an error of the block may be a consequence of the damage.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="hash") as pool:
        checking = pool.submit(check)
        try:
            yield
        finally:
            checking.result()
