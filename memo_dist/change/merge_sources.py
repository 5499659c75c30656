"""Banks that are merged: opened, and checked against each other."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from memo_dist.change.pending import Pending
from memo_dist.config.schema import Config
from memo_dist.corpus.manifest import DOCUMENTS, iter_documents
from memo_dist.errors import UsageError
from memo_dist.io import atomic, generations
from memo_dist.io.runfolder import RunFolder
from memo_dist.memory.manifest import (
    FILE_NAME,
    QUESTION_LIKELIHOOD,
    BankManifest,
    load_manifest,
)
from memo_dist.memory.tombstones import Tombstone, forgotten, load_tombstones
from memo_dist.runs import existing_run
from memo_dist.stages.records import EXPORT
from memo_dist.stages.state import require
from memo_dist.synthesis.types import Reflection
from memo_dist.training.prepare import JOB, trained_job


@dataclass(frozen=True, slots=True)
class Source:
    """A bank that is merged: its run, pinned, with configuration and manifest."""

    run: RunFolder
    config: Config
    manifest: BankManifest

    def asked(self) -> bool:
        """Whether its shards were trained on the tokens of questions too."""
        if self.manifest.composition == QUESTION_LIKELIHOOD:
            return True
        jobs = [self.run.train(entry.id) / JOB for entry in self.manifest.shards]
        if not all(path.exists() for path in jobs):
            return False
        shards = (entry.id for entry in self.manifest.shards)
        return all(trained_job(self.run, k).train.question_loss == "yes" for k in shards)

    def reflections(self) -> list[Reflection]:
        """What its shards were taught."""
        return [Reflection.from_json(r) for r in atomic.read_jsonl(self.run.trained_reflections)]


@contextmanager
def opened(roots: Sequence[Path]) -> Iterator[list[Source]]:
    """The banks, kept from being pruned while they are read."""
    with ExitStack() as stack:
        sources = []
        for root in roots:
            run, config = existing_run(root)
            require(run, EXPORT)
            Pending.refuse(run.generations)
            run = run.pin()
            stack.enter_context(generations.held(run.memory, FILE_NAME))
            sources.append(Source(run, config, load_manifest(run.memory, verify=True)))
        yield sources


def check_bases(sources: Sequence[Source]) -> None:
    """Refuse banks of different bases.

    Raises:
        UsageError: names both.
    """
    first = sources[0]
    for other in sources[1:]:
        for what in ("weights_hash", "vocabulary_hash"):
            one, two = getattr(first.manifest.base, what), getattr(other.manifest.base, what)
            if one != two:
                raise UsageError(
                    f"{other.run.root} was trained from another base than {first.run.root}:"
                    f" memory.base={other.manifest.base.id} with {what} {two[:16]}, not"
                    f" {first.manifest.base.id} with {one[:16]}; encode it from the same base"
                )


def older_revisions(sources: Sequence[Source], newer: bool) -> list[Tombstone]:
    """Tombstones of what may not be answered from: of two revisions the older one.

    Equal documents need none. Each shard lists what it was trained on, so that a later deletion
    withholds such a document in all of them.

    Raises:
        UsageError: a document was forgotten in one run, is in two of them and ``newer`` is not
            set, or its dates do not tell which revision is newer.
    """
    stones = [stone for source in sources for stone in load_tombstones(source.run.generations)]
    owners: dict[str, tuple[Source, str]] = {}
    older: list[Tombstone] = []
    for source in sources:
        for entry in source.manifest.shards:
            back = forgotten(stones, {row.id: row.hash for row in entry.documents})
            if back:
                raise UsageError(
                    f"{source.run.root} holds documents that were forgotten in another of the"
                    f" runs: {', '.join(back[:5])}; run `memo-dist forget` there too"
                )
            for row in entry.documents:
                known = owners.setdefault(row.id, (source, row.hash))
                if known[0] is not source:
                    _refuse_both(row.id, known[0], source, newer)
                    if known[1] != row.hash:
                        older.append(_older(row.id, known, (source, row.hash)))
    return older


def _refuse_both(name: str, one: Source, two: Source, newer: bool) -> None:
    if not newer:
        raise UsageError(
            f"the document {name!r} is in {one.run.root} and in {two.run.root}: run `memo-dist"
            " forget` in one of them, or let the later date decide with --duplicates newer"
        )


def _older(name: str, one: tuple[Source, str], two: tuple[Source, str]) -> Tombstone:
    """The tombstone of the revision with the earlier date; each is (source, content hash)."""
    dates = [_date(name, source) for source, _ in (one, two)]
    if None in dates or dates[0] == dates[1]:
        raise UsageError(
            f"the dates of the document {name!r} do not tell which revision is newer:"
            f" {dates[0] or 'none'} in {one[0].run.root}, {dates[1] or 'none'} in"
            f" {two[0].run.root}; run `memo-dist forget` in one of them"
        )
    loser = one if str(dates[0]) < str(dates[1]) else two
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return Tombstone.of(name, loser[1], stamp)


def _date(name: str, source: Source) -> str | None:
    if not (source.run.corpus / DOCUMENTS).exists():
        return None
    documents = iter_documents(source.run.corpus)
    return next((document.date for document in documents if document.id == name), None)
