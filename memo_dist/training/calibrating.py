"""At the export: what a shard's confidence rests on, from questions held out of its training."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

from memo_dist.config.schema import Config
from memo_dist.io import atomic
from memo_dist.io.runfolder import RunFolder
from memo_dist.memory.calibration import Calibration, fit_calibration
from memo_dist.memory.familiarity import Familiarity
from memo_dist.memory.loading import Memories
from memo_dist.memory.provenance import reflections_hash
from memo_dist.memory.wordings import answer_wordings
from memo_dist.synthesis.shard_files import shard_reflections
from memo_dist.synthesis.types import Reflection
from memo_dist.training.prepare import HELD_OUT
from memo_dist.training.trained_on import TrainedOn

logger = logging.getLogger(__name__)


def calibrate(
    run: RunFolder,
    config: Config,
    shard: int,
    record: TrainedOn,
    memory: Memories,
) -> tuple[Calibration, Familiarity | None]:
    """Ask the memory what was held out, and fit its confidence.

    Args:
        run: the run.
        config: ``export.wordings``, ``export.familiarity`` and ``export.refusal`` decide.
        shard: which shard.
        record: what it was trained on.
        memory: the exported weights, loaded.

    Returns:
        The calibration, and the familiarity that it was fitted with.
    """
    rows = atomic.read_jsonl(run.train(shard) / HELD_OUT)
    held = [Reflection.from_json(row) for row in rows]
    familiarity = _familiarity(run, config, shard, record, held)
    questions = [row.question for row in held]
    count, size = config.export.wordings, config.evaluate.batch_size
    answers = answer_wordings(memory, {shard: questions}, size, count)[shard]
    if familiarity is not None:
        answers = [familiarity.complete(*pair) for pair in zip(questions, answers, strict=True)]
    gold = [None if row.kind == "abstain" else row.answer for row in held]
    fitted = fit_calibration(answers, gold, config.export.refusal)
    return replace(fitted, wordings=count), familiarity


def _familiarity(
    run: RunFolder, config: Config, shard: int, record: TrainedOn, held: Sequence[Reflection]
) -> Familiarity | None:
    """Of the questions that the shard was trained on; None where it is off or they are gone."""
    if not config.export.familiarity or config.train.source != "reflections":
        return None
    reflections = list(shard_reflections(run, shard)) if run.reflections.exists() else []
    if reflections_hash(reflections) != record.reflections:
        logger.warning(
            "%s does not hold the reflections that shard %s was trained on: its confidence does"
            " without export.familiarity; bring them back and export again",
            run.reflections,
            shard,
        )
        return None
    out = {row.id for row in held}
    trained = (row for row in reflections if row.id not in out and row.kind != "abstain")
    return Familiarity.of((row.question, row.answer) for row in trained)
