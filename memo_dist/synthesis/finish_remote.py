"""The end of a synthesis in a Ray worker, so that the driver's memory does not grow with it."""

from __future__ import annotations

import ray

from memo_dist.config.schema import SynthesisConfig
from memo_dist.errors import RunError
from memo_dist.io.runfolder import RunFolder
from memo_dist.synthesis.finish import SynthesisSummary, finish
from memo_dist.synthesis.plan import Plan


def finish_remotely(run: RunFolder, plan: Plan, limits: SynthesisConfig) -> SynthesisSummary:
    """See :func:`memo_dist.synthesis.finish.finish`; inside a Ray session.

    Raises:
        OSError: the run folder cannot be written.
        RunError: the worker died (out of memory, a lost node); the parts are kept.
    """
    task = ray.remote(num_cpus=1, max_retries=1)(finish)
    there = RunFolder(run.root.absolute())
    try:
        summary: SynthesisSummary = ray.get(task.remote(there, plan, limits))
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
    except ray.exceptions.RayError as error:
        raise RunError(
            f"merging the reflections in {run.synth} ended early ({type(error).__name__}: {error});"
            " it holds all reflections in memory, a few kilobytes each"
        ) from error
    return summary
