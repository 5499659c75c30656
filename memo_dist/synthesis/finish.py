"""The end of a synthesis: merge the parts, clean, count, write ``reflections.jsonl`` and marker.

Memory: the driver holds all reflections at once, about one kilobyte each.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from memo_dist.config.schema import SynthesisConfig
from memo_dist.corpus.manifest import CHUNKS, DOCUMENTS, load_manifest
from memo_dist.errors import DamagedFileError, UsageError
from memo_dist.io.atomic import as_record, read_json, read_jsonl, write_json, write_jsonl
from memo_dist.io.hashing import hash_file
from memo_dist.io.marker import HASHES
from memo_dist.io.runfolder import RunFolder
from memo_dist.stages.records import SYNTHESIS
from memo_dist.synthesis.card import card_text
from memo_dist.synthesis.clean import Candidate, Cleaned, clean, no_ground
from memo_dist.synthesis.dataset import write_dataset
from memo_dist.synthesis.plan import Plan, check_settings, is_older_result, is_outdated
from memo_dist.synthesis.source_texts import SourceTexts
from memo_dist.synthesis.stages import SCHEMA_VERSION
from memo_dist.synthesis.types import Reflection, in_force
from memo_dist.synthesis.worker import FAILED, part_path, quarantine_path
from memo_dist.synthesis.yields import Rejections, check_yield, notes

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


def marker_path(run: RunFolder) -> Path:
    """The manifest of the whole synthesis: written last, so it marks a complete one."""
    return run.root / SYNTHESIS.done[0]


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


def finish(run: RunFolder, plan: Plan, limits: SynthesisConfig) -> SynthesisSummary:
    """Merge, clean and count the parts of all steps; the marker goes first and comes last.

    Raises:
        RunError: no fact at all, or none for a shard that has documents: there is no marker, and
            the next launch asks failed requests again.
    """
    marker_path(run).unlink(missing_ok=True)
    with SourceTexts(run.corpus) as ground:
        trusted = load_manifest(run.corpus).config.get("trusted", True)
        stated = no_ground if trusted else ground.whole
        shards = [clean(rows, limits, ground, stated) for rows in _by_shard(_candidates(run, plan))]
    kept = sorted(
        (row for shard in shards for row in shard.kept), key=lambda row: (row.id, row.shard)
    )
    write_jsonl(run.reflections, (row.to_json() for row in kept))
    write_jsonl(run.synth / "quarantine.jsonl", _quarantine_rows(shards))
    lost = _rejections(run, plan)
    check_yield(run, plan, kept, lost)
    summary = _summary(run, plan, shards, kept, lost)
    write_dataset(run.synth / "dataset", kept, card_text(plan, asdict(summary), kept))
    manifest = {
        "schema_version": SCHEMA_VERSION,
        "state": "complete",
        "generator": plan.generator,
        "limits": plan.limits,
        "plan": plan.hash,
        "settings": plan.settings,
        "steps": [name for name, _ in plan.steps],
        "summary": asdict(summary),
        HASHES: {f"../{run.reflections.name}": summary.fingerprint},
    }
    write_json(marker_path(run), manifest)
    return summary


def _candidates(run: RunFolder, plan: Plan) -> Iterator[Candidate]:
    steps = [(index, name) for index, (name, _) in enumerate(plan.steps)]
    for index, name in in_force(steps, lambda step: step[1]):
        for partition in range(plan.partitions):
            for row in read_jsonl(part_path(run, name, partition)):
                yield Candidate(index, Reflection.from_json(row))


def _by_shard(candidates: Iterable[Candidate]) -> list[list[Candidate]]:
    shards: dict[int, list[Candidate]] = {}
    for candidate in candidates:
        shards.setdefault(candidate.reflection.shard, []).append(candidate)
    return [shards[key] for key in sorted(shards)]


def _quarantine_rows(shards: Iterable[Cleaned]) -> Iterator[dict[str, Any]]:
    """Everything dropped but exact duplicates, which say nothing new."""
    for shard in shards:
        yield from (row.to_json() for row in shard.dropped if row.reason != "duplicate")


def _summary(
    run: RunFolder, plan: Plan, shards: list[Cleaned], kept: list[Reflection], lost: Rejections
) -> SynthesisSummary:
    documents = {name: 0 for unit in plan.units for name, _ in unit.documents}
    for row in kept:
        for source in row.sources:
            documents[source] += 1
    by_step = Counter[int]()
    for shard in shards:
        by_step += shard.by_step
    return SynthesisSummary(
        fingerprint=hash_file(run.reflections),
        reflections=len(kept),
        by_kind=dict(Counter(row.kind for row in kept)),
        by_step={name: by_step[index] for index, (name, _) in enumerate(plan.steps)},
        rejected=dict(lost.counts),
        dropped=dict(Counter(row.reason for shard in shards for row in shard.dropped)),
        documents=documents,
        without_reflections=sorted(name for name, count in documents.items() if not count),
        notes=notes(documents, lost, _words(run)),
    )


def _words(run: RunFolder) -> int:
    return sum(len(row["text"].split()) for row in read_jsonl(run.corpus / DOCUMENTS))


def _rejections(run: RunFolder, plan: Plan) -> Rejections:
    lost = Rejections()
    for name, _ in plan.steps:
        for partition in range(plan.partitions):
            for row in read_jsonl(quarantine_path(run, name, partition)):
                lost.add(row)
    return lost
