"""Markers: JSON files, written last, that name the files beside them with their SHA-256.

``COMPLETE`` is the marker of a whole folder and also has every file's size. Other markers
(``bank.json``, ``gate.json``, ``activations.json``, manifests) have the field ``sha256`` among
others. Sizes tell a torn file at once; hashes tell silent damage (flipped bits, blocks of zeros),
and are compared whenever the files are read.

Markers of large files name a second hash of each, XXH3, which takes a twentieth of the time: it is
what is compared before files are used. ``status`` and ``verify`` compare SHA-256.
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
from memo_dist.io.hashing import SHA256, XXH3, file_digests, hash_file, hash_value

logger = logging.getLogger(__name__)

COMPLETE = "COMPLETE"
HASHES, FAST = SHA256, XXH3
"""Fields of a marker: {path relative to the marker's folder: hash of this kind}."""
_NAMES = {HASHES: "SHA-256", FAST: "XXH3"}
CHECK = "check"
"""Field of a marker: hash of its other fields."""
_DIGESTS = "digests-"
_THREADS = 4
GIB = 2**30


def hashes(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """SHA-256 of those of a folder's files that are there, by name: a marker's field."""
    return {name: hash_file(folder / name) for name in names if (folder / name).is_file()}


def both_hashes(folder: Path, names: Iterable[str]) -> dict[str, dict[str, str]]:
    """Both fields of a marker of large files, each file read once."""
    found = {name: file_digests(folder / name) for name in names}
    return {kind: {name: row[kind] for name, row in found.items()} for kind in _NAMES}


def note_hashes(folder: Path, writer: int, names: Iterable[str]) -> None:
    """Hash what one of several writers wrote, so that :func:`mark_complete` need not.

    Args:
        folder: that will be marked.
        writer: its number (the rank).
        names: its files.
    """
    atomic.write_json(folder / f"{_DIGESTS}{writer}.json", both_hashes(folder, names))


def mark_complete(folder: Path) -> None:
    """Flush every file of a folder to the disk and write its marker."""
    files = [p for p in sorted(folder.rglob("*")) if p.is_file() and p.name != COMPLETE]
    sizes = {}
    for file in files:
        with file.open("rb") as stream:
            os.fsync(stream.fileno())
        sizes[str(file.relative_to(folder))] = file.stat().st_size
    noted: dict[str, dict[str, str]] = {kind: {} for kind in _NAMES}
    for path in folder.glob(f"{_DIGESTS}*.json"):
        for kind, row in atomic.read_json(path).items():
            noted[kind] |= row
    rest = both_hashes(folder, (name for name in sizes if name not in noted[HASHES]))
    values = {"files": sizes, **{kind: noted[kind] | rest[kind] for kind in _NAMES}}
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
    marker: Path,
    limit_gb: float = 0.0,
    part: tuple[int, int] = (0, 1),
    only: str = "",
    kind: str = FAST,
) -> list[str]:
    """What is wrong with the files that a marker names, a line each; empty: nothing.

    Args:
        marker: an earlier version's has no hashes and proves nothing.
        limit_gb: larger files (GiB) are not hashed, which is logged; 0: all are.
        part: (i, n): only the i-th of n parts of the files, for ranks that share the work.
        only: the file to look at; "": all.
        kind: the hash to compare; where the marker has no :data:`FAST` one, SHA-256 is.

    Raises:
        UsageError: the marker itself cannot be read.
    """
    row = atomic.read_json(marker)
    if not check_holds(row):
        return [f"{marker} is damaged: its contents are not those that memo-dist wrote"]
    kind = kind if kind in row else HASHES
    named: Mapping[str, str] = row.get(kind, {})
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
    with ThreadPoolExecutor(_THREADS) as pool:  # files are read outside of Python's lock
        digests = pool.map(lambda name: file_digests(found[name], [kind])[kind], hashed)
    for name, digest in zip(hashed, digests, strict=True):
        if digest != named[name]:
            lines.append(
                f"{found[name]} is damaged: {_NAMES[kind]} {digest[:16]},"
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
