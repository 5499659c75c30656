"""A revision of a corpus: a new folder takes the place of the old one, as a whole.

The new corpus is built in a folder beside the old one. Its manifest is written last, so a complete
one can be told from what a crash left; :func:`finish_swap` ends an exchange that was interrupted.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from memo_dist.corpus.manifest import MANIFEST, located_documents
from memo_dist.errors import DamagedFileError
from memo_dist.io import atomic


@dataclass(frozen=True, slots=True)
class Before:
    """What a corpus that is built takes over from the one before it.

    Attributes:
        revision: number of the corpus that is built.
        shards: the bank shard of each document that was there.
    """

    revision: int = 0
    shards: Mapping[str, int] = field(default_factory=dict)


FIRST = Before()
"""Nothing was there."""


def before_revision(folder: Path, revision: int) -> Before:
    """What revision number ``revision`` takes over from the corpus in ``folder``.

    A damaged ``documents.jsonl`` gives what stands before the damage.
    """
    shards: dict[str, int] = {}
    with suppress(FileNotFoundError, DamagedFileError):
        for row in located_documents(folder):
            shards[row.document.id] = row.shard
    return Before(revision, shards)


def next_folder(folder: Path) -> Path:
    """Where the next revision of the corpus in ``folder`` is built."""
    return folder.with_name(f"{folder.name}.next")


def swap(folder: Path) -> None:
    """Put the complete corpus of :func:`next_folder` in the place of ``folder``."""
    folder.rename(_old(folder))
    finish_swap(folder)


def finish_swap(folder: Path) -> None:
    """End an exchange wherever it was interrupted, and remove what an unfinished build left."""
    if not folder.exists() and (next_folder(folder) / MANIFEST).exists():
        next_folder(folder).rename(folder)
        atomic.fsync_folder(folder.parent)
    for path in (_old(folder), next_folder(folder)):
        if folder.exists() and path.exists():
            shutil.rmtree(path)


def _old(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.old")
