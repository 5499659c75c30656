"""``memo-dist status RUN|JOB``: finished, running and failed stages."""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from pathlib import Path
from typing import Any

import click

from memo_dist.corpus.manifest import by_reason, load_manifest
from memo_dist.errors import UsageError
from memo_dist.io import atomic
from memo_dist.io.runfolder import RunFolder
from memo_dist.memory.manifest import FILE_NAME
from memo_dist.observability.progress import duration
from memo_dist.observability.status import has_died, read_status
from memo_dist.runs import existing_run
from memo_dist.stages.records import CONNECTOR, CORPUS, EVALUATE, EXPORT
from memo_dist.stages.state import damaged_files, is_done, status_folders

_HIDDEN = ("state", "time", "host", "pid")


@click.command("status")
@click.argument("what", metavar="RUN|JOB")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--follow", is_flag=True, help="Follow JOB until it ends and exit with its code.")
@click.pass_context
def command(ctx: click.Context, what: str, as_json: bool, follow: bool) -> None:
    """Show the state of each stage of RUN, or the state of JOB.

    JOB is a name that `memo-dist launch` printed, for example slurm:12.
    """
    kind, _, ident = what.partition(":")
    if kind in ("slurm", "ray") and ident:
        ctx.exit(_show_job(kind, ident, as_json, follow))
    if follow:
        raise UsageError(f"--follow needs a job, as slurm:12; {what} is a run folder")
    _show_run(Path(what), as_json)


def _show_job(kind: str, ident: str, as_json: bool, follow: bool) -> int:
    """The job's state once, or each change until its end; returns the verb's exit code."""
    from memo_dist.launch.ray_job import RayJob
    from memo_dist.launch.slurm import SlurmJob

    job: SlurmJob | RayJob = (SlurmJob if kind == "slurm" else RayJob).parse(ident)
    if follow:
        return job.follow(math.inf, click.echo)
    state = job.state()
    values = {"job": str(job), "state": state.text, "exit_code": state.code}
    click.echo(json.dumps(values, sort_keys=True) if as_json else f"{job}: {state.text}")
    return 0


def _show_run(run_folder: Path, as_json: bool) -> None:
    run, config = existing_run(run_folder)
    stages = run_state(run, config.corpus.shards)
    damaged = list(damaged_files(run, config.memory.hashed_gb))
    if damaged:
        stages["files"] = {"state": "damaged", "damaged": damaged}
    if as_json:
        click.echo(json.dumps(stages, sort_keys=True))
        return
    for name, state in stages.items():
        click.echo(f"{name:<16} {_text(state)}")


def run_state(run: RunFolder, shards: int) -> dict[str, dict[str, Any]]:
    """{stage: its last status}; ``state`` is missing, running, done, failed or stopped."""
    stages = {"corpus": _corpus(run), "synthesis": _of(run.synth)}
    trainings = {f"train shard-{shard}": _of(run.train(shard)) for shard in range(shards)}
    stages |= trainings
    if shards > 1:
        stages["bank"] = _bank(list(trainings.values()))
    stages["memory"] = _memory(run)
    for folder in status_folders(run, CONNECTOR):
        stages[f"fuse {folder.parent.name}"] = _of(folder)
    for folder in status_folders(run, EVALUATE):
        stages[f"eval {folder.name}"] = _of(folder)
    return stages


def _memory(run: RunFolder) -> dict[str, Any]:
    if not is_done(run, EXPORT):
        return {"state": "missing"}
    run = run.pin()
    shards = len(atomic.read_json(run.memory / FILE_NAME)["shards"])
    return {"state": "done", "shards": shards, "generation": run.pinned}


def _corpus(run: RunFolder) -> dict[str, Any]:
    if not is_done(run, CORPUS):
        return {"state": "missing"}
    manifest = load_manifest(run.corpus)
    counts = {"documents": manifest.documents, "chunks": manifest.chunks}
    left_out = {"quarantined": manifest.quarantined, "skipped": manifest.skipped}
    return {
        "state": "done",
        **counts,
        **{name: sum(values.values()) for name, values in left_out.items()},
        **{f"{name} by kind": by_reason(values) for name, values in left_out.items() if values},
    }


def _bank(trainings: list[dict[str, Any]]) -> dict[str, Any]:
    """The shards' trainings in one line: the state of the bank, and how many are in which."""
    counts = Counter(training["state"] for training in trainings)
    worst = ("running", "failed", "stopped", "missing", "done")
    state = next(name for name in worst if counts[name])
    del counts["missing"]
    return {"state": state, "shards": len(trainings), **counts}


def _of(folder: Path) -> dict[str, Any]:
    status = read_status(folder) or {"state": "missing"}
    if has_died(status):
        error = f"process {status['pid']} was killed (by hand, or out of memory)"
        return {**status, "state": "failed", "error": error}
    return status


def _text(state: dict[str, Any]) -> str:
    values = [f"{k} {_value(v)}" for k, v in sorted(state.items()) if k not in _HIDDEN]
    age = f", {duration(time.time() - state['time'])} ago" if "time" in state else ""
    return f"{state['state']}{age}" + (f": {', '.join(values)}" if values else "")


def _value(value: Any) -> str:
    if isinstance(value, list):
        return "".join(f"\n  {item}" for item in value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)
