"""The corpus stage's files, how to read them, and the shard of a document.

A document's shard is data: it stands in the document's row and stays there through revisions of
the corpus. Only :func:`located_documents` reads it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from memo_dist.corpus.types import Chunk, Document, Quarantined
from memo_dist.errors import UsageError
from memo_dist.io import atomic
from memo_dist.io.hashing import stable_modulo
from memo_dist.io.marker import HASHES, hashes, require_whole

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
DOCUMENTS = "documents.jsonl"
CHUNKS = "chunks.jsonl"
QUARANTINE = "quarantine.jsonl"
SOURCE = "source.jsonl"
_REASONS_SHOWN = 12


@dataclass(frozen=True, slots=True)
class CorpusManifest:
    """What the corpus stage made; written last, so it stands only beside complete files.

    Attributes:
        schema_version: of this file and of the files beside it.
        code_version: memo_dist's version that built them.
        files: readable files in the source.
        documents, chunks, characters: what came out (characters of text).
        left_out: documents beyond ``corpus.max_documents``.
        quarantined: files and rows that did not become documents, by reason.
        skipped: files left out by design: hidden ones, and by suffix those that cannot be read.
        languages: documents by language; an empty name counts those of which none is sure.
        shards: K; ``shard_documents[k]`` is the number of documents in shard k.
        fingerprint: SHA-256 over the sorted (id, content hash) pairs.
        source_hash: SHA-256 over the source files' paths and contents.
        config: the corpus group that it was built with.
        artifacts: size in bytes of each file beside the manifest.
        revision: times that a changed source was accepted since the run began.
    """

    schema_version: int
    code_version: str
    files: int
    documents: int
    chunks: int
    characters: int
    left_out: int
    quarantined: dict[str, int]
    skipped: dict[str, int]
    shards: int
    shard_documents: list[int]
    fingerprint: str
    source_hash: str
    config: dict[str, Any]
    artifacts: dict[str, int]
    revision: int = 0
    languages: dict[str, int] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The content of ``manifest.json``."""
        return asdict(self)

    def summary(self) -> str:
        """One line for people."""
        line = f"{self.documents} documents, {self.chunks} chunks, {self.characters} characters"
        if self.shards > 1:
            line += f", {self.shards} shards"
        return "; ".join([line, *self.remarks()])

    def remarks(self) -> list[str]:
        """What did not become documents, and the documents in other languages than English."""
        parts = [
            f"{name} {sum(counts.values())} ({by_reason(counts)})"
            for name, counts in (("quarantined", self.quarantined), ("skipped", self.skipped))
            if counts
        ]
        others = {name: count for name, count in self.languages.items() if name not in ("", "en")}
        return [*parts, f"languages other than English: {by_reason(others)}"] if others else parts


def by_reason(counts: dict[str, int]) -> str:
    """``duplicate 2, empty 1``: the most frequent first, at most twelve."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    shown = [f"{reason} {count}" for reason, count in ordered[:_REASONS_SHOWN]]
    rest = sum(count for _, count in ordered[_REASONS_SHOWN:])
    return ", ".join([*shown, f"others {rest}"] if rest else shown)


def shard_of(document_id: str, shards: int) -> int:
    """The bank shard of a document that enters a corpus: ``sha256(id) mod shards``.

    From then on the shard stands in the document's row: see :func:`located_documents`.
    """
    return stable_modulo(document_id, shards)


@dataclass(frozen=True, slots=True)
class LocatedDocument:
    """A document of a corpus folder.

    Attributes:
        document: the document.
        shard: the bank shard that it belongs to.
        offset: byte offset of its line in ``documents.jsonl``.
    """

    document: Document
    shard: int
    offset: int


def load_manifest(folder: Path) -> CorpusManifest:
    """Read a corpus folder's manifest.

    Raises:
        UsageError: the corpus stage has not finished there, or another version wrote it.
    """
    path = folder / MANIFEST
    if not path.exists():
        raise UsageError(f"{folder} has no {MANIFEST}: the corpus stage has not finished there")
    values = atomic.read_json(path)
    if values.get("schema_version") != SCHEMA_VERSION:
        raise UsageError(
            f"{path} has schema version {values.get('schema_version')}, this memo_dist reads"
            f" {SCHEMA_VERSION}; encode into a new --run"
        )
    # Run folders of earlier memo-dist 0.1 have no revision and no languages.
    known = {entry.name for entry in fields(CorpusManifest)}
    kept = {name: value for name, value in values.items() if name in known}
    return atomic.as_record(kept, path, CorpusManifest)


def save_manifest(folder: Path, manifest: CorpusManifest) -> None:
    """Write a corpus folder's manifest, last, with the hashes of the files that it names."""
    named = {HASHES: hashes(folder, manifest.artifacts)}
    atomic.write_json(folder / MANIFEST, {**manifest.to_json(), **named})


def require_corpus(folder: Path) -> None:
    """Refuse a corpus whose files are not those that its manifest names.

    Raises:
        RunError: names the damaged ones.
    """
    advice = f"bring them back from a copy, or remove {folder} and read the corpus again"
    require_whole([folder / MANIFEST], advice)


def document_row(document: Document, shard: int) -> dict[str, Any]:
    """A line of ``documents.jsonl``."""
    return {**document.to_json(), "shard": shard}


def located_documents(folder: Path) -> Iterator[LocatedDocument]:
    """Yield the documents of a corpus folder with their shards, in id order.

    Rows of run folders that an older memo-dist wrote have no shard: it is computed as then.
    """
    shards = load_manifest(folder).shards
    for offset, row in atomic.jsonl_offsets(folder / DOCUMENTS):
        shard = row["shard"] if "shard" in row else shard_of(row["id"], shards)
        yield LocatedDocument(Document.from_json(row), shard, offset)


def iter_documents(folder: Path) -> Iterator[Document]:
    """Yield the documents of a corpus folder in id order."""
    return (Document.from_json(row) for row in atomic.read_jsonl(folder / DOCUMENTS))


def iter_chunks(folder: Path) -> Iterator[Chunk]:
    """Yield the chunks of a corpus folder, by document in id order, then by offset."""
    return (Chunk.from_json(row) for row in atomic.read_jsonl(folder / CHUNKS))


def load_documents(folder: Path) -> list[Document]:
    """All documents of a corpus folder in id order."""
    return list(iter_documents(folder))


def load_chunks(folder: Path) -> list[Chunk]:
    """All chunks of a corpus folder, by document in id order, then by offset."""
    return list(iter_chunks(folder))


def load_quarantine(folder: Path) -> list[Quarantined]:
    """The files and rows that did not become documents, in reading order."""
    return [Quarantined.from_json(row) for row in atomic.read_jsonl(folder / QUARANTINE)]
