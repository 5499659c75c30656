"""Trainings that a changed corpus has overtaken: removed, so that they are done again, and exactly.

A shard's weights are a function of its own reflections, of the base and of the configuration. So a
shard whose record (``trained-on.json``) names what the run holds now is what a new encode would
train; any other one is trained from the base again, or, with ``update.policy=continue``, from its
old weights.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from memo_dist.config.schema import Config
from memo_dist.errors import UsageError
from memo_dist.io import atomic
from memo_dist.io.runfolder import RunFolder
from memo_dist.models.base import SCRATCH_NAME
from memo_dist.training import checkpoint
from memo_dist.training.continued import begin, check_continues, load_start, settle, take_up
from memo_dist.training.prepare import memory_base, scratch_is_current
from memo_dist.training.trained_on import TrainedOn, current_inputs, load_record

_REMOVED = f"{atomic.TEMP_PREFIX}removed-"


def drop_outdated(run: RunFolder, config: Config) -> list[int]:
    """Remove the trainings of other documents, reflections or base than the run holds now.

    A kill at any moment leaves each training whole or gone, with a note where old weights are to
    be continued; the exported bank is not touched.

    Args:
        run: the run, its synthesis complete.
        config: its configuration.

    Returns:
        The shards that have no final weights now.

    Raises:
        UsageError: the base cannot be found.
    """
    for path in (run.root / "train").glob(f"{_REMOVED}*"):
        shutil.rmtree(path)
    shards = range(config.corpus.shards)
    continues = config.update.policy == "continue"
    if continues:
        check_continues(config)
    settle(run, continues)
    if config.memory.base == SCRATCH_NAME and scratch_is_current(run, config) is False:
        if continues:
            raise UsageError(
                "update.policy=continue needs a base that stays: this run's vocabulary is learned"
                " from its corpus (memory.scratch.tokenizer=corpus); use update.policy=retrain"
            )
        for shard in shards:
            _drop(run.train(shard))
        _drop(run.root / "train" / "base")
    base = memory_base(run, config)
    for shard, inputs in enumerate(current_inputs(run, config, base)):
        if _is_outdated(run.train(shard), inputs, continues):
            if continues:
                begin(run, config, shard)
            _drop(run.train(shard))
            if continues:
                take_up(run, shard)
    return [shard for shard in shards if not checkpoint.is_complete(run.train(shard) / "final")]


def _is_outdated(folder: Path, inputs: TrainedOn, continues: bool) -> bool:
    """Whether a training has begun in ``folder`` that is not one of ``inputs``.

    One that continued old weights is none, unless trainings are to do so.
    """
    found = load_record(folder)
    if found is None:  # nothing, or an earlier version's, which does not say
        return folder.exists() and not (continues and load_start(folder))
    job, record = found
    if record.changes(inputs) or (record.continued and not continues):
        return True
    final = folder / "final"
    return checkpoint.is_complete(final) and checkpoint.read_state(final).job != job


def _drop(folder: Path) -> None:
    if folder.exists():
        hidden = folder.with_name(f"{_REMOVED}{folder.name}")
        folder.rename(hidden)
        shutil.rmtree(hidden)
