"""Manifests of the steps: planned before the first unit, complete after the last."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict
from typing import Any

from memo_dist.config.steps import StepName
from memo_dist.io.atomic import read_json, write_json
from memo_dist.io.hashing import hash_file
from memo_dist.io.runfolder import RunFolder
from memo_dist.synthesis.plan import Plan, StepUnits, check_settings
from memo_dist.synthesis.worker import PartResult, part_path, quarantine_path

SCHEMA_VERSION = 1


def write_planned(run: RunFolder, plan: Plan, grouped: Collection[StepName] = ()) -> None:
    """Write the manifests of the steps that have none; check those that are there.

    The units of the steps in ``grouped`` are not known yet: see :func:`write_grouped`.

    Raises:
        UsageError: a step was planned with other settings (names them, with both values).
    """
    units = StepUnits(plan.units, plan.partitions)
    paths = {name: run.step(name) / "manifest.json" for name, _ in plan.steps}
    for path in paths.values():  # all checks come first: a refused command writes nothing
        if path.exists():
            check_settings(read_json(path)["settings"], plan.settings, run.root)
    for name, path in paths.items():
        if not path.exists():
            write_json(path, _planned(plan, name, None if name in grouped else units))


def write_grouped(run: RunFolder, plan: Plan, step: StepName, units: StepUnits) -> None:
    """Record the units that a grouping step's groups amount to."""
    write_json(run.step(step) / "manifest.json", _planned(plan, step, units))


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
    write_json(run.step(step) / "manifest.json", manifest)


def complete_parts(run: RunFolder, plan: Plan, step: StepName) -> list[PartResult] | None:
    """The parts of a complete step whose files are as they were written, else None.

    A part file that was changed or lost since is made again from the journal.
    """
    manifest = read_json(run.step(step) / "manifest.json")
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
