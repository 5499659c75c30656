"""``forget``: documents leave a bank in three moments, and a receipt says so.

At once a tombstone withholds what the bank could only have from them; then their shards are trained
without them, from the base; then whatever else holds their text or answers is cleared. Until the
receipt is written ``RUN/memory/forgetting.json`` keeps what the moments share, so that the same
command continues after a stop or a crash.
"""

from __future__ import annotations

import getpass
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path

from memo_dist.change.difference import bank_documents, corpus_documents, difference
from memo_dist.change.fingerprint import Fingerprint
from memo_dist.change.merged import refuse_merged
from memo_dist.change.pending import Pending
from memo_dist.change.receipt import FOLDER, Receipt
from memo_dist.change.refusals import refusals
from memo_dist.change.replaced import clear_replaced, load_replaced
from memo_dist.change.residue import clear_derived, clear_rest, out_of_reach
from memo_dist.change.staying import NOT_SEARCHED, OTHER_RUNS, residue
from memo_dist.change.update import renew
from memo_dist.config.schema import Config
from memo_dist.config.stages import corpus_settings
from memo_dist.corpus.edit import edit_corpus
from memo_dist.corpus.manifest import iter_documents
from memo_dist.errors import RunError, UsageError, suggest
from memo_dist.io.hashing import hash_file
from memo_dist.io.runfolder import RunFolder
from memo_dist.memory.manifest import load_manifest
from memo_dist.memory.tombstones import Tombstone, add_tombstones, load_tombstones
from memo_dist.stages.records import EXPORT
from memo_dist.stages.state import require
from memo_dist.synthesis.stages import check_revisable
from memo_dist.version import VERSION


def chosen(patterns: Sequence[str], known: Mapping[str, str]) -> list[str]:
    """The ids that patterns name: ids, globs, or ``@FILE`` with one of them a line; sorted.

    Raises:
        UsageError: a pattern names no known document (the nearest id is named), or a file cannot
            be read.
    """
    found: set[str] = set()
    for pattern in _from_files(patterns):
        names = {pattern} & known.keys() or {n for n in known if fnmatchcase(n, pattern)}
        if not names:
            raise UsageError(f"there is no document {pattern!r} in this memory or its corpus"
                             f"{suggest(pattern, known)}")  # fmt: skip
        found |= names
    if not found:
        raise UsageError("no document is named: give ids, globs, or @FILE with one a line")
    return sorted(found)


def _from_files(patterns: Sequence[str]) -> list[str]:
    every: list[str] = []
    for pattern in patterns:
        if not pattern.startswith("@"):
            every.append(pattern)
            continue
        try:
            text = Path(pattern[1:]).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"the file of ids {pattern[1:]!r} cannot be read: {error}") from error
        every += [line.strip() for line in text.splitlines() if line.strip()]
    return every


def known_documents(run: RunFolder) -> dict[str, str]:
    """{id: content hash} of what the bank or the corpus knows, the bank's first.

    Raises:
        UsageError: the run has no bank.
    """
    require(run, EXPORT)
    refuse_merged(run)
    return {**corpus_documents(run.corpus), **bank_documents(load_manifest(run.memory))}


def forget(run: RunFolder, config: Config, patterns: Sequence[str], why: str) -> Receipt:
    """Remove documents from the bank of an open run, and clear what is left of them.

    Args:
        run: the run, open for writing.
        config: its configuration.
        patterns: see :func:`chosen`.
        why: for the receipt.

    Raises:
        UsageError: an id is unknown, another forgetting has not ended, a shard would be empty.
        RunError: a stage failed, or the search still finds a text. The tombstones stay.
        StoppedError, InterruptedRunError: a stop was requested; the same command continues.
    """
    pending = Pending.load(run.generations)
    begun = {one.id for one in pending.documents} if pending else set()
    known = known_documents(run)
    ids = [n for n in chosen(patterns, known | dict.fromkeys(begun, "")) if n not in begun]
    if ids or pending is None:
        pending = _begin(run, config, {name: known[name] for name in ids}, why, pending)
    cleared = clear_derived(run)
    ids = [one.id for one in pending.documents]
    changes = difference(
        bank_documents(load_manifest(run.memory)),
        {k: v for k, v in corpus_documents(run.corpus).items() if k not in ids},
    )
    edit_corpus(run.corpus, corpus_settings(config), remove=ids)
    exact = replace(config, update=replace(config.update, policy="retrain"))
    done = renew(run, exact, changes)
    clean = time.time() - pending.started
    cleared = {**clear_derived(run), **cleared}  # the old bank has answered meanwhile
    cleared |= clear_rest(run, config, pending.fingerprints)
    found, searched = residue(run, ids, pending.fingerprints)
    clear_replaced(run.generations)
    receipt = Receipt(
        time=pending.time,
        who=_user(),
        why=pending.why,
        version=VERSION,
        documents=pending.documents,
        fingerprints=pending.fingerprints,
        weights_before=pending.weights,
        weights_after=_weights(run),
        generation=done.generation,
        reflections=hash_file(run.reflections),
        seconds={
            "answers are withheld": pending.withheld,
            "weights are clean": clean,
            "residue is cleared": time.time() - pending.started,
        },
        cleared=cleared,
        out_of_reach=[*out_of_reach(config), *_left_out(run)],
        searched=searched,
        found=found,
    )
    receipt.save(run.generations / FOLDER)
    if found:
        raise RunError(
            f"{len(found)} files of {run.root} still hold words of the documents, first"
            f" {found[0]}; remove them (documents of a server: by DELETE /v1/documents/ID) and run"
            " the same command again"
        )
    Pending.clear(run.generations)
    return receipt


def _begin(
    run: RunFolder, config: Config, documents: Mapping[str, str], why: str, earlier: Pending | None
) -> Pending:
    """Check, then withhold: from here on no answer uses the documents ({id: content hash})."""
    started = time.time()
    check_revisable(run)
    ids = sorted(documents)
    begun = [one.id for one in earlier.documents] if earlier else []
    for reason in refusals(run, config, ids, begun).values():
        raise UsageError(reason)
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started))
    stones = _withhold(run, documents, stamp)
    # A stopped update may have left another revision in the corpus: that may not come back either.
    corpus = corpus_documents(run.corpus)
    _withhold(
        run, {n: corpus[n] for n in ids if corpus.get(n, documents[n]) != documents[n]}, stamp
    )
    pending = Pending(
        time=stamp,
        why=why,
        started=started,
        withheld=time.time() - started,
        documents=stones,
        fingerprints=_fingerprints(run, documents),
        weights=_weights(run),
    )
    if earlier is not None:
        pending = replace(
            pending,
            documents=[*earlier.documents, *stones],
            fingerprints=[*earlier.fingerprints, *pending.fingerprints],
            weights=earlier.weights,
        )
    pending.save(run.generations)
    return pending


def _fingerprints(run: RunFolder, documents: Mapping[str, str]) -> list[Fingerprint]:
    """Of the texts in the corpus, and of what the memory has where that is another revision."""
    texts = {one.id: f"{one.title}\n{one.text}" for one in iter_documents(run.corpus)}
    others = [text for name, text in texts.items() if name not in documents]
    kept = load_replaced(run.generations)
    return [
        *(Fingerprint.of(texts[name], others) for name in sorted(documents) if name in texts),
        *(
            kept[n][1]
            for n, digest in sorted(documents.items())
            if n in kept and kept[n][0] == digest
        ),
    ]


def _withhold(run: RunFolder, documents: Mapping[str, str], stamp: str) -> list[Tombstone]:
    """The documents' tombstones, sorted by id; those that are not there yet are written."""
    there = load_tombstones(run.generations)
    known = {name: one for one in there for name in documents if one.means(name, documents[name])}
    new = {
        name: Tombstone.of(name, digest, stamp)
        for name, digest in documents.items()
        if name not in known
    }
    if new:
        add_tombstones(run.generations, new.values())
    return [one for _, one in sorted({**known, **new}.items())]


def _left_out(run: RunFolder) -> list[str]:
    return [NOT_SEARCHED] if (run.root / OTHER_RUNS).is_dir() else []


def _weights(run: RunFolder) -> dict[str, str]:
    return {str(entry.id): entry.weights_hash for entry in load_manifest(run.memory).shards}


def _user() -> str:
    with suppress(OSError, KeyError):
        return getpass.getuser()
    return "unknown"
