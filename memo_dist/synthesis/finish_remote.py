"""The end of a synthesis with its work in Ray workers, a task a shard and a part of the merge."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from memo_dist.cluster.ray_tasks import Done, Job, on_workers
from memo_dist.config.schema import SynthesisConfig
from memo_dist.io.runfolder import RunFolder
from memo_dist.synthesis.finish import SynthesisSummary, finish
from memo_dist.synthesis.plan import Plan


def finish_remotely(run: RunFolder, plan: Plan, limits: SynthesisConfig) -> SynthesisSummary:
    """See :func:`memo_dist.synthesis.finish.finish`; inside a Ray session.

    Raises:
        OSError: the run folder cannot be written.
        RunError: a worker died (out of memory, a lost node); the parts are kept.
    """

    def each(function: Callable[[Job], Done], jobs: Sequence[Job]) -> list[Done]:
        doing = (
            f"merging the reflections in {run.synth}, of which a worker holds one shard in memory"
            " (a few kilobytes each),"
        )
        return on_workers(function, jobs, doing)

    return finish(replace(run, root=run.root.absolute()), plan, limits, each)
