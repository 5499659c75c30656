"""A corpus that is changed document by document, for those who have no whole new one.

The documents that stay are taken from the run as they are; their files are not read again. The
result takes the place of the corpus as a revision does (:mod:`memo_dist.corpus.revision`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from heapq import merge
from pathlib import Path
from typing import Any

from memo_dist.config.schema import CorpusConfig
from memo_dist.corpus.build import DUPLICATE, chunk_rows, shard_counts
from memo_dist.corpus.listing import state_hash
from memo_dist.corpus.manifest import (
    CHUNKS,
    DOCUMENTS,
    QUARANTINE,
    SOURCE,
    CorpusManifest,
    document_row,
    iter_documents,
    load_manifest,
    located_documents,
    require_corpus,
    save_manifest,
    shard_of,
)
from memo_dist.corpus.revision import finish_swap, next_folder, swap
from memo_dist.corpus.types import Document
from memo_dist.errors import RunError, UsageError
from memo_dist.io import atomic
from memo_dist.io.hashing import hash_value

EDITED = "edited"
"""The path of a line of ``source.jsonl`` that stands for all changes of single documents."""


def edit_corpus(
    folder: Path,
    config: CorpusConfig,
    put: Iterable[Document] = (),
    remove: Collection[str] = (),
) -> CorpusManifest:
    """Add, replace and remove documents of the corpus in ``folder``; nothing where all is so.

    Args:
        folder: of a complete corpus.
        config: the corpus group.
        put: documents; one whose id is known replaces that document and keeps its shard.
        remove: ids; those that are not there count as removed.

    Raises:
        UsageError: a shard would have no document, or ``corpus.max_documents`` had left some out.
        RunError: a file of ``folder`` is damaged, or it cannot be written.
    """
    finish_swap(folder)
    require_corpus(folder)
    manifest = load_manifest(folder)
    changes = {document.id: document for document in put}
    known = {row.document.id: row.document.content_hash for row in located_documents(folder)}
    gone = known.keys() & set(remove)
    fresh = {k: v for k, v in changes.items() if known.get(k) != v.content_hash}
    if not gone and not fresh:
        return manifest
    if manifest.left_out:
        raise UsageError(
            f"corpus.max_documents={config.max_documents} left {manifest.left_out} documents out"
            " of this corpus; change such a run by the whole corpus: `memo-dist update RUN CORPUS`"
        )
    try:
        return _write(folder, config, manifest, fresh, gone)
    except OSError as error:
        raise RunError(f"cannot write {folder}: {error.strerror or error}") from error


def reshard_corpus(folder: Path, config: CorpusConfig) -> CorpusManifest:
    """Spread the documents of the corpus in ``folder`` anew over ``config.shards``, by their ids.

    Raises:
        UsageError: a shard would have no document.
        RunError: a file of ``folder`` is damaged, or it cannot be written.
    """
    finish_swap(folder)
    manifest = load_manifest(folder)
    if manifest.shards == config.shards:
        return manifest
    require_corpus(folder)
    try:
        return _write(folder, config, manifest, {}, ())
    except OSError as error:
        raise RunError(f"cannot write {folder}: {error.strerror or error}") from error


def _write(
    folder: Path,
    config: CorpusConfig,
    manifest: CorpusManifest,
    fresh: Mapping[str, Document],
    gone: Collection[str],
) -> CorpusManifest:
    target = next_folder(folder)
    target.mkdir(exist_ok=True)
    shards = {row.document.id: row.shard for row in located_documents(folder)}
    if manifest.shards != config.shards:
        shards = {name: shard_of(name, config.shards) for name in shards}
    shards |= {name: shard_of(name, config.shards) for name in fresh.keys() - shards.keys()}
    counts = shard_counts({k: v for k, v in shards.items() if k not in gone}, config.shards)
    documents = _documents(folder, fresh, gone)
    atomic.write_jsonl(target / DOCUMENTS, (document_row(one, shards[one.id]) for one in documents))
    atomic.write_jsonl(target / QUARANTINE, _quarantine(folder, gone))
    chunks = atomic.write_jsonl(target / CHUNKS, chunk_rows(target, config))
    characters, pairs, languages = 0, [], Counter[str]()
    for document in iter_documents(target):
        characters += len(document.text)
        languages[document.language] += 1
        pairs.append([document.id, document.content_hash])
    fingerprint = hash_value(pairs)
    source = [*_source(folder, target), {"path": EDITED, "sha256": fingerprint}]
    atomic.write_jsonl(target / SOURCE, source)
    changed = replace(
        manifest,
        documents=len(pairs),
        chunks=chunks,
        characters=characters,
        shards=config.shards,
        config={**manifest.config, "shards": config.shards},
        shard_documents=counts,
        languages=dict(sorted(languages.items())),
        fingerprint=fingerprint,
        source_hash=state_hash(source),
        artifacts={name: (target / name).stat().st_size for name in manifest.artifacts},
        revision=manifest.revision + 1,
    )
    save_manifest(target, changed)
    swap(folder)
    return changed


def _documents(
    folder: Path, fresh: Mapping[str, Document], gone: Collection[str]
) -> Iterator[Document]:
    """The documents that stay and those that are put, in id order."""
    without = {*fresh, *gone}
    stay = (document for document in iter_documents(folder) if document.id not in without)
    return merge(stay, sorted(fresh.values(), key=_identity), key=_identity)


def _identity(document: Document) -> str:
    return document.id


def _quarantine(folder: Path, gone: Collection[str]) -> Iterator[dict[str, Any]]:
    """What was quarantined, but for copies of documents that are gone."""
    twins = tuple(f"same text as document {name!r} " for name in gone)
    for row in atomic.read_jsonl(folder / QUARANTINE):
        if not (row["reason"] == DUPLICATE and row["detail"].startswith(twins)):
            yield row


def _source(folder: Path, target: Path) -> list[dict[str, Any]]:
    """The source's files, without those of which no document is left.

    A hash of a file would tell whoever has the file that it was there.
    """
    before = {document.origin for document in iter_documents(folder)}
    left = {document.origin for document in iter_documents(target)}
    rows = atomic.read_jsonl(folder / SOURCE)
    return [row for row in rows if row["path"] != EDITED and row["path"] not in before - left]
