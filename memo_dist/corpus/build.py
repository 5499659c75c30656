"""The corpus stage: a folder or file becomes documents, chunks and a manifest.

Documents pass through a temporary file, so memory holds ids and hashes, not texts.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import IO, Any

from memo_dist.config.schema import CorpusConfig
from memo_dist.corpus.boilerplate import RepeatedLines
from memo_dist.corpus.chunking import chunk_document
from memo_dist.corpus.diff import diff_hashes
from memo_dist.corpus.listing import (
    DOCUMENT_SUFFIXES,
    Listing,
    SourceFile,
    list_source,
    source_state,
    state_hash,
)
from memo_dist.corpus.manifest import (
    CHUNKS,
    DOCUMENTS,
    MANIFEST,
    QUARANTINE,
    SCHEMA_VERSION,
    SOURCE,
    CorpusManifest,
    by_reason,
    document_row,
    iter_documents,
    load_chunks,
    load_documents,
    load_manifest,
    save_manifest,
    shard_of,
)
from memo_dist.corpus.reader_process import Limits, read_files
from memo_dist.corpus.revision import FIRST, Before, before_revision, finish_swap, next_folder, swap
from memo_dist.corpus.types import Document, Quarantined, UnreadableError, check_size
from memo_dist.errors import RunError, UsageError
from memo_dist.io import atomic
from memo_dist.io.hashing import hash_value
from memo_dist.io.store import Place
from memo_dist.version import VERSION

__all__ = [
    "CorpusManifest",
    "build_corpus",
    "load_chunks",
    "load_documents",
    "load_manifest",
    "shard_of",
]

DUPLICATE = "duplicate"
LANGUAGE = "language"
_LIMITS = ("max_quarantined_fraction", "seconds_per_document", "megabytes_per_document")
"""Keys of the corpus group that may change under a corpus that was built."""
_EARLIER = {"trusted": True}
"""What the manifests of earlier versions mean by keys that they lack."""


def build_corpus(
    source: Place, folder: Path, config: CorpusConfig, revise: bool = False
) -> CorpusManifest:
    """Read ``source`` into ``folder``; does nothing where that was done before.

    A folder without a manifest is what a crash left: it is built again.

    Args:
        source: a folder, or one file; or such a place in an object store.
        folder: ``RUN/corpus``; created if need be.
        config: the corpus group.
        revise: accept a source that changed since ``folder`` was built. Documents that stay keep
            their shards. The new corpus replaces the old one as a whole, or not at all.

    Raises:
        UsageError: nothing readable, too much quarantined, an id used for two texts, or
            ``folder`` was built from another state of the source (without ``revise``) or another
            config.
        RunError: ``folder`` cannot be written, or a store does not answer.
    """
    _refuse_inside(source, folder)
    listing = _without_large(list_source(source), config)
    origin = _Source(source, listing, None if listing.stored else source_state(listing))
    try:
        finish_swap(folder)
        if listing.stored and (folder / SOURCE).exists():
            listing.stored.recall(atomic.read_jsonl(folder / SOURCE))
        if not (folder / MANIFEST).exists():
            return _build(origin, folder, config, FIRST)
        manifest = load_manifest(folder)
        _check_config(manifest, folder, config)
        state = origin.state()
        if manifest.source_hash != state_hash(state):
            if not revise:
                raise _changed(folder, state)
            return _replaced(origin, folder, config, manifest.revision + 1)
        if _complete(manifest, folder):
            return manifest
        return _replaced(origin, folder, config, manifest.revision)
    except OSError as error:
        raise RunError(f"cannot write {folder}: {error.strerror or error}") from error


@dataclass(frozen=True, slots=True)
class _Source:
    """The source as it is now.

    Files of this machine are hashed before they are read: what changes meanwhile is found by the
    next start. Objects of a store are hashed while they are read, and refused if they change.
    """

    path: Place
    listing: Listing
    hashed: list[dict[str, Any]] | None

    def state(self) -> list[dict[str, Any]]:
        return source_state(self.listing) if self.hashed is None else self.hashed


@dataclass(slots=True)
class _Collected:
    """What one pass over the source found."""

    offsets: dict[str, int] = field(default_factory=dict)
    """Offset of each document in the spool, by id."""
    quarantined: list[Quarantined] = field(default_factory=list)
    foreign: Counter[str] = field(default_factory=Counter)
    """Documents in languages that are not kept."""
    repeated: RepeatedLines = field(default_factory=RepeatedLines)

    @property
    def reasons(self) -> dict[str, int]:
        return dict(Counter(entry.reason for entry in self.quarantined))


def _replaced(source: _Source, folder: Path, config: CorpusConfig, revision: int) -> CorpusManifest:
    """Build a changed or damaged corpus beside the old one, then put it in its place."""
    before = before_revision(folder, revision)
    manifest = _build(source, next_folder(folder), config, before)
    swap(folder)
    return manifest


def _build(source: _Source, folder: Path, config: CorpusConfig, before: Before) -> CorpusManifest:
    created = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    _clear(folder)
    try:
        with (
            tempfile.TemporaryFile(dir=folder) as spool,
            closing(read_documents(source.listing, config, folder)) as items,
        ):
            collected = _collect(items, spool, config)
            _check_yield(collected, source.path, config)
            shards = _shards(_chosen(collected, config), config.shards, before)
            counts = shard_counts(shards, config.shards)
            rows = (
                document_row(item, shards[item.id]) for item in _selected(collected, spool, config)
            )
            atomic.write_jsonl(folder / DOCUMENTS, rows)
    except UsageError:
        if created:
            folder.rmdir()
        raise
    atomic.write_jsonl(folder / SOURCE, source.state())
    atomic.write_jsonl(folder / QUARANTINE, (entry.to_json() for entry in collected.quarantined))
    atomic.write_jsonl(folder / CHUNKS, chunk_rows(folder, config))
    manifest = _manifest(source, folder, config, collected, counts)
    manifest = replace(manifest, revision=before.revision)
    save_manifest(folder, manifest)
    return manifest


def _collect(
    items: Iterable[Document | Quarantined], spool: IO[bytes], config: CorpusConfig
) -> _Collected:
    """Read everything once; keep the first of equal texts, refuse an id with two contents."""
    collected = _Collected()
    by_id: dict[str, tuple[str, str]] = {}  # id -> content hash, origin
    by_text: dict[str, str] = {}  # text hash -> id
    for item in items:
        if isinstance(item, Quarantined):
            collected.quarantined.append(item)
            continue
        if _is_foreign(item, config):
            collected.foreign[item.language] += 1
            collected.quarantined.append(_foreign(item, config))
            continue
        if item.id in by_id and by_id[item.id][0] != item.content_hash:
            raise UsageError(
                f"two documents have the id {item.id!r}: {_where(by_id[item.id][1])} and"
                f" {_where(item.origin)}; give each document an id of its own"
            )
        twin = by_text.setdefault(item.text_hash, item.id)
        if item.id in by_id or twin != item.id:
            detail = f"same text as document {twin!r} ({_where(by_id[twin][1])})"
            collected.quarantined.append(Quarantined(item.origin, DUPLICATE, detail))
            by_id.setdefault(item.id, (item.content_hash, item.origin))
            continue
        by_id[item.id] = (item.content_hash, item.origin)
        collected.repeated.add(item)
        collected.offsets[item.id] = spool.tell()
        spool.write(atomic.json_line(item.to_json()))
    return collected


def read_documents(
    listing: Listing, config: CorpusConfig, folder: Path | None = None
) -> Generator[Document | Quarantined]:
    """Yield every document of a corpus, or the reason against it, in reading order.

    Args:
        listing: of the corpus.
        config: the corpus group.
        folder: where objects of a store lie while they are read; None: the temporary folder.
    """
    limits = Limits(
        max_bytes=_most_bytes(config),
        seconds=config.seconds_per_document,
        megabytes=config.megabytes_per_document,
    )
    yield from listing.quarantined
    if listing.stored is None:
        yield from read_files(listing.files, limits)
        return
    origins = [file.origin for file in listing.files]
    with closing(listing.stored.fetch(origins, folder)) as paths:
        here = (replace(file, path=path) for file, path in zip(listing.files, paths, strict=True))
        yield from read_files(here, limits)


def _without_large(listing: Listing, config: CorpusConfig) -> Listing:
    """Objects that their reader would refuse by their size are not fetched."""
    if listing.stored is None:
        return listing
    files: list[SourceFile] = []
    refused = list(listing.quarantined)
    for file in listing.files:
        try:
            if file.suffix in DOCUMENT_SUFFIXES:
                check_size(listing.stored.size(file.origin), _most_bytes(config))
            files.append(file)
        except UnreadableError as error:
            refused.append(error.at(file.origin))
    return replace(listing, files=files, quarantined=refused)


def _most_bytes(config: CorpusConfig) -> int:
    return int(config.max_document_mb * 2**20)


def _is_foreign(document: Document, config: CorpusConfig) -> bool:
    return bool(config.languages and document.language not in ("", *config.languages))


def _foreign(document: Document, config: CorpusConfig) -> Quarantined:
    kept = ", ".join(config.languages)
    detail = f"its language is {document.language}, kept are {kept} (corpus.languages)"
    return Quarantined(document.origin, LANGUAGE, detail)


def _check_yield(collected: _Collected, source: Place, config: CorpusConfig) -> None:
    """Refuse a corpus of which too much is unreadable (duplicates are not)."""
    bad = [entry for entry in collected.quarantined if entry.reason not in (DUPLICATE, LANGUAGE)]
    total = len(collected.offsets) + len(collected.quarantined)
    fraction = len(bad) / max(total, 1)
    if collected.offsets and fraction <= config.max_quarantined_fraction:
        return
    if not collected.offsets and collected.foreign:
        raise UsageError(
            f"corpus {str(source)!r}: no document is in a language of"
            f" corpus.languages=[{','.join(config.languages)}]; by language:"
            f" {by_reason(collected.foreign)}. generator.kind=rules reads English only: choose a"
            " language model as generator.kind, or set corpus.languages"
        )
    if not bad:
        raise UsageError(f"corpus {str(source)!r} holds no documents: its files have no rows")
    limit = ""
    if len(bad) < total:
        limit = (
            f" (a fraction of {fraction:.2f}, over"
            f" corpus.max_quarantined_fraction={config.max_quarantined_fraction})"
        )
    reasons = by_reason(dict(Counter(entry.reason for entry in bad)))
    raise UsageError(
        f"corpus {str(source)!r}: {len(bad)} of {total} documents cannot be read{limit}: {reasons}."
        f" The first: {_where(bad[0].origin)}: {bad[0].reason}: {bad[0].detail}"
    )


def _chosen(collected: _Collected, config: CorpusConfig) -> list[str]:
    ids = sorted(collected.offsets)
    return ids[: config.max_documents] if config.max_documents else ids


def _selected(collected: _Collected, spool: IO[bytes], config: CorpusConfig) -> Iterator[Document]:
    for identity in _chosen(collected, config):
        spool.seek(collected.offsets[identity])
        yield collected.repeated.without(Document.from_json(json.loads(spool.readline())))


def _shards(ids: Iterable[str], shards: int, before: Before) -> dict[str, int]:
    """The shard of each document: the one it had, or that of a document which enters."""
    return {
        name: before.shards[name] if name in before.shards else shard_of(name, shards)
        for name in ids
    }


def shard_counts(placed: Mapping[str, int], shards: int) -> list[int]:
    """Documents in each shard.

    Raises:
        UsageError: a shard would have none, so that it could not be trained.
    """
    counts = Counter(placed.values())
    empty = [shard for shard in range(shards) if not counts[shard]]
    if empty:
        raise UsageError(
            f"corpus.shards={shards} leaves {len(empty)} shards without a document (the corpus"
            f" has {counts.total()}); lower corpus.shards"
        )
    return [counts[shard] for shard in range(shards)]


def chunk_rows(folder: Path, config: CorpusConfig) -> Iterator[dict[str, Any]]:
    """The lines of ``chunks.jsonl`` for the documents in ``folder``."""
    for document in iter_documents(folder):
        for chunk in chunk_document(document, config.chunk_chars, config.overlap_sentences):
            yield chunk.to_json()


def _manifest(
    source: _Source,
    folder: Path,
    config: CorpusConfig,
    collected: _Collected,
    shards: list[int],
) -> CorpusManifest:
    characters, pairs = 0, []
    languages: Counter[str] = Counter()
    for document in iter_documents(folder):
        characters += len(document.text)
        languages[document.language] += 1
        pairs.append([document.id, document.content_hash])
    with (folder / CHUNKS).open("rb") as stream:
        chunks = sum(1 for _ in stream)
    names = (DOCUMENTS, CHUNKS, QUARANTINE, SOURCE)
    return CorpusManifest(
        schema_version=SCHEMA_VERSION,
        code_version=VERSION,
        files=len(source.listing.files),
        documents=len(pairs),
        chunks=chunks,
        characters=characters,
        left_out=len(collected.offsets) - len(pairs),
        quarantined=collected.reasons,
        skipped=source.listing.skipped,
        shards=config.shards,
        shard_documents=shards,
        fingerprint=hash_value(pairs),
        source_hash=state_hash(source.state()),
        config=asdict(config),
        languages=dict(sorted(languages.items())),
        artifacts={name: (folder / name).stat().st_size for name in names},
    )


def _refuse_inside(source: Place, folder: Path) -> None:
    """A run inside its own corpus would read its own output the next time."""
    if (
        isinstance(source, Path)
        and source.is_dir()
        and folder.resolve().is_relative_to(source.resolve())
    ):
        raise UsageError(
            f"the run folder {folder} lies inside the corpus {source}; choose a --run elsewhere"
        )


def _check_config(manifest: CorpusManifest, folder: Path, config: CorpusConfig) -> None:
    now = asdict(config)
    for key in sorted(now):
        if key in _LIMITS:
            continue
        before = manifest.config.get(key, _EARLIER.get(key, now[key]))
        if before != now[key]:
            raise UsageError(
                f"{folder} was built with corpus.{key}={before}, now it is"
                f" {now[key]}; set it back, or use a new --run"
            )


def _changed(folder: Path, state: list[dict[str, Any]]) -> UsageError:
    """The refusal of a source that changed since ``folder`` was built."""
    before = {row["path"]: row["sha256"] for row in atomic.read_jsonl(folder / SOURCE)}
    changes = diff_hashes(before, {row["path"]: row["sha256"] for row in state})
    first = [*changes.added, *changes.changed, *changes.removed][0]
    return UsageError(
        f"the corpus changed since {folder} was built: {len(changes.added)} files added,"
        f" {len(changes.changed)} changed, {len(changes.removed)} removed (the first: {first});"
        " use a new --run, bring the files back, or accept the change with"
        " `memo-dist synthesize CORPUS --run RUN --revise`"
    )


def _complete(manifest: CorpusManifest, folder: Path) -> bool:
    """Whether every file beside the manifest has the size that the manifest names."""
    for name, size in manifest.artifacts.items():
        path = folder / name
        if not path.exists() or path.stat().st_size != size:
            return False
    return True


def _clear(folder: Path) -> None:
    """Remove the manifest (first) and what an interrupted build left."""
    (folder / MANIFEST).unlink(missing_ok=True)
    for path in folder.glob(f"{atomic.TEMP_PREFIX}*"):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def _where(origin: str) -> str:
    """``corpus.jsonl:3`` as people say it: ``corpus.jsonl, line 3``."""
    match = re.fullmatch(r"(.*\.(jsonl|parquet)):(\d+)", origin)
    if not match:
        return origin
    return f"{match[1]}, {'line' if match[2] == 'jsonl' else 'row'} {match[3]}"
