"""Deletions that ``forget`` refuses, found before anything is written."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from memo_dist.change.difference import bank_documents
from memo_dist.change.merged import refuse_merged
from memo_dist.change.replaced import load_replaced
from memo_dist.config.schema import Config
from memo_dist.corpus.manifest import load_manifest as load_corpus_manifest
from memo_dist.corpus.manifest import located_documents
from memo_dist.errors import UsageError
from memo_dist.io.runfolder import RunFolder
from memo_dist.memory.manifest import load_manifest


def refusals(
    run: RunFolder, config: Config, ids: Iterable[str], begun: Collection[str] = ()
) -> dict[str, str]:
    """{document: why it cannot be forgotten} of those among ``ids``; the others can be, together.

    Args:
        run: the run.
        config: its configuration.
        ids: documents of its memory or corpus.
        begun: documents of a ``forget`` that has not ended; they go in any case.

    Raises:
        UsageError: nothing can be forgotten in this run.
    """
    refuse_merged(run)
    if load_corpus_manifest(run.corpus).left_out:
        raise UsageError(
            f"corpus.max_documents={config.corpus.max_documents} left documents out of this corpus,"
            " which would take the place of those that go: remove the documents from the source"
            " and run `memo-dist update RUN CORPUS`"
        )
    chosen = set(ids) - set(begun)
    found = _other_revisions(run, chosen)
    return found | _last_ones(run, config, chosen - found.keys(), begun)


def _other_revisions(run: RunFolder, ids: Collection[str]) -> dict[str, str]:
    """Documents whose words in the memory are not known."""
    bank, kept = bank_documents(load_manifest(run.memory)), load_replaced(run.generations)
    corpus = {one.document.id: one.document.content_hash for one in located_documents(run.corpus)}
    return {
        name: f"{name} is another revision in the corpus than in the memory, so words of the"
        f" memory's revision could not be searched for: end the update of {run.root} first"
        for name in sorted(ids)
        if name in bank and corpus.get(name, bank[name]) != bank[name]
        if name not in kept or kept[name][0] != bank[name]
    }


def _last_ones(
    run: RunFolder, config: Config, ids: Collection[str], begun: Collection[str]
) -> dict[str, str]:
    """One document of each shard that would lose all of its documents: the last id."""
    shards: dict[int, set[str]] = {}
    for one in located_documents(run.corpus):
        shards.setdefault(one.shard, set()).add(one.document.id)
    return {
        max(names & set(ids)): f"shard {shard} would have no document left: encode the remaining"
        f" documents into a new --run with fewer corpus.shards (now {config.corpus.shards}), and"
        f" remove {run.root}"
        for shard, names in sorted(shards.items())
        if names & set(ids) and names <= {*ids, *begun}
    }
