"""Tombstones: documents that a bank must not speak of any more, from the moment they are named.

``RUN/memory/tombstones.json`` lists them. It works on every bank that was trained on such a
document, until a generation without it has taken over: an answer of the document's shard counts as
an abstention unless reflections of other documents alone say the same. The file holds ids and
salted hashes, no text.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from memo_dist.errors import UsageError
from memo_dist.io import atomic
from memo_dist.io.hashing import sha256_text
from memo_dist.memory.manifest import BankManifest

FILE_NAME = "tombstones.json"
SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class Tombstone:
    """A document that was forgotten.

    Attributes:
        id: of the document.
        salt: 32 hexadecimal digits.
        hash: SHA-256 of salt and content hash: who has the document can check that it is meant.
        time: of the command, ISO 8601 in UTC.
    """

    id: str
    salt: str
    hash: str
    time: str

    @classmethod
    def of(cls, identity: str, content_hash: str, time: str) -> Tombstone:
        """A new tombstone, with a salt of its own."""
        salt = secrets.token_hex(16)
        return cls(identity, salt, _salted(salt, content_hash), time)

    def means(self, identity: str, content_hash: str) -> bool:
        """Whether it stands for this document; another content under its id is another one."""
        return self.id == identity and self.hash == _salted(self.salt, content_hash)


def _salted(salt: str, content_hash: str) -> str:
    return sha256_text(f"{salt}{content_hash}")


def load_tombstones(folder: Path) -> list[Tombstone]:
    """The tombstones in the folder of a bank's generations.

    Raises:
        UsageError: the file is damaged: nothing may be answered before that is mended.
    """
    path = folder / FILE_NAME
    if not path.exists():
        return []
    try:
        values = atomic.read_json(path)
        if values["schema_version"] != SCHEMA_VERSION:
            raise ValueError(f"schema_version is {values['schema_version']}, not {SCHEMA_VERSION}")
        return [Tombstone(**row) for row in values["documents"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"'{path}' cannot be read ({error!r}): it lists the documents that must not be"
            " answered from; bring it back from a copy, or run `memo-dist forget` again"
        ) from error


def add_tombstones(folder: Path, more: Iterable[Tombstone]) -> None:
    """Write further tombstones; every bank of the run heeds them from here on."""
    everything = [*load_tombstones(folder), *more]
    rows = [asdict(one) for one in everything]
    values = {"schema_version": SCHEMA_VERSION, "documents": rows}
    atomic.write_json(folder / FILE_NAME, values)


def forgotten(tombstones: Sequence[Tombstone], documents: Mapping[str, str]) -> list[str]:
    """Ids of the forgotten ones among ``documents`` ({id: content hash}), sorted."""
    by_id: dict[str, list[Tombstone]] = {}
    for one in tombstones:
        by_id.setdefault(one.id, []).append(one)
    return sorted(
        name
        for name in by_id.keys() & documents.keys()
        if any(one.means(name, documents[name]) for one in by_id[name])
    )


def refuse_forgotten(folder: Path, documents: Mapping[str, str]) -> None:
    """Refuse to take documents ({id: content hash}) back that were forgotten.

    Raises:
        UsageError: names them.
    """
    back = forgotten(load_tombstones(folder), documents)
    if back:
        raise UsageError(
            f"{len(back)} of these documents were forgotten and may not come back:"
            f" {', '.join(back[:5])}; take them out of the corpus"
        )


@dataclass
class Withheld:
    """The forgotten documents of one loaded bank; looks at the file again when it changed.

    Attributes:
        folder: of the bank's generations.
        manifest: of the bank.
    """

    folder: Path
    manifest: BankManifest
    _stamp: tuple[Any, ...] = ()
    _documents: dict[int, frozenset[str]] = field(default_factory=dict)

    @classmethod
    def of_bank(cls, bank: Path, manifest: BankManifest) -> Withheld:
        """For the bank in ``RUN/memory`` or a generation below it."""
        beside = bank.parent if bank.name.startswith("gen-") else bank
        return cls(beside, manifest)

    def documents(self) -> Mapping[int, frozenset[str]]:
        """{shard: its forgotten documents} of the shards that have some.

        Raises:
            UsageError: see :func:`load_tombstones`.
        """
        stamp = self._now()
        if stamp != self._stamp:
            tombstones = load_tombstones(self.folder)
            self._documents = {
                entry.id: frozenset(names)
                for entry in self.manifest.shards
                if (names := forgotten(tombstones, {d.id: d.hash for d in entry.documents}))
            }
            self._stamp = stamp
        return self._documents

    def _now(self) -> tuple[Any, ...]:
        try:
            stat = (self.folder / FILE_NAME).stat()
        except FileNotFoundError:
            return ()
        return (stat.st_ino, stat.st_size, stat.st_mtime_ns)
