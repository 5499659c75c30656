"""From trained shards to a bank that holds: a generation is built whole, then takes over.

The first bank of a run is written into ``RUN/memory``. Whatever changes later (an update, a
training that was done again, another configuration of the export) becomes a new generation beside
it; shards that did not change are hard links. The bank before it answers until then.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from memo_dist.config.schema import Config
from memo_dist.errors import UsageError
from memo_dist.io import generations
from memo_dist.io.runfolder import RunFolder
from memo_dist.memory.manifest import (
    CONFIDENCE,
    FILE_NAME,
    QUESTION_LIKELIHOOD,
    BankManifest,
    BaseRef,
    load_manifest,
)
from memo_dist.models.base import SCRATCH_NAME
from memo_dist.models.identity import BaseModel
from memo_dist.training.export import export_shard, is_export_of, made_from, shard_entry
from memo_dist.training.lora import is_adapter
from memo_dist.training.prepare import trained_job
from memo_dist.training.trained_on import TrainedOn

logger = logging.getLogger(__name__)

BASE = "base"
PARTS = ("shard-*", BASE, "reflections.jsonl")
"""What the first bank has in ``RUN/memory`` beside ``bank.json``."""
Identities = Sequence[dict[str, Any]]
"""What each shard's export is made from, see ``memo_dist.training.export.made_from``."""


def publish(run: RunFolder, config: Config, base: BaseModel, records: Sequence[TrainedOn]) -> None:
    """Export the trained shards, and let the bank of them hold; does nothing where it does.

    Args:
        run: the run.
        config: its configuration.
        base: what the shards were trained from.
        records: what each of them was trained on.

    Raises:
        RunError: reloaded weights are not the trained ones.
    """
    now = run.memory
    wanted = [made_from(run, config, shard) for shard in range(len(records))]
    first = not (now / FILE_NAME).exists()
    if not first and _holds(run, now, base, records, wanted):
        return
    number = 0 if first else generations.current_number(run.generations) + 1
    target = generations.generation(run.generations, number)
    for shard, record in enumerate(records):
        _provide(run, config, base, shard, record, wanted[shard], target)
    _link_own(run, base, target)
    _manifest(run, target, base, records, wanted).save(target)
    if number:
        generations.switch(run.generations, number)
    prune_bank(run, config.memory.keep_generations)


def prune_bank(run: RunFolder, keep: int, force: bool = False) -> None:
    """Remove old generations of the bank; says which stay because a process answers from them."""
    in_use = generations.prune(run.generations, keep, FILE_NAME, PARTS, force)
    if in_use:
        named = ", ".join(map(str, in_use))
        logger.warning(
            "generation %s of %s still answers in another process and stays; the next change"
            " removes it",
            named,
            run.generations,
        )


def _holds(
    run: RunFolder, folder: Path, base: BaseModel, records: Sequence[TrainedOn], wanted: Identities
) -> bool:
    """Whether the bank in ``folder`` is the one of these trainings."""
    if not all(is_export_of(folder / f"shard-{k}", one) for k, one in enumerate(wanted)):
        return False
    with suppress(UsageError):
        return load_manifest(folder) == _manifest(run, folder, base, records, wanted)
    return False


def _provide(  # noqa: PLR0913
    run: RunFolder,
    config: Config,
    base: BaseModel,
    shard: int,
    record: TrainedOn,
    wanted: dict[str, Any],
    target: Path,
) -> None:
    """A shard's folder in the new generation: there already, the old one's, or exported."""
    folder = target / f"shard-{shard}"
    if is_export_of(folder, wanted):
        return
    before = run.memory_shard(shard)
    if before != folder and is_export_of(before, wanted):
        generations.link_folder(before, folder)
    else:
        export_shard(run, config, shard, base, record, folder)


def _link_own(run: RunFolder, base: BaseModel, target: Path) -> None:
    """What a bank needs of the run while the run already works on the next one."""
    own = target / "reflections.jsonl"
    own.unlink(missing_ok=True)
    if run.reflections.exists():
        generations.link_file(str(run.reflections), str(own))
    if _needs_base(base, target):
        generations.link_folder(base.path, target / BASE)


def _needs_base(base: BaseModel, folder: Path) -> bool:
    """Whether the bank's shards are adapters of a base that no name leads to."""
    return base.name == SCRATCH_NAME and is_adapter(folder / "shard-0")


def _manifest(
    run: RunFolder, folder: Path, base: BaseModel, records: Sequence[TrainedOn], wanted: Identities
) -> BankManifest:
    entries = tuple(
        shard_entry(shard, folder / f"shard-{shard}", record, wanted[shard]["recipe"])
        for shard, record in enumerate(records)
    )
    asked = all(trained_job(run, entry.id).train.question_loss == "yes" for entry in entries)
    how = QUESTION_LIKELIHOOD if asked and len(entries) > 1 else CONFIDENCE
    path = BASE if _needs_base(base, folder) else None
    return BankManifest(BaseRef.of(base, path), entries, how)
