"""``merge``: banks of one base become one bank, without training.

The union keeps every shard's weights as they are. A method merges weights into fewer shards; what
that costs is measured on questions that the banks were taught.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from memo_dist.change.merge_recall import ask, document_recall, taught_questions
from memo_dist.change.merge_sources import Source, check_bases, older_revisions, opened
from memo_dist.change.merged import UNION, Merged
from memo_dist.config import to_yaml
from memo_dist.errors import RunError, UsageError
from memo_dist.io import atomic, generations
from memo_dist.io.runfolder import RunFolder
from memo_dist.memory.manifest import (
    CONFIDENCE,
    QUESTION_LIKELIHOOD,
    BankManifest,
    ShardEntry,
    load_manifest,
)
from memo_dist.memory.tombstones import Tombstone, add_tombstones, load_tombstones
from memo_dist.models.merging import Merging
from memo_dist.synthesis.types import Reflection
from memo_dist.training.fold_shards import Fold, fold_shard
from memo_dist.training.prepare import HELD_OUT, trained_base


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
    with opened(roots) as sources:
        check_bases(sources)
        stones = older_revisions(sources, options.newer)
        if options.method != UNION:
            _check_fold([entry for one in sources for entry in one.manifest.shards], options)
        try:
            return _build(sources, stones, out, options)
        except OSError as error:  # nothing of it stays: it was built in a temporary folder
            raise RunError(f"cannot write {out}: {error.strerror or error}") from error


def _build(
    sources: Sequence[Source],
    stones: Sequence[Tombstone],
    out: Path,
    options: Options,
) -> Merged:
    """The new run, built beside its place and renamed."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=atomic.TEMP_PREFIX, dir=out.parent) as folder:
        built = RunFolder(Path(folder) / "run")
        _write_union(built, sources, stones)
        done = _measured_union(built, sources, options)
        if options.method != UNION:
            done = _fold(built, sources, options, done)
        done = replace(done, withheld=sorted(stone.id for stone in stones))
        done.save(built.memory)
        built.root.replace(out)
    atomic.fsync_folder(out.parent)
    return done


def _write_union(
    built: RunFolder,
    sources: Sequence[Source],
    stones: Sequence[Tombstone],
) -> None:
    """The bank of all shards, numbered anew, in ``built/memory``; weights are links."""
    built.memory.mkdir(parents=True)
    listed: list[ShardEntry] = []
    taught: list[Reflection] = []
    for source in sources:
        rows = source.manifest.shards
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
    known = [stone for source in sources for stone in load_tombstones(source.run.generations)]
    if known or stones:
        add_tombstones(built.memory, [*known, *stones])
    BankManifest(base, tuple(listed), how).save(built.memory)
    _write_config(built, sources, len(listed))


def _write_config(built: RunFolder, sources: Sequence[Source], shards: int) -> None:
    first = sources[0].config
    config = replace(first, corpus=replace(first.corpus, shards=shards))
    atomic.write_text(built.config, to_yaml(config))


def _fold(built: RunFolder, sources: Sequence[Source], options: Options, done: Merged) -> Merged:
    """Replace the union in ``built`` by a bank of fewer shards with merged weights."""
    union, config = load_manifest(built.memory), sources[0].config
    base = trained_base(sources[0].run, config)
    if base.weights_hash != union.base.weights_hash:
        raise UsageError(f"the base of {sources[0].run.root} is not the one its bank names")
    size, count = len(union.shards), options.shards
    groups = {entry.id: place * count // size for place, entry in enumerate(union.shards)}
    target = RunFolder(built.root.with_name("folded"))
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
    _take_place(target, built)
    return _measured_fold(built, sources, options, replace(done, shards=count))


def _check_fold(shards: Sequence[ShardEntry], options: Options) -> None:
    """Refuse, before anything is built, what cannot be merged by weights."""
    if any(entry.kind != "full" for entry in shards):
        raise UsageError(
            f"--method {options.method} merges full weights, and shards of these runs are"
            " adapters: export with export.adapter=folded, or use --method union"
        )
    if not 0 < options.shards < len(shards):
        raise UsageError(
            f"--shards {options.shards}: the runs have {len(shards)} shards together, and"
            f" --method {options.method} makes fewer of them, at least one"
        )


def _take_place(folded: RunFolder, built: RunFolder) -> None:
    """Only the bank and the tombstones stay."""
    stones = load_tombstones(built.generations)
    if stones:
        add_tombstones(folded.generations, stones)
    folded.reflections.unlink()
    shutil.rmtree(folded.root / "train")
    shutil.rmtree(built.root)
    folded.root.replace(built.root)


def _measured_fold(
    built: RunFolder, sources: Sequence[Source], options: Options, done: Merged
) -> Merged:
    """The recall of merged weights, on the questions that the union was asked."""
    if not options.questions:
        return done
    asked = [
        row for one in sources for row in taught_questions(one.reflections(), options.questions)
    ]
    answers = ask(built, sources[0].config, asked)
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
        for answer in ask(source.run, source.config, rows)
    ]
    rows = [row for part in chosen for row in part]
    joint = ask(built, sources[0].config, rows)
    equal = sum(one == two.text for one, two in zip(alone, joint, strict=True))
    recall = document_recall(rows, [answer.text or answer.refused for answer in joint])
    return replace(done, asked=len(rows), equal=equal, union=recall, recall=recall)
