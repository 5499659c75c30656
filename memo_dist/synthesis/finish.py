"""The end of a synthesis: clean each shard, merge all, write ``reflections.jsonl`` and marker."""

from __future__ import annotations

import logging
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

from memo_dist.config.schema import SynthesisConfig
from memo_dist.corpus.manifest import CHUNKS, DOCUMENTS, load_manifest
from memo_dist.errors import DamagedFileError, UsageError
from memo_dist.io.atomic import as_record, read_json, read_jsonl, write_json
from memo_dist.io.hashing import hash_file
from memo_dist.io.marker import HASHES
from memo_dist.io.runfolder import RunFolder
from memo_dist.synthesis.card import card_text
from memo_dist.synthesis.dataset import write_card
from memo_dist.synthesis.merging import MergeJob, join, merge_part, merged_path, parts_of
from memo_dist.synthesis.plan import Plan, check_settings, is_older_result, is_outdated
from memo_dist.synthesis.shard_clean import (
    ShardCleaned,
    ShardJob,
    clean_shard,
    dropped_path,
    merging_folder,
)
from memo_dist.synthesis.shard_files import (
    FIELD,
    ShardFile,
    marker_field,
    marker_path,
    shard_path,
    shards_folder,
)
from memo_dist.synthesis.stages import SCHEMA_VERSION
from memo_dist.synthesis.types import in_force
from memo_dist.synthesis.worker import FAILED, quarantine_path
from memo_dist.synthesis.yields import Rejections, check_yield, notes

Job = TypeVar("Job")
Done = TypeVar("Done")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SynthesisSummary:
    """What a synthesis yielded; also the counts of ``synth/manifest.json``.

    Attributes:
        fingerprint: SHA-256 of ``reflections.jsonl``.
        reflections: lines of it.
        by_kind, by_step: kept reflections.
        rejected: candidates that the generator rejected, by reason (up to its first colon);
            ``failed`` counts units that raised an exception.
        dropped: reflections that cleaning took out, by reason.
        documents: kept reflections of each document.
        without_reflections: ids of documents that no reflection rests on.
        notes: for people: what yielded nothing or little, and what to do.
    """

    fingerprint: str
    reflections: int
    by_kind: dict[str, int]
    by_step: dict[str, int]
    rejected: dict[str, int]
    dropped: dict[str, int]
    documents: dict[str, int]
    without_reflections: list[str]
    notes: list[str] = field(default_factory=list)

    @property
    def failed_units(self) -> int:
        """Units that raised an exception and were quarantined."""
        return self.rejected.get(FAILED, 0)


def finished_summary(run: RunFolder, plan: Plan) -> SynthesisSummary | None:
    """The summary of a synthesis that is complete and unchanged, else None.

    What an older memo-dist completed (with other units) is complete, as long as its reflections
    are there.

    Raises:
        UsageError: it was made with other settings.
    """
    marker = marker_path(run)
    if not marker.exists():
        return None
    manifest = read_json(marker)
    summary = as_record(manifest["summary"], marker, SynthesisSummary)
    whole = run.reflections.exists() and hash_file(run.reflections) == summary.fingerprint
    if whole and is_older_result(manifest["settings"], plan):
        return summary
    if not is_outdated(manifest["settings"], plan):
        check_settings(manifest["settings"], plan.settings, run.root)
        if whole:
            return summary
        logger.warning(
            "%s is not the file that the synthesis wrote: it is written anew from the finished"
            " steps, nothing is asked again",
            run.reflections,
        )
    marker.unlink()
    return None


def require_reflections(run: RunFolder) -> None:
    """Refuse a ``reflections.jsonl`` that is not the one that the synthesis wrote.

    Raises:
        DamagedFileError: says how it is written anew.
    """
    then = read_json(marker_path(run))["summary"]["fingerprint"]
    now = hash_file(run.reflections) if run.reflections.exists() else "missing"
    if now != then:
        raise DamagedFileError(
            f"{run.reflections} is damaged or was changed: SHA-256 {now[:16]}, its synthesis wrote"
            f" {then[:16]}; bring it back from a copy, or run `memo-dist synthesize` with the same"
            " corpus again: it writes the file anew from its finished steps"
        )


def check_reflections(run: RunFolder) -> None:
    """Refuse reflections that are not those of the run's synthesis and corpus.

    Raises:
        UsageError: ``reflections.jsonl`` or the corpus has changed since, or another version of
            memo-dist kept no hash to tell by.
    """
    manifest = read_json(marker_path(run))
    settings = manifest["settings"]
    found = {
        "reflections.jsonl": (manifest["summary"]["fingerprint"], run.reflections),
        "corpus/documents.jsonl": (settings.get("hash of the documents"), run.corpus / DOCUMENTS),
        "corpus/chunks.jsonl": (settings.get("hash of the chunks"), run.corpus / CHUNKS),
    }
    changed = [
        f"{name}: {str(then)[:16]} then, {now[:16]} now"
        for name, (then, path) in found.items()
        if (now := hash_file(path) if path.exists() else "missing") != then
    ]
    if changed:
        raise UsageError(
            f"files of {run.root} have changed since its synthesis:\n  "
            + "\n  ".join(changed)
            + f"\nbring them back, or remove {run.synth} and {run.reflections} and run `memo-dist"
            " synthesize` again"
        )


Each = Callable[[Callable[[Job], Done], Sequence[Job]], list[Done]]


def here(function: Callable[[Job], Done], jobs: Sequence[Job]) -> list[Done]:
    """A function of each job, one after the other in this process."""
    return [function(job) for job in jobs]


def finish(
    run: RunFolder, plan: Plan, limits: SynthesisConfig, each: Each[Any, Any] = here
) -> SynthesisSummary:
    """Clean the parts of all steps shard by shard, merge and count them.

    The marker goes first and comes last. Memory here: the plan, and a count for each document.

    Args:
        run: the run folder.
        plan: of the synthesis.
        limits: what is clean.
        each: does a function of each job, in order, wherever that is: shards and parts of the
            merge do not depend on each other.

    Raises:
        RunError: no fact at all, or none for a shard that has documents: there is no marker, and
            the next launch asks failed requests again.
    """
    marker_path(run).unlink(missing_ok=True)
    for folder in (merging_folder(run), shards_folder(run)):
        shutil.rmtree(folder, ignore_errors=True)
    shards: list[ShardCleaned] = each(clean_shard, _shard_jobs(run, plan, limits))
    numbers = [shard.file.shard for shard in shards]
    parts = parts_of(sum(shard.file.rows for shard in shards))
    jobs = [
        MergeJob(run.root, tuple(numbers), part, parts, run.synth / "dataset")
        for part in range(parts)
    ]
    samples = [row for found in each(merge_part, jobs) for row in found]
    fingerprint = join((merged_path(run, part) for part in range(parts)), run.reflections)
    join((dropped_path(run, shard) for shard in numbers), run.synth / "quarantine.jsonl")
    shutil.rmtree(merging_folder(run))
    lost = _rejections(run, plan)
    check_yield(run, plan, {shard.file.shard: shard.facts for shard in shards}, lost)
    summary = _summary(plan, fingerprint, shards, lost)
    write_card(run.synth / "dataset", parts, card_text(plan, asdict(summary), samples))
    write_json(marker_path(run), _marker(run, plan, summary, [shard.file for shard in shards]))
    return summary


def _shard_jobs(run: RunFolder, plan: Plan, limits: SynthesisConfig) -> list[ShardJob]:
    """The shards that have documents, in order."""
    trusted = load_manifest(run.corpus).config.get("trusted", True)
    steps = [(index, name) for index, (name, _) in enumerate(plan.steps)]
    counted = tuple(in_force(steps, lambda step: step[1]))
    documents: dict[int, dict[str, int]] = {}
    for unit in plan.units:
        documents.setdefault(unit.shard, {}).update(unit.documents)
    return [
        ShardJob(run.root, shard, counted, plan.partitions, documents[shard], limits, trusted)
        for shard in sorted(documents)
    ]


def _marker(
    run: RunFolder, plan: Plan, summary: SynthesisSummary, files: list[ShardFile]
) -> dict[str, Any]:
    folder = shards_folder(run).name
    own = {f"{folder}/{shard_path(run, file.shard).name}": file.sha256 for file in files}
    return {
        "schema_version": SCHEMA_VERSION,
        "state": "complete",
        "generator": plan.generator,
        "limits": plan.limits,
        "plan": plan.hash,
        "settings": plan.settings,
        "steps": [name for name, _ in plan.steps],
        "summary": asdict(summary),
        FIELD: marker_field(run, summary.fingerprint, files),
        HASHES: {f"../{run.reflections.name}": summary.fingerprint, **own},
    }


def _summary(
    plan: Plan, fingerprint: str, shards: Sequence[ShardCleaned], lost: Rejections
) -> SynthesisSummary:
    documents = {name: 0 for unit in plan.units for name, _ in unit.documents}
    by_step, dropped, kinds = Counter[int](), Counter[str](), Counter[str]()
    for shard in shards:
        documents.update(shard.documents)
        by_step += shard.by_step
        dropped += shard.dropped
        kinds += Counter(shard.file.kinds)
    return SynthesisSummary(
        fingerprint=fingerprint,
        reflections=sum(shard.file.rows for shard in shards),
        by_kind=dict(kinds),
        by_step={name: by_step[index] for index, (name, _) in enumerate(plan.steps)},
        rejected=dict(lost.counts),
        dropped=dict(dropped),
        documents=documents,
        without_reflections=sorted(name for name, count in documents.items() if not count),
        notes=notes(documents, lost, sum(shard.words for shard in shards)),
    )


def _rejections(run: RunFolder, plan: Plan) -> Rejections:
    lost = Rejections()
    for name, _ in plan.steps:
        for partition in range(plan.partitions):
            for row in read_jsonl(quarantine_path(run, name, partition)):
                lost.add(row)
    return lost
