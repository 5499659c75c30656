"""Which shards are trained, and on what: the record of each, proved before it is believed."""

from __future__ import annotations

import tempfile
from pathlib import Path

from memo_dist.config.schema import Config
from memo_dist.errors import UsageError
from memo_dist.io import atomic
from memo_dist.io.hashing import hash_file
from memo_dist.io.runfolder import RunFolder
from memo_dist.memory.manifest import FILE_NAME
from memo_dist.models.identity import BaseModel
from memo_dist.stages.records import SYNTHESIS
from memo_dist.stages.state import require
from memo_dist.synthesis.finish import check_reflections
from memo_dist.training import checkpoint
from memo_dist.training.prepare import EXAMPLES, JOB, shard_examples
from memo_dist.training.trained_on import TrainedOn, current_inputs, load_record


def pending_shards(run: RunFolder, config: Config, base: BaseModel) -> dict[int, TrainedOn]:
    """The shards that have no complete final weights yet, with what they are to be trained on.

    Raises:
        UsageError: the reflections are not those of the run's corpus, or a shard was trained on
            something else than the run holds now; names what changed.
    """
    check_reflections(run)
    now = current_inputs(run, config, base)
    pending = {}
    for shard, inputs in enumerate(now):
        if not checkpoint.is_complete(_final(run, shard)):
            pending[shard] = inputs
            continue
        changes = trained_on(run, config, shard, base).changes(inputs)
        if changes:
            raise _stale(run, shard, changes)
    return pending


def trained_on(run: RunFolder, config: Config, shard: int, base: BaseModel) -> TrainedOn:
    """What the final weights of a shard were trained on.

    A training of an earlier version has no record: it gets one where the run proves what it
    would say.

    Raises:
        UsageError: the record is of another training, or there is none and no proof.
    """
    job = checkpoint.read_state(_final(run, shard)).job
    found = load_record(run.train(shard))
    if found is None:
        return _adopt(run, config, shard, base, job)
    if found[0] != job:
        raise UsageError(
            f"the weights in {_final(run, shard)} are of training {job[:16]}, the record beside"
            f" them is of {found[0][:16]}; remove {run.train(shard)} to train anew"
        )
    return found[1]


def check_base(run: RunFolder, shard: int, record: TrainedOn, base: BaseModel) -> None:
    """Refuse a base that is not the one that a shard was trained from.

    Raises:
        UsageError: it is another one.
    """
    if record.base != base.weights_hash:
        raise UsageError(
            f"memory.base={base.name} has weights {base.weights_hash[:16]} now, shard {shard} of"
            f" {run.root} was trained from {record.base[:16]}: bring that base back, or remove"
            f" {run.train(shard)} and {run.memory} to train anew"
        )


def _adopt(run: RunFolder, config: Config, shard: int, base: BaseModel, job: str) -> TrainedOn:
    """Write the record of an earlier version's training, where nothing has changed since.

    That is: job.json describes these weights, today's reflections give the very examples that
    they were trained on, and the bank that was exported names the same base.
    """
    require(run, SYNTHESIS)
    check_reflections(run)
    described = run.train(shard) / JOB
    proved = (
        described.exists()
        and atomic.read_json(described)["identity"] == job
        and _bank_base(run) == base.weights_hash
        and _examples_hash(run, config, shard, base) == hash_file(run.train(shard) / EXAMPLES)
    )
    if not proved:
        raise UsageError(
            f"shard {shard} of {run.root} was trained by an earlier version of memo-dist, and the"
            " run does not prove that its documents, reflections and memory.base are still those"
            " of that training; its memory can be used as it is (ask, evaluate). Encode into a"
            f" new --run, or remove {run.root / 'train'} and {run.memory} to train anew"
        )
    record = current_inputs(run, config, base)[shard]
    record.save(run.train(shard), job)
    return record


def _bank_base(run: RunFolder) -> str | None:
    bank = run.memory / FILE_NAME
    return str(atomic.read_json(bank)["base"]["weights_hash"]) if bank.exists() else None


def _examples_hash(run: RunFolder, config: Config, shard: int, base: BaseModel) -> str:
    with tempfile.TemporaryDirectory(dir=run.train(shard)) as folder:
        path = Path(folder) / EXAMPLES
        shard_examples(run, config, shard, base).trained.save(path)
        return hash_file(path)


def _stale(run: RunFolder, shard: int, changes: list[str]) -> UsageError:
    return UsageError(
        f"shard {shard} of {run.root} was trained on something else than the run holds now:\n  "
        + "\n  ".join(changes)
        + f"\nbring that back, encode into a new --run, remove {run.train(shard)} to train anew,"
        " or let `memo-dist update` train what changed"
    )


def _final(run: RunFolder, shard: int) -> Path:
    return run.train(shard) / "final"
