"""Relative paths that others wrote: keys of objects, and the names in a manifest of a copy."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Collection
from pathlib import PurePosixPath

_ACTING = ("Cc", "Cs", "Zl", "Zp")
"""Unicode categories: control characters, halves of pairs, separators of lines."""
_MOST_BYTES = 4096
_MOST_PART_BYTES = 255
"""Of a path and of one of its parts in UTF-8: the limits of Linux."""


def objection(path: str) -> str:
    """Why a path must not name a file below a folder here; empty: it may."""
    if any(part in ("", ".", "..") for part in path.split("/")):
        return "it is absolute, or has an empty part, '.' or '..'"
    if any(unicodedata.category(character) in _ACTING for character in path):
        return "it has control characters"
    data = path.encode()
    if len(data) >= _MOST_BYTES or max(map(len, data.split(b"/"))) > _MOST_PART_BYTES:
        return f"it has {_MOST_BYTES} bytes or more, or a part of more than {_MOST_PART_BYTES}"
    return ""


def colliding(paths: Collection[str]) -> set[str]:
    """Paths that another one equals after Unicode normalisation (NFC)."""
    uses = Counter(unicodedata.normalize("NFC", path) for path in paths)
    return {path for path in paths if uses[unicodedata.normalize("NFC", path)] > 1}


def below_files(paths: Collection[str]) -> set[str]:
    """Paths that are also a folder of another one: both cannot exist on a disk."""
    folders = {str(folder) for path in paths for folder in PurePosixPath(path).parents}
    return folders.intersection(paths)
