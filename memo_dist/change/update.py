"""``update``: a changed corpus becomes a new generation of the bank, exactly.

Only units with a changed document are asked again (``synthesize --revise``), only shards whose
reflections changed are trained again (:mod:`memo_dist.training.renew`), and the bank before answers
until the new generation is complete. Each part finds its own work done, so the same command
continues after a stop or a crash.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass

from memo_dist import pipeline
from memo_dist.change.difference import Difference, bank_documents, corpus_documents, difference
from memo_dist.change.merged import refuse_merged
from memo_dist.change.pending import Pending
from memo_dist.change.replaced import clear_replaced, keep_replaced
from memo_dist.change.request import Request, apply, preview
from memo_dist.cluster.ray_local import ray_session
from memo_dist.config.schema import Config
from memo_dist.io.runfolder import RunFolder
from memo_dist.memory.manifest import load_manifest
from memo_dist.memory.tombstones import load_tombstones, refuse_forgotten
from memo_dist.stages.records import EXPORT
from memo_dist.stages.state import require
from memo_dist.synthesis.stages import check_revisable


@dataclass(frozen=True, slots=True)
class Updated:
    """What an update did.

    Attributes:
        difference: documents, against the bank that answered before.
        shards: those that this launch trained.
        generation: number of the one that answers now.
    """

    difference: Difference
    shards: list[int]
    generation: int


def update(run: RunFolder, config: Config, request: Request) -> Updated:
    """Bring the bank of an open run to the state of another corpus.

    Args:
        run: the run, open for writing.
        config: its configuration.
        request: what is asked for.

    Raises:
        UsageError: there is no bank, or what the stages refuse; the old generation answers.
        RunError: a stage failed; the old generation answers.
        StoppedError, InterruptedRunError: a stop was requested; the same command continues.
    """
    require(run, EXPORT)
    check_revisable(run)
    Pending.refuse(run.generations)
    refuse_merged(run)
    known = bank_documents(load_manifest(run.memory))
    if load_tombstones(run.generations):
        with preview(run, config, request) as folder:
            refuse_forgotten(run.generations, corpus_documents(folder))
    keep_replaced(run, request.replace.keys())
    apply(request, run.corpus, config)
    changes = difference(known, corpus_documents(run.corpus))
    done = renew(run, config, changes)
    clear_replaced(run.generations)
    return done


def renew(run: RunFolder, config: Config, changes: Difference) -> Updated:
    """Reflections, weights and bank of the corpus that the run holds now."""
    from memo_dist.training.renew import drop_outdated

    # One Ray session for both stages where both have work; each opens its own where it alone has.
    with nullcontext() if changes.empty else ray_session(config.cluster):
        pipeline.run_synthesis(run, config)
        shards = drop_outdated(run, config)
        pipeline.run_training(run, config)
    pipeline.run_export(run, config)
    return Updated(changes, shards, run.pin().pinned or 0)
