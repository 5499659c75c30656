"""Trainings that continue old weights instead of the base: ``update.policy=continue``.

They see the reflections that are new and a seeded sample of those that the old weights know, so
that these are not lost (experience replay). What the old weights know of removed or replaced
documents is not unlearned: the result is not that of one encode, and the card says so.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from memo_dist.config.schema import Config
from memo_dist.errors import UsageError
from memo_dist.io import atomic
from memo_dist.io.hashing import hash_file, stable_modulo
from memo_dist.io.runfolder import RunFolder
from memo_dist.models.identity import hash_weights
from memo_dist.synthesis.types import Reflection
from memo_dist.training.recall import HELD_OUT
from memo_dist.training.trained_on import EXPORT_RECORD, READ_HELD_OUT

FILE = "continued-from.json"
_WAITING = ".continue-{}.json"
"""Beside a shard's folder until the training before it is removed."""
_BUCKETS = 1 << 32
_MEMORY = re.compile(r"memory(/gen-\d+)?/shard-\d+")


@dataclass(frozen=True, slots=True)
class Start:
    """Where a continued training begins.

    Attributes:
        folder: of the old memory, relative to the run.
        weights: hash of its weights.
        replay: fraction of the known reflections that are trained again.
        held_out: ids of the old memory's reflections that its weights were not trained on.
    """

    folder: str
    weights: str
    replay: float
    held_out: tuple[str, ...] = ()

    def known(self, run: RunFolder, shard: int) -> set[str]:
        """Ids of the reflections that the old weights were trained on."""
        path = (run.root / self.folder).parent / run.reflections.name
        rows = (row["id"] for row in atomic.read_jsonl(path) if row["shard"] == shard)
        return set(rows).difference(self.held_out)


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
    """Note that the next training of a shard continues the weights of the bank that answers.

    The note stands beside the shard's folder, whose training is still to be removed; it counts
    from :func:`take_up` on.

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
    weights = hash_weights(memory)
    start = Start(folder, weights, config.update.replay, _held_out(run, shard, weights))
    atomic.write_json(_waiting(run, shard), asdict(start))


def take_up(run: RunFolder, shard: int) -> None:
    """Move the note of :func:`begin` into the shard's folder, which is empty or new."""
    folder = run.train(shard)
    folder.mkdir(parents=True, exist_ok=True)
    _waiting(run, shard).replace(folder / FILE)


def settle(run: RunFolder, continues: bool) -> None:
    """Take up the notes whose trainings a killed launch has removed, and drop the others.

    Args:
        run: the run.
        continues: trainings may begin at old weights.
    """
    start, _, end = _WAITING.partition("{}")
    for path in (run.root / "train").glob(f"{start}*{end}"):
        shard = int(path.name.removeprefix(start).removesuffix(end))
        if continues and not _is_filled(run.train(shard)):
            take_up(run, shard)
        else:
            path.unlink()


def _is_filled(folder: Path) -> bool:
    return folder.exists() and any(folder.iterdir())


def _waiting(run: RunFolder, shard: int) -> Path:
    return run.train(shard).with_name(_WAITING.format(shard))


def _held_out(run: RunFolder, shard: int, weights: str) -> tuple[str, ...]:
    """Ids that the bank's weights of a shard were not trained on; empty where that is not known.

    The shard's folder tells them where it holds the bank's training, or one that began at the
    bank's weights.
    """
    folder, record = run.train(shard), run.memory_shard(shard) / EXPORT_RECORD
    path = folder / HELD_OUT
    exported = atomic.read_json(record)["read"].get(READ_HELD_OUT) if record.exists() else None
    if path.exists() and hash_file(path) == exported:
        return tuple(row["id"] for row in atomic.read_jsonl(path))
    start = load_start(folder)
    return start.held_out if start is not None and start.weights == weights else ()


def load_start(folder: Path) -> Start | None:
    """Where the training in a shard's folder begins; None: at the base.

    Raises:
        UsageError: the file is damaged, or names a folder outside of the bank.
    """
    path = folder / FILE
    if not path.exists():
        return None
    try:
        values = atomic.read_json(path)
        start = Start(**{**values, "held_out": tuple(values.get("held_out", ()))})
        if not _MEMORY.fullmatch(start.folder):
            raise ValueError(f"{start.folder!r} is no shard of a bank")
    except (OSError, ValueError, TypeError) as error:
        raise UsageError(
            f"'{path}' cannot be read ({error}); remove {folder} to train anew"
        ) from error
    return start


def replayed(
    reflections: Sequence[Reflection], known: Collection[str], replay: float, seed: int
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
