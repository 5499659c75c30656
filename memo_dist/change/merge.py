"""``merge``: banks of one base become one bank, without training.

The union keeps every shard's weights as they are. A method merges weights into fewer shards; what
that costs is measured on questions that the banks were taught.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from memo_dist.answers.answer import Answer
from memo_dist.answers.text import contains
from memo_dist.change.merged import UNION, Merged, Recall
from memo_dist.change.pending import Pending
from memo_dist.config import to_yaml
from memo_dist.config.schema import Config
from memo_dist.corpus.manifest import DOCUMENTS, iter_documents
from memo_dist.errors import RunError, UsageError
from memo_dist.io import atomic, generations
from memo_dist.io.hashing import stable_modulo
from memo_dist.io.runfolder import RunFolder
from memo_dist.memory.bank import Bank
from memo_dist.memory.manifest import (
    CONFIDENCE,
    FILE_NAME,
    QUESTION_LIKELIHOOD,
    BankManifest,
    ShardEntry,
    load_manifest,
)
from memo_dist.memory.tombstones import Tombstone, add_tombstones, forgotten, load_tombstones
from memo_dist.models.merging import Merging
from memo_dist.runs import existing_run
from memo_dist.stages.records import EXPORT
from memo_dist.stages.state import require
from memo_dist.synthesis.types import Reflection
from memo_dist.training.fold_shards import Fold, fold_shard
from memo_dist.training.prepare import HELD_OUT, JOB, trained_base, trained_job

_BUCKETS = 1 << 32
_BATCH = 32


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


@dataclass(frozen=True, slots=True)
class Options:
    """How banks are merged.

    Attributes:
        method: ``union``, or one of ``memo_dist.models.merging.METHODS``.
        shards: of the result, where weights are merged.
        scale: see ``Merging``.
        newer: of a document that two banks hold, the revision with the later date counts.
        questions: asked about each document to measure recall; 0: none.
    """

    method: str = UNION
    shards: int = 1
    scale: float = 1.0
    newer: bool = False
    questions: int = 4


def merge(roots: Sequence[Path], out: Path, options: Options) -> Merged:
    """Merge the banks of runs into a new run folder that holds a bank only.

    Args:
        roots: run folders.
        out: a folder that does not exist.
        options: how.

    Raises:
        UsageError: a run has no bank, is forgetting documents, has another base; two of them hold
            one document; ``out`` exists.
        RunError: weights are not those that a bank names, or ``out`` cannot be written.
    """
    if out.exists():
        raise UsageError(f"--out {out} exists; name a new folder")
    if options.method == UNION and len(roots) < 2:
        raise UsageError("name at least two runs, or a --method that merges one run's shards")
    with _opened(roots) as sources:
        _check_bases(sources)
        entries, stones = _without_duplicates(sources, options.newer)
        try:
            return _build(sources, entries, stones, out, options)
        except OSError as error:  # nothing of it stays: it was built in a temporary folder
            raise RunError(f"cannot write {out}: {error.strerror or error}") from error


def _build(
    sources: Sequence[Source],
    entries: Sequence[Sequence[ShardEntry]],
    stones: Sequence[Tombstone],
    out: Path,
    options: Options,
) -> Merged:
    """The new run, built beside its place and renamed."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=atomic.TEMP_PREFIX, dir=out.parent) as folder:
        built = RunFolder(Path(folder) / "run")
        _write_union(built, sources, entries, stones)
        done = _measured_union(built, sources, options)
        if options.method != UNION:
            done = _fold(built, sources, options, done)
        done = replace(done, withheld=sorted(stone.id for stone in stones))
        done.save(built.memory)
        built.root.replace(out)
    atomic.fsync_folder(out.parent)
    return done


@contextmanager
def _opened(roots: Sequence[Path]) -> Iterator[list[Source]]:
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


def _check_bases(sources: Sequence[Source]) -> None:
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


def _without_duplicates(
    sources: Sequence[Source], newer: bool
) -> tuple[list[list[ShardEntry]], list[Tombstone]]:
    """The shards' entries, by source, and tombstones of what may not be answered from.

    An equal document is listed once; of two revisions the older one is withheld.

    Raises:
        UsageError: a document was forgotten in one run, is in two of them and ``newer`` is not
            set, or its dates do not tell which revision is newer.
    """
    stones = [stone for source in sources for stone in load_tombstones(source.run.generations)]
    owners: dict[str, tuple[Source, str]] = {}
    entries: list[list[ShardEntry]] = []
    older: list[Tombstone] = []
    for source in sources:
        rows = []
        for entry in source.manifest.shards:
            back = forgotten(stones, {row.id: row.hash for row in entry.documents})
            if back:
                raise UsageError(
                    f"{source.run.root} holds documents that were forgotten in another of the"
                    f" runs: {', '.join(back[:5])}; run `memo-dist forget` there too"
                )
            kept = []
            for row in entry.documents:
                known = owners.setdefault(row.id, (source, row.hash))
                if known[0] is not source:
                    _refuse_both(row.id, known[0], source, newer)
                    if known[1] == row.hash:
                        continue
                    older.append(_older(row.id, known, (source, row.hash)))
                kept.append(row)
            rows.append(replace(entry, documents=tuple(kept)))
        entries.append(rows)
    return entries, older


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


def _write_union(
    built: RunFolder,
    sources: Sequence[Source],
    entries: Sequence[Sequence[ShardEntry]],
    stones: Sequence[Tombstone],
) -> None:
    """The bank of all shards, numbered anew, in ``built/memory``; weights are links."""
    built.memory.mkdir(parents=True)
    listed: list[ShardEntry] = []
    taught: list[Reflection] = []
    for source, rows in zip(sources, entries, strict=True):
        numbers = {entry.id: len(listed) + place for place, entry in enumerate(rows)}
        taught += [replace(one, shard=numbers[one.shard]) for one in source.reflections()]
        for entry in rows:
            number = numbers[entry.id]
            folder = built.memory_shard(number)
            generations.link_folder(
                source.manifest.shard_folder(source.run.memory, entry.id), folder
            )
            listed.append(replace(entry, id=number, path=folder.name))
    atomic.write_jsonl(built.memory / "reflections.jsonl", (one.to_json() for one in taught))
    base = sources[0].manifest.base
    if base.path is not None:
        generations.link_folder(sources[0].run.memory / base.path, built.memory / base.path)
    how = QUESTION_LIKELIHOOD if all(source.asked() for source in sources) else CONFIDENCE
    if stones:
        add_tombstones(built.memory, stones)
    BankManifest(base, tuple(listed), how).save(built.memory)
    _write_config(built, sources, len(listed))


def _write_config(built: RunFolder, sources: Sequence[Source], shards: int) -> None:
    first = sources[0].config
    config = replace(first, corpus=replace(first.corpus, shards=shards))
    atomic.write_text(built.config, to_yaml(config))


def _fold(built: RunFolder, sources: Sequence[Source], options: Options, done: Merged) -> Merged:
    """Replace the union in ``built`` by a bank of fewer shards with merged weights."""
    union, config = load_manifest(built.memory), sources[0].config
    if any(entry.kind != "full" for entry in union.shards):
        raise UsageError(
            f"--method {options.method} merges full weights, and shards of these runs are"
            " adapters: export with export.adapter=folded, or use --method union"
        )
    count = options.shards
    if not 0 < count < len(union.shards):
        raise UsageError(
            f"--shards {count}: the runs have {len(union.shards)} shards together, and"
            f" --method {options.method} makes fewer of them, at least one"
        )
    base = trained_base(sources[0].run, config)
    if base.weights_hash != union.base.weights_hash:
        raise UsageError(f"the base of {sources[0].run.root} is not the one its bank names")
    target = RunFolder(built.root.with_name("folded"))
    groups = {
        entry.id: place * count // len(union.shards) for place, entry in enumerate(union.shards)
    }
    taught = sorted(Source(built, config, union).reflections(), key=lambda one: one.id)
    rows = [replace(one, shard=groups[one.shard]).to_json() for one in taught]
    for path in (target.reflections, target.memory / "reflections.jsonl"):
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic.write_jsonl(path, rows)
    _collect_held_out(sources, groups, target)
    entries = []
    for group in range(count):
        members = [entry for entry in union.shards if groups[entry.id] == group]
        fold = Fold(
            merging=Merging(options.method, options.scale, config.run.seed),
            base=base,
            models=[union.shard_folder(built.memory, entry.id) for entry in members],
            documents=[row for entry in members for row in entry.documents],
            reflections=[[one for one in taught if one.shard == entry.id] for entry in members],
        )
        entries.append(fold_shard(target, config, group, count, fold))
    how = union.composition if count > 1 else CONFIDENCE
    BankManifest(replace(union.base, path=None), tuple(entries), how).save(target.memory)
    _write_config(target, sources, count)
    target.reflections.unlink()
    shutil.rmtree(target.root / "train")
    shutil.rmtree(built.root)
    target.root.replace(built.root)
    done = replace(done, shards=count)
    if not options.questions:
        return done
    asked = [
        row for one in sources for row in taught_questions(one.reflections(), options.questions)
    ]
    answers = _ask(built, config, asked)
    texts = [answer.text or answer.refused for answer in answers]
    return replace(done, recall=document_recall(asked, texts))


def _collect_held_out(
    sources: Sequence[Source], groups: Mapping[int, int], target: RunFolder
) -> None:
    """Questions held out of the shards' trainings, by group, for the confidence of the merged."""
    held: dict[int, list[dict[str, object]]] = {group: [] for group in groups.values()}
    number = 0
    for source in sources:
        for entry in source.manifest.shards:
            path = source.run.train(entry.id) / HELD_OUT
            held[groups[number]] += atomic.read_jsonl(path) if path.exists() else ()
            number += 1
    for group, rows in held.items():
        target.train(group).mkdir(parents=True)
        atomic.write_jsonl(target.train(group) / HELD_OUT, rows)


def _measured_union(built: RunFolder, sources: Sequence[Source], options: Options) -> Merged:
    """The union's recall, and how many answers are those of the questions' own banks."""
    done = Merged(
        method=options.method,
        runs=[source.run.root.name for source in sources],
        weights=[[entry.weights_hash for entry in one.manifest.shards] for one in sources],
        shards=len(load_manifest(built.memory).shards),
    )
    if not options.questions:
        return done
    chosen = [taught_questions(source.reflections(), options.questions) for source in sources]
    alone = [
        answer.text
        for source, rows in zip(sources, chosen, strict=True)
        for answer in _ask(source.run, source.config, rows)
    ]
    rows = [row for part in chosen for row in part]
    joint = _ask(built, sources[0].config, rows)
    equal = sum(one == two.text for one, two in zip(alone, joint, strict=True))
    recall = document_recall(rows, [answer.text or answer.refused for answer in joint])
    return replace(done, asked=len(rows), equal=equal, union=recall, recall=recall)


def taught_questions(reflections: Iterable[Reflection], count: int) -> list[Reflection]:
    """A fixed sample of ``count`` taught questions of each document."""
    by_document: dict[str, list[Reflection]] = {}
    for row in reflections:
        if row.sources and row.kind != "abstain":
            by_document.setdefault(row.sources[0], []).append(row)
    ordered = (sorted(rows, key=_order) for _, rows in sorted(by_document.items()))
    return [row for rows in ordered for row in rows[:count]]


def _order(row: Reflection) -> int:
    return stable_modulo(f"merge:{row.id}", _BUCKETS)


def _ask(run: RunFolder, config: Config, rows: Sequence[Reflection]) -> list[Answer]:
    bank = Bank.of_run(run, config)
    return bank.answer([row.question for row in rows], _BATCH)


def document_recall(rows: Sequence[Reflection], texts: Sequence[str]) -> Recall:
    """By document. What a memory wrote counts, also below the threshold of its confidence."""
    found: dict[str, tuple[int, int]] = {}
    for row, text in zip(rows, texts, strict=True):
        right, asked = found.get(row.sources[0], (0, 0))
        found[row.sources[0]] = right + int(contains(text, [row.answer])), asked + 1
    return found
