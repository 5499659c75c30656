"""What stages have left in a run folder, by their records."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from memo_dist.errors import UsageError
from memo_dist.io.marker import FAST, damage
from memo_dist.io.runfolder import RunFolder
from memo_dist.stages.records import STAGES, Stage


def has_begun(run: RunFolder, stage: Stage) -> bool:
    """Whether a stage has left anything in the run."""
    return any(True for _ in run.root.glob(stage.begun))


def started_stages(run: RunFolder) -> list[str]:
    """The stages that have begun in a run and whose configuration is fixed, in order."""
    return [stage.name for stage in STAGES if stage.groups and has_begun(run, stage)]


def done_parts(run: RunFolder, stage: Stage) -> list[Path]:
    """The markers of a stage's finished parts, one each (shards by number)."""
    return sorted(run.root.glob(stage.done[-1]), key=_by_number)


def is_done(run: RunFolder, stage: Stage) -> bool:
    """Whether a stage, or a part of it, is finished."""
    return all(any(True for _ in run.root.glob(pattern)) for pattern in stage.done)


def require(run: RunFolder, stage: Stage) -> None:
    """Refuse to go on without the result of a stage.

    Raises:
        UsageError: it is not there; says which command makes it.
    """
    if not is_done(run, stage):
        raise UsageError(f"{run.root} {stage.missing}")


def status_folders(run: RunFolder, stage: Stage) -> list[Path]:
    """The folders that hold a STATUS.json of the stage, shards by number."""
    found = run.root.glob(stage.status) if stage.status else ()
    return sorted((path for path in found if path.is_dir()), key=_by_number)


def files(run: RunFolder, patterns: Iterable[str]) -> set[Path]:
    """The files of a run that some globs of a record name."""
    return {path for pattern in patterns for path in run.root.glob(pattern) if path.is_file()}


def progress_files(run: RunFolder) -> list[Path]:
    """Everything in a run that counts as progress, in order."""
    return sorted(files(run, (pattern for stage in STAGES for pattern in stage.progress)))


def damaged_files(run: RunFolder, limit_gb: float = 0.0, kind: str = FAST) -> Iterator[str]:
    """What is wrong with the files that the markers of all stages name, a line each.

    Args:
        run: the run.
        limit_gb: larger files (GiB) are not hashed, which is logged; 0: all are.
        kind: the hash to compare, see :func:`memo_dist.io.marker.damage`.
    """
    for marker in sorted(files(run, (pattern for stage in STAGES for pattern in stage.hashed))):
        try:
            yield from damage(marker, limit_gb, kind=kind)
        except UsageError as error:
            yield str(error)


def _by_number(path: Path) -> list[tuple[int, str]]:
    """``shard-2`` comes before ``shard-10``."""
    parts = re.split(r"(\d+)", str(path))
    return [(int(part), "") if part.isdigit() else (-1, part) for part in parts]
