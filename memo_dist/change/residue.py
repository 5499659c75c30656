"""What else holds text or numbers of a forgotten document, and how each of it is cleared.

The stages' records name the files (``texts``, ``encoded``, ``writes`` of memo_dist.stages.records).
What a stage writes anew for the remaining documents (part files, data set, examples, checkpoints,
held-out sets, calibrations) is gone once the stage has run again. This module clears the rest.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from memo_dist.change.fingerprint import Fingerprint, drop_lines
from memo_dist.config.schema import Config
from memo_dist.io import atomic
from memo_dist.io.checked_lines import from_line
from memo_dist.io.runfolder import RunFolder
from memo_dist.stages.records import ASK, CONNECTOR, EVALUATE, GATE
from memo_dist.stages.state import files
from memo_dist.training.publish import prune_bank

DERIVED = (ASK, EVALUATE, GATE, CONNECTOR)
"""Stages whose results rest on the old bank: answers, scores, and what was fitted on it."""
_TRACKERS = ("wandb", "mlflow")


def clear_derived(run: RunFolder) -> dict[str, str]:
    """Remove answers, evaluations, reports, gates and connectors of the old bank.

    Returns:
        {what, as in the stage's record: what was done}.
    """
    done = {}
    for stage in DERIVED:
        found = files(run, stage.writes)
        for path in found:
            path.unlink(missing_ok=True)
        for folder in {path.parent for path in found}:
            _remove_empty(folder, run.root)
        if found:
            done[", ".join(stage.writes)] = f"removed: {len(found)} files"
    return done


def clear_rest(
    run: RunFolder, config: Config, fingerprints: Sequence[Fingerprint]
) -> dict[str, str]:
    """Clear what stages leave of earlier revisions, and old generations of the bank.

    Returns:
        {what: what was done}.
    """
    prune_bank(run, keep=1, force=True)
    done = {"memory/gen-*": "generations before this one removed"}
    lines = sum(_without_old_units(step) for step in _steps(run))
    done["synth/*/journal/part-*.jsonl"] = f"rewritten: {lines} units of earlier revisions out"
    requests = [
        *run.synth.glob("requests/*.jsonl"),
        *run.synth.glob("*/journal/requests-*.jsonl"),
    ]
    _unlink(requests)
    done["synth/requests/*, synth/*/journal/requests-*"] = f"removed: {len(requests)} files"
    coverage = list(run.synth.glob("coverage.json*"))
    _unlink(coverage)
    done["synth/coverage.*"] = f"removed: {len(coverage)} files"
    logged = sum(drop_lines(path, fingerprints) for path in run.logs.glob("*.log"))
    done["logs/*.log"] = f"rewritten: {logged} lines out"
    written = "corpus, reflections.jsonl, synth/*/part-*, synth/shards, synth/dataset"
    for name in (written, "train/shard-*"):
        done[name] = "written anew without the documents"
    return done


def out_of_reach(config: Config) -> list[str]:
    """What no command of memo_dist can clear, for the receipt."""
    named = [f"what {name} keeps of this run" for name in config.track.to if name in _TRACKERS]
    if config.generator.kind in ("openai", "anthropic"):
        named.append("logs of the generator's service")
    if config.executive.kind in ("openai", "anthropic"):
        named.append("logs of the executive's service")
    return [
        *named,
        "backups and snapshots of the run folder",
        "copies of memories or answers that were made elsewhere",
        "copies in object stores: `memo-dist push` to the same URL replaces one; versions that the"
        " bucket keeps stay",
        "the source files of the corpus",
    ]


def _steps(run: RunFolder) -> list[Path]:
    return [path.parent for path in sorted(run.synth.glob("*/manifest.json"))]


def _without_old_units(step: Path) -> int:
    """Rewrite a step's journals without units that its plan does not have; returns their number."""
    manifest: dict[str, Any] = atomic.read_json(step / "manifest.json")
    units = {unit for part in manifest["partitions"] or () for unit in part}
    dropped = 0
    for path in sorted((step / "journal").glob("part-*.jsonl")):
        lines = path.read_bytes().splitlines(keepends=True)
        kept = [line for line in lines if (from_line(line) or {}).get("unit") in units]
        if len(kept) < len(lines):
            atomic.write_bytes(path, b"".join(kept))
            dropped += len(lines) - len(kept)
    return dropped


def _unlink(paths: Sequence[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)


def _remove_empty(folder: Path, root: Path) -> None:
    """Remove a folder, and those above it inside the run, while they are empty."""
    while folder != root and folder.is_dir() and not any(folder.iterdir()):
        shutil.rmtree(folder)
        folder = folder.parent
