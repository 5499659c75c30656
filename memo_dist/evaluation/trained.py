"""The questions that a run's memory was trained on, read from the run's own files."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from memo_dist.evaluation.questions import Question
from memo_dist.evaluation.taught import Taught, abstains
from memo_dist.io import atomic
from memo_dist.io.runfolder import RunFolder
from memo_dist.memory.manifest import ShardEntry, load_manifest
from memo_dist.memory.provenance import reflections_hash
from memo_dist.synthesis.types import Reflection


@dataclass(frozen=True)
class Trained:
    """The training questions of a memory.

    Attributes:
        taught: the reflections that were trained on; None where they are not known.
        missing: why they are not known; empty where they are.
    """

    taught: Taught | None = None
    missing: str = ""

    @property
    def rows(self) -> Sequence[Reflection]:
        """The reflections; empty where they are not known."""
        return self.taught.rows if self.taught else ()

    def sample(self, count: int, seed: int) -> list[Question]:
        """``count`` of the trained questions (or all), each with its trained answer as gold.

        The same reflections and seed give the same questions, and a larger sample holds the
        smaller one. Trained abstentions count as unanswerable ones.
        """
        chosen = list(self.rows)
        random.Random(seed).shuffle(chosen)
        return [_as_question(row) for row in chosen[:count]]


def load_trained(run: RunFolder) -> Trained:
    """The trained questions of all shards of the run's bank, in the order of the reflections.

    A shard's reflections must have the hash that ``bank.json`` lists. Those that the training
    kept out (held out for the calibration, too long) do not count. A part of the shards would
    mislead, so one shard whose questions are not known makes all of them unknown.
    """
    if not run.trained_reflections.exists():
        return Trained(missing=f"{run.trained_reflections} is missing")
    shards: dict[int, list[Reflection]] = defaultdict(list)
    for row in atomic.read_jsonl(run.trained_reflections):
        reflection = Reflection.from_json(row)
        shards[reflection.shard].append(reflection)
    rows: list[Reflection] = []
    for entry in load_manifest(run.memory).shards:
        reason = _unknown(run, entry, shards[entry.id])
        if reason:
            return Trained(missing=reason)
        kept_out = _kept_out(run, entry.id)
        rows += [row for row in shards[entry.id] if row.id not in kept_out]
    return Trained(Taught(rows)) if rows else Trained(missing="no question was trained")


def _unknown(run: RunFolder, entry: ShardEntry, rows: Sequence[Reflection]) -> str:
    """Why it is not known what a shard was trained on; empty where it is."""
    # Imported here: the modules load torch, which a report does not need.
    from memo_dist.training.recall import HELD_OUT
    from memo_dist.training.trained_on import load_record

    if reflections_hash(rows) != entry.reflections_hash:
        return (
            f"shard {entry.id} of the memory was trained on other reflections than"
            f" {run.trained_reflections} holds now"
        )
    held_out = run.train(entry.id) / HELD_OUT
    if not held_out.exists():
        return f"{held_out} is missing, so the questions that were not trained are not known"
    record = load_record(run.train(entry.id))
    if record and record[1].settings.get("train.source") == "documents":
        return "the memory was trained on documents (train.source), not on questions"
    return ""


def _kept_out(run: RunFolder, shard: int) -> set[str]:
    """Ids of the shard's reflections that it was not trained on."""
    from memo_dist.training.prepare import HELD_OUT, TOO_LONG

    paths = [run.train(shard) / name for name in (HELD_OUT, TOO_LONG)]
    return {row["id"] for path in paths if path.exists() for row in atomic.read_jsonl(path)}


def _as_question(row: Reflection) -> Question:
    answerable = not abstains(row)
    return Question(
        id=f"trained-{row.id}",
        question=row.question,
        answer=row.answer if answerable else "",
        supporting_ids=row.sources,
        answerable=answerable,
        type="trained",
    )
