"""What changed between the documents that a bank knows and those of a corpus."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from memo_dist.corpus.diff import diff_hashes
from memo_dist.corpus.manifest import located_documents
from memo_dist.memory.manifest import BankManifest

_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Difference:
    """Document ids by fate, each sorted.

    Attributes:
        added, removed, changed, unchanged: by id; changed ones have another content hash.
        renamed: (old id, new id) of documents whose content has another id now.
    """

    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: tuple[str, ...]
    renamed: tuple[tuple[str, str], ...]
    unchanged: tuple[str, ...]

    @property
    def empty(self) -> bool:
        """Whether nothing differs."""
        return not (self.added or self.removed or self.changed or self.renamed)

    def touched(self) -> set[str]:
        """Every id, old or new, whose document differs."""
        renamed = (name for pair in self.renamed for name in pair)
        return {*self.added, *self.removed, *self.changed, *renamed}

    def lines(self) -> Iterator[str]:
        """For people: counts, and the first ids of each kind."""
        pairs = tuple(f"{old} -> {new}" for old, new in self.renamed)
        kinds = {"added": self.added, "changed": self.changed, "removed": self.removed}
        for name, ids in {**kinds, "renamed": pairs}.items():
            if ids:
                more = f" and {len(ids) - _SHOWN} more" if len(ids) > _SHOWN else ""
                yield f"{len(ids)} {name}: {', '.join(ids[:_SHOWN])}{more}"
        yield f"{len(self.unchanged)} unchanged"


def difference(before: Mapping[str, str], after: Mapping[str, str]) -> Difference:
    """Compare two maps from document id to content hash."""
    changes = diff_hashes(dict(before), dict(after))
    homes: dict[str, list[str]] = {}
    for name in changes.added:
        homes.setdefault(after[name], []).append(name)
    renamed = []
    for name in changes.removed:
        if homes.get(before[name]):
            renamed.append((name, homes[before[name]].pop(0)))
    old, new = {pair[0] for pair in renamed}, {pair[1] for pair in renamed}
    return Difference(
        added=tuple(name for name in changes.added if name not in new),
        removed=tuple(name for name in changes.removed if name not in old),
        changed=tuple(changes.changed),
        renamed=tuple(renamed),
        unchanged=tuple(changes.unchanged),
    )


def bank_documents(manifest: BankManifest) -> dict[str, str]:
    """{id: content hash} of the documents that a bank was trained on."""
    return {row.id: row.hash for entry in manifest.shards for row in entry.documents}


def corpus_documents(folder: Path) -> dict[str, str]:
    """{id: content hash} of the documents of a corpus folder."""
    return {row.document.id: row.document.content_hash for row in located_documents(folder)}
