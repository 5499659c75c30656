"""Writing checkpoints while training goes on, and finding the one to continue from.

A save copies this rank's state into host memory and hands it to a thread. The checkpoint becomes
complete at a later step border, once all ranks have said (in the all-reduce that every border
has) that their files are written; a stop waits for it. Only then do older checkpoints go.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from memo_dist.cluster.ranks import Ranks
from memo_dist.errors import RunError, UsageError
from memo_dist.io import atomic
from memo_dist.io.marker import damage
from memo_dist.training import checkpoint
from memo_dist.training.checkpoint import TrainState
from memo_dist.training.deepspeed_seam import Engine
from memo_dist.training.fragment_files import FragmentReader, snapshot, write_fragments
from memo_dist.training.job import RESUME_CHOICES, RankJob, TrainJob

logger = logging.getLogger(__name__)

BEST = "best"
"""Folder, among the checkpoints, of the weights with the best recall of held-out wordings."""


class Saver:
    """One rank's side of the checkpoints of one training.

    Args:
        job: the training's.
        ranks: this rank's place.
        on_complete: called on rank 0 just before a checkpoint becomes complete.
    """

    def __init__(
        self, job: RankJob, ranks: Ranks, on_complete: Callable[[TrainState], None]
    ) -> None:
        self._job, self._ranks, self._on_complete = job, ranks, on_complete
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writing: Future[None] | None = None
        self._state: TrainState | None = None

    @property
    def pending(self) -> bool:
        """Whether a checkpoint is begun and not complete; equal on all ranks."""
        return self._state is not None

    @property
    def unwritten(self) -> bool:
        """Whether this rank's files are not all written.

        Raises:
            OSError: they cannot be (a full disk).
        """
        if self._writing is not None and self._writing.done():
            self._writing.result()
        return self._writing is not None and not self._writing.done()

    def begin(self, engine: Engine, state: TrainState) -> None:
        """Copy the state and start writing it; collective."""
        folder = self._folder(state)
        fragments = snapshot(engine.fragments())
        random = checkpoint.random_state()

        def write() -> None:
            write_fragments(folder, self._ranks.rank, fragments)
            atomic.write_bytes(folder / checkpoint.random_file(self._ranks.rank), random)

        if self._ranks.is_first:
            shutil.rmtree(folder, ignore_errors=True)  # what a kill left of an earlier try
            folder.mkdir(parents=True)
        self._ranks.barrier()
        self._writing, self._state = self._pool.submit(write), state

    def finish(self) -> None:
        """Wait for this rank's files and make the checkpoint complete; collective."""
        if self._writing is None or self._state is None:
            return
        self._writing.result()
        folder = self._folder(self._state)
        # Without ZeRO it alone writes, and all of it.
        self._ranks.barrier_after_first(f"{folder} is written")
        if self._ranks.is_first:
            self._on_complete(self._state)
            checkpoint.complete(folder, self._state)
            checkpoint.prune(folder.parent, self._job.train.keep_checkpoints)
        self._ranks.barrier_after_first(f"{folder} is complete")
        self._writing = self._state = None

    def _folder(self, state: TrainState) -> Path:
        return self._job.checkpoints / checkpoint.tag(state.step)

    # -- the best weights so far ---------------------------------------------------------------

    def keep_best(self, engine: Engine, step: int, recall: float) -> None:
        """Write the trained weights as the best so far; collective."""
        folder, new = self._job.checkpoints / BEST, self._job.checkpoints / f".{BEST}"
        weights = {n: (s, {"weight": v["weight"]}) for n, (s, v) in engine.fragments().items()}
        if self._ranks.is_first:
            shutil.rmtree(new, ignore_errors=True)
            new.mkdir(parents=True)
        self._ranks.barrier()
        write_fragments(new, self._ranks.rank, snapshot(weights))
        self._ranks.barrier_after_first(f"{new} of step {step} is written")
        if self._ranks.is_first:
            values = {"step": step, "recall": recall, "job": self._job.identity}
            atomic.write_json(new / checkpoint.STATE, values)
            checkpoint.publish(new, folder)
        self._ranks.barrier_after_first(f"{folder} of step {step} is complete")

    def best(self) -> tuple[int, float, FragmentReader] | None:
        """(step, recall, weights) of the best so far, or None."""
        folder = self._job.checkpoints / BEST
        if not checkpoint.is_complete(folder):
            return None
        lines = damage(folder / checkpoint.COMPLETE)
        if lines:
            logger.warning("%s; the last weights are taken, not the best", "; ".join(lines))
            return None
        state = atomic.read_json(folder / checkpoint.STATE)
        if state["job"] != self._job.identity:
            return None
        return state["step"], state["recall"], FragmentReader(folder)


def find_checkpoint(job: RankJob) -> tuple[Path, TrainState] | None:
    """The newest complete checkpoint of a job (or the one asked for), checked.

    The number of ranks and the ZeRO stage may have changed since; the job may not.

    Raises:
        RunError: it is of another job, base, configuration or file format.
    """
    folder = _asked_for(job)
    if folder is None:
        return None
    state = checkpoint.read_state(folder)
    if state.job != job.identity:
        raise RunError(
            f"checkpoint {folder.name} was written with job={state.job}, this launch has"
            f" {job.identity} (another base, configuration or examples): start with the same, or"
            f" remove {folder.parent} to train anew"
        )
    return folder, state


def _asked_for(job: RankJob) -> Path | None:
    newest = job.resume in RESUME_CHOICES
    return checkpoint.latest(job.checkpoints) if newest else Path(job.resume)


def settle_checkpoint(job: RankJob, ranks: Ranks) -> None:
    """Make sure that the checkpoint to continue from is whole; collective.

    Ranks share the hashing. A damaged one is set aside, and the one before takes its place.

    Raises:
        RunError: the one that was asked for by its path is damaged, or see
            :func:`find_checkpoint`.
    """
    while folder := _asked_for(job):
        lines = damage(folder / checkpoint.COMPLETE, part=(ranks.rank, ranks.world))
        if not ranks.any([bool(lines)], ranks.device)[0]:
            return
        if ranks.is_first:
            _set_aside(job, folder, lines)
        ranks.barrier()


def _set_aside(job: RankJob, folder: Path, lines: Sequence[str]) -> None:
    text = "; ".join(lines) or f"{folder} is damaged (another rank's part of it)"
    if job.resume not in RESUME_CHOICES:
        raise RunError(f"{text}; name another checkpoint, or --resume auto")
    place = checkpoint.set_aside(folder)
    logger.warning(
        "%s; it is set aside as %s, and the checkpoint before it is used", text, place.name
    )


def with_resume(job: TrainJob, resume: str) -> TrainJob:
    """Apply ``--resume PATH``: one of this training's own checkpoints, or of another shard's.

    One from elsewhere is refused: its ledger and data order are those of another run.
    """
    if resume in RESUME_CHOICES:
        while folder := _asked_for(job):  # ranks look at the large files
            lines = damage(folder / checkpoint.COMPLETE, only=checkpoint.STATE)
            if not lines:
                break
            _set_aside(job, folder, lines)
        find_checkpoint(job)  # refuses another job's before a rank holds a GPU
        return job
    folder = Path(resume).resolve()
    if not folder.is_relative_to(job.path.parent.resolve()):
        raise UsageError(
            f"--resume {resume} is not inside {job.path.parent}: only the run's own checkpoints are"
            " loaded"
        )
    if not folder.is_relative_to(job.checkpoints.resolve()):
        return job
    if not checkpoint.is_complete(folder):
        raise UsageError(f"--resume {resume} is not a complete checkpoint")
    return replace(job, resume=str(folder))
