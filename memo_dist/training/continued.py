"""Trainings that continue old weights instead of the base: ``update.policy=continue``.

They see the reflections that are new and a seeded sample of those that the old weights know, so
that these are not lost (experience replay). What the old weights know of removed or replaced
documents is not unlearned: the result is not that of one encode, and the card says so.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from memo_dist.config.schema import Config
from memo_dist.errors import UsageError
from memo_dist.io import atomic
from memo_dist.io.hashing import stable_modulo
from memo_dist.io.runfolder import RunFolder
from memo_dist.models.identity import hash_weights
from memo_dist.synthesis.types import Reflection

FILE = "continued-from.json"
_BUCKETS = 1 << 32
_MEMORY = re.compile(r"memory(/gen-\d+)?/shard-\d+")


@dataclass(frozen=True, slots=True)
class Start:
    """Where a continued training begins.

    Attributes:
        folder: of the old memory, relative to the run.
        weights: hash of its weights.
        replay: fraction of the known reflections that are trained again.
    """

    folder: str
    weights: str
    replay: float

    def known(self, run: RunFolder, shard: int) -> set[str]:
        """Ids of the reflections that the old weights were trained on."""
        path = (run.root / self.folder).parent / run.reflections.name
        return {row["id"] for row in atomic.read_jsonl(path) if row["shard"] == shard}


def check_continues(config: Config) -> None:
    """Refuse what cannot be continued.

    Raises:
        UsageError: adapters, raw documents, or a vocabulary that changes with the corpus.
    """
    if config.train.method != "full" or config.train.source != "reflections":
        raise UsageError(
            "update.policy=continue needs train.method=full and train.source=reflections; use"
            " update.policy=retrain"
        )


def begin(run: RunFolder, config: Config, shard: int) -> None:
    """Let the next training of a shard continue the weights of the bank that answers.

    Raises:
        UsageError: the bank does not keep the reflections that it was trained on.
    """
    memory = run.memory_shard(shard)
    if run.trained_reflections == run.reflections:
        raise UsageError(
            f"the bank in {run.memory} is of an earlier version, which does not tell new"
            " reflections from known ones: use update.policy=retrain once"
        )
    folder = memory.relative_to(run.root).as_posix()
    start = Start(folder, hash_weights(memory), config.update.replay)
    atomic.write_json(run.train(shard) / FILE, asdict(start))


def load_start(folder: Path) -> Start | None:
    """Where the training in a shard's folder begins; None: at the base.

    Raises:
        UsageError: the file is damaged, or names a folder outside of the bank.
    """
    path = folder / FILE
    if not path.exists():
        return None
    try:
        start = Start(**atomic.read_json(path))
        if not _MEMORY.fullmatch(start.folder):
            raise ValueError(f"{start.folder!r} is no shard of a bank")
    except (OSError, ValueError, TypeError) as error:
        raise UsageError(
            f"'{path}' cannot be read ({error}); remove {folder} to train anew"
        ) from error
    return start


def replayed(
    reflections: Sequence[Reflection], known: set[str], replay: float, seed: int
) -> list[Reflection]:
    """New reflections and a sample of the known ones, in the given order.

    Args:
        reflections: of the shard.
        known: ids that the old weights were trained on.
        replay: fraction of the known ones that stays.
        seed: changes the sample.
    """

    def order(row: Reflection) -> int:
        return stable_modulo(f"replay:{seed}:{row.id}", _BUCKETS)

    old = sorted((row for row in reflections if row.id in known), key=order)
    chosen = {row.id for row in old[: math.ceil(replay * len(old))]}
    return [row for row in reflections if row.id not in known or row.id in chosen]
