"""Which files a corpus has: found, checked, named and hashed, before any is read."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from memo_dist.corpus.stored import StoredCorpus
from memo_dist.corpus.types import Quarantined
from memo_dist.corpus.wrapping import COMPRESSED
from memo_dist.errors import UsageError
from memo_dist.io.hashing import hash_file, hash_value
from memo_dist.io.store import Place, StoreUrl

DOCUMENT_SUFFIXES = (".txt", ".md", ".mdx", ".rst", ".adoc", ".html", ".docx", ".pdf", ".csv")
ROW_SUFFIXES = (".jsonl", ".parquet")
SUFFIXES = (*DOCUMENT_SUFFIXES, *ROW_SUFFIXES)
_ALIASES = {
    **{".htm": ".html", ".xhtml": ".html", ".markdown": ".md", ".text": ".txt"},
    **{".rest": ".rst", ".asciidoc": ".adoc", ".asc": ".adoc", ".tsv": ".csv"},
    **{".ndjson": ".jsonl", ".jsonlines": ".jsonl"},
}
_HIDDEN = re.compile(r"(?:[^/]*/)*?\.[^/]*")
"""A path up to its first hidden part: of what a hidden folder holds, the folder is counted."""


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file of a corpus.

    Attributes:
        path: where it is on this machine (of an object in a store: where it would be).
        origin: its path relative to the corpus root, with ``/``.
        suffix: one of :data:`SUFFIXES`.
        document_id: the id of its document (files of rows bring their own).
    """

    path: Path
    origin: str
    suffix: str
    document_id: str


@dataclass(frozen=True, slots=True)
class Listing:
    """The files of a corpus in reading order.

    Attributes:
        files: readable files, sorted by origin.
        quarantined: files that must not or cannot be opened.
        skipped: files left out by design: ``hidden`` ones, and by suffix (``.png``) those of
            kinds that cannot be read.
        single: whether the corpus is one file rather than a folder.
        stored: where the files are fetched from; None: they are on this machine.
    """

    files: list[SourceFile]
    quarantined: list[Quarantined]
    skipped: dict[str, int]
    single: bool
    stored: StoredCorpus | None = None


@dataclass(slots=True)
class _Found:
    paths: list[tuple[str, Path]] = field(default_factory=list)
    quarantined: list[Quarantined] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)


def list_source(source: Place) -> Listing:
    """List the files of a corpus folder (recursively), or the one file; also in an object store.

    Raises:
        UsageError: nothing is there, or nothing of a kind that can be read.
        RunError: a store does not answer.
    """
    found = _Found()
    stored, single = None, True
    if isinstance(source, StoreUrl):
        stored = StoredCorpus(source)
        single = stored.single
        _sort_objects(stored, found)
    elif not source.exists():
        raise UsageError(f"corpus {str(source)!r} does not exist; check the path")
    elif source.is_dir():
        single = False
        _walk(source, found)
    else:
        _sort_out(source.name, source, found)
    if not found.paths and not found.quarantined:
        left = ", ".join(f"{reason} {n}" for reason, n in sorted(found.skipped.items()))
        raise UsageError(
            f"corpus {str(source)!r} holds no readable file ({left or 'it is empty'}); "
            f"readable are {' '.join(SUFFIXES)}"
        )
    files = _with_ids(sorted(found.paths))
    return Listing(files, found.quarantined, dict(found.skipped), single, stored)


def source_state(listing: Listing) -> list[dict[str, Any]]:
    """The SHA-256 of every file: what tells whether a corpus changed.

    Content is hashed, not times, so that a copied or freshly cloned corpus is the same.
    """
    if listing.stored:
        return listing.stored.state([file.origin for file in listing.files])
    return [{"path": file.origin, "sha256": _hash(file.path)} for file in listing.files]


def state_hash(state: list[dict[str, Any]]) -> str:
    """One hash of a :func:`source_state`, wherever the files are."""
    return hash_value([{"path": row["path"], "sha256": row["sha256"]} for row in state])


def _hash(path: Path) -> str:
    try:
        return hash_file(path)
    except OSError:
        return "unreadable"


def _walk(root: Path, found: _Found) -> None:
    """Walk without following links to folders: what they show inside is listed anyway."""
    inside = root.resolve()
    for path in _entries(root, found):
        name = os.fsencode(path.relative_to(root).as_posix())  # whatever the locale's encoding is
        origin = name.decode("utf-8", "backslashreplace")
        if path.name.startswith("."):
            found.skipped["hidden"] += 1
        elif origin.encode() != name:
            found.quarantined.append(Quarantined(origin, "bad_name", "the name is not UTF-8"))
        elif not path.is_symlink():
            _sort_out(origin, path, found)
        elif not path.exists():
            found.quarantined.append(Quarantined(origin, "broken_link", "its target is missing"))
        elif not path.resolve().is_relative_to(inside):
            detail = "the link leaves the corpus folder; copy the file instead"
            found.quarantined.append(Quarantined(origin, "outside_link", detail))
        elif path.is_file():
            _sort_out(origin, path, found)


def _entries(root: Path, found: _Found) -> Iterator[Path]:
    """Files and links below ``root``; of hidden folders only the folder itself."""

    def refused(error: OSError) -> None:
        place = Path(os.fsdecode(error.filename)).relative_to(root).as_posix()
        shown = os.fsencode(place).decode("utf-8", "backslashreplace")
        detail = f"the folder cannot be read: {error.strerror or error}"
        found.quarantined.append(Quarantined(shown, "unreadable", detail))

    for folder, subfolders, names in os.walk(root, onerror=refused, followlinks=False):
        here = Path(folder)
        hidden = [name for name in subfolders if name.startswith(".")]
        links = [name for name in subfolders if (here / name).is_symlink()]
        subfolders[:] = sorted(set(subfolders) - set(hidden) - set(links))
        for name in sorted({*hidden, *links, *names}):
            yield here / name


def _sort_out(origin: str, path: Path, found: _Found) -> None:
    if not path.is_file():  # a pipe or a device would block or never end
        found.quarantined.append(Quarantined(origin, "not_a_file", "not a regular file"))
    else:
        _sort_by_kind(origin, path, found)


def _sort_objects(stored: StoredCorpus, found: _Found) -> None:
    """As :func:`_walk` does with a folder of the same files."""
    found.quarantined += stored.quarantined
    hidden = set()
    for origin in stored.origins:
        match = None if stored.single else _HIDDEN.match(origin)
        if match:
            hidden.add(match[0])
        else:
            _sort_by_kind(origin, Path(origin), found)
    if hidden:
        found.skipped["hidden"] += len(hidden)


def _sort_by_kind(origin: str, path: Path, found: _Found) -> None:
    if _suffix(path) in SUFFIXES:
        found.paths.append((origin, path))
    else:
        found.skipped[_kind(path)] += 1


def _kind(path: Path) -> str:
    """The suffix of a file that cannot be read, as it is counted."""
    suffix = _unpacked(path).suffix.lower()
    return suffix if re.fullmatch(r"\.[a-z0-9_+-]{1,16}", suffix) else "no known suffix"


def _unpacked(path: Path) -> Path:
    """The name without the suffix of its compression (``a.md.gz`` is ``a.md``)."""
    packed = path.suffix.lower() in COMPRESSED and path.with_suffix("").suffix
    return path.with_suffix("") if packed else path


def _suffix(path: Path) -> str:
    suffix = _unpacked(path).suffix.lower()
    return _ALIASES.get(suffix, suffix)


def _with_ids(paths: list[tuple[str, Path]]) -> list[SourceFile]:
    """Name the documents: stem if unique, else path without suffix, else the whole path."""
    candidates = [_names(origin) for origin, path in paths if _suffix(path) in DOCUMENT_SUFFIXES]
    uses = Counter(name for names in candidates for name in set(names))
    files = []
    for origin, path in paths:
        unique = [name for name in _names(origin) if uses[name] == 1]
        files.append(SourceFile(path, origin, _suffix(path), unique[0] if unique else origin))
    return files


def _names(origin: str) -> tuple[str, str]:
    # NFC: macOS stores names decomposed, and an id must not depend on the machine.
    path = _unpacked(Path(unicodedata.normalize("NFC", origin)))
    return path.stem, path.with_suffix("").as_posix()
