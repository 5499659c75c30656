"""Texts that ``update --replace`` takes out of the corpus, as fingerprints, until it has ended.

Until then the memory still has the revision before, whose text stands nowhere any more. A
``forget`` that comes before the update has ended (or in place of it, where the new text makes it
fail) searches for these words too. The file holds ids and salted hashes, no text.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict
from pathlib import Path

from memo_dist.change.difference import bank_documents
from memo_dist.change.fingerprint import Fingerprint
from memo_dist.corpus.manifest import iter_documents
from memo_dist.errors import DamagedFileError
from memo_dist.io import atomic
from memo_dist.io.runfolder import RunFolder
from memo_dist.memory.manifest import load_manifest

FILE = "replaced.json"
Kept = dict[str, tuple[str, Fingerprint]]
"""{document: (content hash, fingerprint)} of the revision that the memory has."""


def keep_replaced(run: RunFolder, ids: Collection[str]) -> None:
    """Write what the documents ``ids`` say in the memory's revision, where the corpus still has it.

    Raises:
        UsageError: the bank, the corpus or the file is damaged.
    """
    if not ids:
        return
    bank, kept = bank_documents(load_manifest(run.memory)), load_replaced(run.generations)
    fresh = {
        one.id: (one.content_hash, Fingerprint.of(f"{one.title}\n{one.text}"))
        for one in iter_documents(run.corpus)
        if one.id in ids and one.content_hash == bank.get(one.id)
    }
    rows = {n: {"hash": h, "fingerprint": asdict(p)} for n, (h, p) in {**kept, **fresh}.items()}
    if fresh:
        atomic.write_json(run.generations / FILE, rows)


def load_replaced(folder: Path) -> Kept:
    """What :func:`keep_replaced` wrote into the folder of the generations.

    Raises:
        UsageError: the file is damaged.
    """
    path = folder / FILE
    if not path.exists():
        return {}
    try:
        return {
            name: (row["hash"], Fingerprint.from_json(row["fingerprint"]))
            for name, row in atomic.read_json(path).items()
        }
    except (KeyError, TypeError) as error:
        raise DamagedFileError.of(path, f"it does not hold what it should ({error!r})") from error


def clear_replaced(folder: Path) -> None:
    """The memory has the corpus' revision of every document."""
    (folder / FILE).unlink(missing_ok=True)
