"""The stages in order: corpus, reflections, memories, bank. Each finds its own work done or not.

What trains and exports is imported by the stages that do so: corpus and reflections need no torch,
whose import with transformers' and DeepSpeed's takes longer than reading a small corpus.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING

from memo_dist.cluster.ray_local import ray_session
from memo_dist.cluster.stop import STOP
from memo_dist.config.schema import Config
from memo_dist.config.stages import corpus_settings
from memo_dist.corpus.build import build_corpus
from memo_dist.corpus.manifest import CorpusManifest
from memo_dist.errors import UsageError
from memo_dist.io import atomic
from memo_dist.io.hashing import hash_file
from memo_dist.io.marker import COMPLETE, require_whole
from memo_dist.io.runfolder import RunFolder
from memo_dist.io.store import Place
from memo_dist.memory.manifest import FILE_NAME
from memo_dist.observability.logs import quiet_libraries
from memo_dist.stages.records import CORPUS, EXPORT, SYNTHESIS, TRAIN
from memo_dist.stages.state import is_done, require
from memo_dist.synthesis.engine import synthesize
from memo_dist.synthesis.finish import SynthesisSummary
from memo_dist.synthesis.generators import generator_factory
from memo_dist.synthesis.stages import check_revisable

if TYPE_CHECKING:
    from memo_dist.training.memory_need import MemoryNeed


def check_before(config: Config) -> MemoryNeed | None:
    """Refuse what cannot work before anything is written; fetch the base model if need be.

    Returns:
        The memory need of one training rank; None where another machine trains.
    """
    quiet_libraries()
    from memo_dist.models.base import SCRATCH_NAME, find_base
    from memo_dist.training.enriched import check_teacher
    from memo_dist.training.prepare import check_machine, check_training

    if config.memory.base != SCRATCH_NAME:
        find_base(config.memory.base)
    check_training(config)
    check_teacher(config)
    return None if config.cluster.address else check_machine(config)


def run_corpus(
    run: RunFolder, config: Config, source: Place, revise: bool = False
) -> CorpusManifest:
    """Read the corpus into the run; with ``revise`` also one that changed since it was read."""
    if revise:
        check_revisable(run)
    return build_corpus(source, run.corpus, corpus_settings(config), revise)


def run_synthesis(run: RunFolder, config: Config) -> SynthesisSummary:
    """Write the reflections."""
    require(run, CORPUS)
    return synthesize(run, config, generator_factory(config), STOP)


def run_training(run: RunFolder, config: Config, resume: str = "auto") -> None:
    """Train the shards of the bank that are not trained yet, side by side where they fit."""
    from memo_dist.training.bank_work import BankWork
    from memo_dist.training.start import train_by_ray

    train_by_ray(BankWork(resume), run, config)


def run_export(run: RunFolder, config: Config) -> None:
    """Verify and publish every shard's memory, and write the bank."""
    quiet_libraries()
    from memo_dist.training import checkpoint
    from memo_dist.training.done import check_base, trained_on
    from memo_dist.training.prepare import trained_base
    from memo_dist.training.publish import publish

    shards = range(config.corpus.shards)
    for shard in shards:
        if not checkpoint.is_complete(run.train(shard) / "final"):
            raise UsageError(f"shard {shard} of {run.root} {TRAIN.missing}")
        advice = f"bring it back from a copy, or remove {run.train(shard)} to train anew"
        require_whole([run.train(shard) / "final" / COMPLETE], advice)
    base = trained_base(run, config)
    records = [trained_on(run, config, shard, base) for shard in shards]
    for shard, record in enumerate(records):
        check_base(run, shard, record, base)
    publish(run, config, base, records)


def encode(run: RunFolder, config: Config, source: Place, resume: str = "auto") -> None:
    """The whole chain from a corpus to a bank that answers."""
    run_corpus(run, config, source)
    # One Ray session for both stages where both have work; each opens its own where it alone has.
    with nullcontext() if is_done(run, SYNTHESIS) else ray_session(config.cluster):
        run_synthesis(run, config)
        run_training(run, config, resume)
    run_export(run, config)


def fingerprint(run: RunFolder) -> dict[str, str]:
    """Hashes of what an encode made: equal for equal inputs, configuration and machine shape."""
    require(run, EXPORT)
    bank = atomic.read_json(run.memory / FILE_NAME)
    weights = {f"shard-{row['id']}": row["weights_hash"] for row in bank["shards"]}
    return {"reflections": hash_file(run.reflections), **weights}
