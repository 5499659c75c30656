"""Manifests of the steps: planned before the first unit, complete after the last."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from memo_dist.config.steps import StepName
from memo_dist.io.atomic import read_json, write_json
from memo_dist.io.hashing import hash_file
from memo_dist.io.runfolder import RunFolder
from memo_dist.llm.request_store import close_journals
from memo_dist.observability.status import read_status
from memo_dist.synthesis.failed_requests import reopen_failed
from memo_dist.synthesis.plan import Plan, StepUnits, check_settings, check_units, is_outdated
from memo_dist.synthesis.worker import (
    REQUEST_JOURNALS,
    PartResult,
    part_path,
    quarantine_path,
    store_path,
)

SCHEMA_VERSION = 1


def write_planned(run: RunFolder, plan: Plan, grouped: Collection[StepName] = ()) -> None:
    """Write the manifests of the steps that have none; check those that are there.

    Steps that were planned for an earlier revision of the corpus are planned anew: what was
    answered then moves to the request store. After a launch that ended with an error, its failed
    requests are asked again. The units of the steps in ``grouped`` are not known
    yet: see :func:`write_grouped`.

    Raises:
        UsageError: a step was planned with other settings (names them, with both values).
    """
    units = StepUnits(plan.units, plan.partitions)
    outdated = [name for name, _ in plan.steps if _is_outdated(run, plan, name)]
    check_planned(run, plan, outdated)  # all checks come first: a refused command writes nothing
    reopened = _reopened(run, plan)
    if outdated:
        run.reflections.unlink(missing_ok=True)
    for name, _ in plan.steps:
        path = manifest_path(run, name)
        if name in outdated:
            close_journals(sorted(path.parent.glob(REQUEST_JOURNALS)), store_path(run, name))
        if name in outdated or name in reopened or not path.exists():
            write_json(path, _planned(plan, name, None if name in grouped else units))


def _reopened(run: RunFolder, plan: Plan) -> list[StepName]:
    """Steps of which something failed in a launch that ended with an error: done once more."""
    before = read_status(run.synth)
    if before is None or before["state"] != "failed":
        return []
    return reopen_failed(run, [name for name, _ in plan.steps])


def check_planned(run: RunFolder, plan: Plan, outdated: Collection[StepName] = ()) -> None:
    """Check the manifests that are there against the plan, those of ``outdated`` steps aside.

    Raises:
        UsageError: a step was planned with other settings.
    """
    for name, _ in plan.steps:
        path = manifest_path(run, name)
        if name not in outdated and path.exists():
            check_settings(read_json(path)["settings"], plan.settings, run.root)


def check_revisable(run: RunFolder) -> None:
    """Refuse to revise the corpus of a run whose synthesis an older memo-dist planned.

    Raises:
        UsageError: its units were windows over the sorted documents.
    """
    for path in sorted(run.synth.glob("*/manifest.json")):
        check_units(read_json(path)["settings"], run.root)


def _is_outdated(run: RunFolder, plan: Plan, step: StepName) -> bool:
    path = manifest_path(run, step)
    return path.exists() and is_outdated(read_json(path)["settings"], plan)


def manifest_path(run: RunFolder, step: StepName) -> Path:
    """The manifest of one step."""
    return run.step(step) / "manifest.json"


def write_grouped(run: RunFolder, plan: Plan, step: StepName, units: StepUnits) -> None:
    """Record the units that a grouping step's groups amount to."""
    write_json(manifest_path(run, step), _planned(plan, step, units))


def write_complete(
    run: RunFolder, plan: Plan, step: StepName, units: StepUnits, parts: Sequence[PartResult]
) -> None:
    """Mark a step as complete; ``parts`` are in partition order."""
    totals = {
        "units": len(units.units),
        "failed_units": sum(part.failed for part in parts),
        "reflections": sum(sum(part.rows) for part in parts),
    }
    files = [asdict(part) for part in parts]
    manifest = {
        **_planned(plan, step, units),
        "state": "complete",
        "counts": totals,
        "parts": files,
    }
    write_json(manifest_path(run, step), manifest)


def complete_parts(run: RunFolder, plan: Plan, step: StepName) -> list[PartResult] | None:
    """The parts of a complete step whose files are as they were written, else None.

    A part file that was changed or lost since is made again from the journal.
    """
    manifest = read_json(manifest_path(run, step))
    if manifest["state"] != "complete" or manifest["plan"] != plan.hash:
        return None
    parts = [PartResult(**{**row, "rows": tuple(row["rows"])}) for row in manifest["parts"]]
    for index, part in enumerate(parts):
        wanted = {
            part_path(run, step, index): part.reflections_sha256,
            quarantine_path(run, step, index): part.quarantine_sha256,
        }
        if any(not path.exists() or hash_file(path) != sha for path, sha in wanted.items()):
            return None
    return parts


def _planned(plan: Plan, step: StepName, units: StepUnits | None) -> dict[str, Any]:
    """A manifest; without ``units`` its partitions are null until the groups are known."""
    partitions, groups = None, {}
    if units is not None:
        indices = range(plan.partitions)
        partitions = [[unit.id for unit in units.partition(index)] for index in indices]
    if units is not None and units.grouped:
        documents = {unit.id: [name for name, _ in unit.documents] for unit in units.units}
        groups = {"groups": documents}
    return {
        "schema_version": SCHEMA_VERSION,
        "state": "planned",
        "step": step,
        "version": dict(plan.steps)[step],
        "generator": plan.generator,
        "plan": plan.hash,
        "settings": plan.settings,
        "partitions": partitions,
        **groups,
    }
