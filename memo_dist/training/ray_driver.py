"""One shard's training under Ray Train: started, shown, stopped, and its end put into words.

Nothing here waits: the bank's driver (memo_dist.training.bank_driver) polls every running shard
from the main thread, which stays free for signals.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from memo_dist import process
from memo_dist.cluster.placement import Placement, Room
from memo_dist.cluster.resources import memory_limit, oom_kills
from memo_dist.cluster.stop import STOP
from memo_dist.config.schema import Config
from memo_dist.errors import MemoDistError, RunError, UsageError
from memo_dist.io import atomic
from memo_dist.observability.progress import ProgressBoard
from memo_dist.observability.status import note_failure, read_status
from memo_dist.observability.trackers import MetricsMirror
from memo_dist.training import checkpoint, refusal
from memo_dist.training.bars import TrainingBars
from memo_dist.training.job import STOP_REQUEST, RankEntry, RankJob

logger = logging.getLogger(__name__)

OOM_SECONDS = 120.0
"""Seconds without a step, after a process was killed for want of memory, until that is an error."""
OOM_SETTLE = 10.0
"""A status that comes sooner after the kill may be that of a step which had ended before it."""
STEPS_WAITED = 3.0
"""Steps of the training's mean length that may pass first, where these are longer."""
SAVE_TIMEOUT = 900.0
"""Seconds that ranks have to save after a stop was requested."""
_START_TIMEOUT_ENV = "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"


class ShardTraining:
    """One shard's training, from waiting for its place to its end; :meth:`poll` moves it on.

    A rank that dies is restarted with its group from the newest complete checkpoint, at most
    ``train.max_failures`` times. A training that fails leaves ``failed`` and the error in the
    shard's STATUS.json.

    Attributes:
        job: what is trained.
        error: why it ended without final weights; None while it runs, when it is done, and
            when it was stopped on request.
    """

    def __init__(  # noqa: PLR0913 - what a training is started with
        self,
        job: RankJob,
        config: Config,
        placement: Placement,
        label: str,
        board: ProgressBoard,
        entry: RankEntry,
    ) -> None:
        self.job, self.label = job, label
        self.error: MemoDistError | None = None
        self._bars = TrainingBars(board, label)
        self._started = time.time()
        self._save_by: float | None = None
        self._oom_kills = oom_kills()
        self._oom_since: float | None = None
        self._oom_status: float | None = None
        self._damaged = set(job.checkpoints.glob(f"{checkpoint.DAMAGED}*"))
        self._request.unlink(missing_ok=True)
        refusal.clear(job.path)
        self._fit = _Fit(job, config, placement, entry)
        self._mirror = MetricsMirror(job.path, f"{_run_name(job)} {label}", config.track)
        self._room: Room | None = Room(placement, config.cluster.start_timeout, label)

    def poll(self) -> bool:
        """Show progress, pass a stop request on; True once the training has ended.

        After a stop signal to the whole process group Ray's calls fail while this process
        lives on: then a failure is not believed, the state on disk decides.
        """
        try:
            ended = self._poll()
        except Exception as error:
            self.error = error if isinstance(error, MemoDistError) else RunError(f"{error}")
            ended = True
        if ended:
            self._end()
        return ended

    @property
    def done(self) -> bool:
        """Whether the final weights are complete."""
        return checkpoint.is_complete(self.job.final)

    @property
    def _request(self) -> Path:
        return self.job.path / STOP_REQUEST

    def _poll(self) -> bool:
        if self._room is not None:
            return self._poll_room(self._room)
        self._show()
        self._tell_damage()
        self._check_memory()
        if STOP() and self._save_by is None:
            atomic.write_text(self._request, "stop\n")
            self._save_by = time.monotonic() + SAVE_TIMEOUT
        if self._save_by is not None and time.monotonic() > self._save_by:
            raise RunError(f"{self.label}: ranks did not save within {SAVE_TIMEOUT:.0f} s")
        return not self._fit.is_alive()

    def _poll_room(self, room: Room) -> bool:
        """Start the ranks once there is a place; a stop request comes before that."""
        if STOP():
            self._room = None
            room.close()
            return True
        if room.is_there():
            self._room = None
            self._fit.start()
            self._mirror.start()
        return False

    def _show(self) -> None:
        status = read_status(self.job.path)
        if status is not None and status["time"] >= self._started:
            self._bars.show(status)

    def _tell_damage(self) -> None:
        """Say what ranks have set aside: what they log stays in Ray's own files."""
        found = set(self.job.checkpoints.glob(f"{checkpoint.DAMAGED}*"))
        for folder in sorted(found - self._damaged):
            logger.warning(
                "%s: a checkpoint is damaged and was set aside as %s; the one before it is used",
                self.label,
                folder,
            )
        self._damaged |= found

    def _check_memory(self) -> None:
        """Do not wait for ever for what the kernel has killed (Ray's own daemons, for instance).

        A training that goes on has lost nothing by a kill, and later ones are counted from there.

        Raises:
            RunError: a process was killed for want of memory, and no step was made since then.
        """
        if oom_kills() == self._oom_kills:
            return
        now, status = time.monotonic(), read_status(self.job.path) or {}
        if self._oom_since is None:
            self._oom_since, self._oom_status = now, status.get("time")
        waited = now - self._oom_since
        if status.get("time") != self._oom_status:
            self._oom_status = status.get("time")
            if waited > OOM_SETTLE:  # the training goes on: it was another process
                self._oom_kills, self._oom_since = oom_kills(), None
        elif waited > _patience(status):
            raise RunError(
                f"{self.label}: no step for {waited:.0f} s after a process was killed."
                f" {_out_of_memory(self.job)}"
            )

    def _end(self) -> None:
        self._request.unlink(missing_ok=True)
        if self._mirror.ident is not None:
            self._mirror.finish()
        self._show()
        self._bars.close()
        refused = refusal.refused(self.job.path)
        refusal.clear(self.job.path)
        if self.done or STOP():
            self.error = None
            return
        if refused is not None:
            self.error = refused
        elif self.error is None:
            self.error = _readable(self._fit.error, self.label, self.job.path)
            if oom_kills() > self._oom_kills:
                self.error = RunError(f"{self.error}. {_out_of_memory(self.job)}")
        note_failure(self.job.path, str(self.error))  # its ranks, the file's writer, are gone


class _Fit(threading.Thread):
    """``trainer.fit()`` beside the main thread."""

    def __init__(
        self, job: RankJob, config: Config, placement: Placement, entry: RankEntry
    ) -> None:
        super().__init__(name="ray-train", daemon=True)
        self._job, self._config, self._placement = job, config, placement
        self._entry = entry
        self.error: BaseException | None = None

    def run(self) -> None:
        """Run Ray Train to its end; keep its error for the main thread."""
        try:
            self._trainer().fit()
        except BaseException as error:
            self.error = error

    def _trainer(self) -> Any:
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchTrainer

        from memo_dist.training.ray_ranks import MetRanks

        place, failures = self._placement, self._config.train.max_failures
        return TorchTrainer(
            partial(refusal.entered, self._entry, self._job.path, self._job.train),
            train_loop_config=self._job.to_json(),
            torch_config=MetRanks(
                backend="nccl" if place.gpu else "gloo",
                timeout_s=int(max(1800, self._config.cluster.start_timeout)),
            ),
            scaling_config=ScalingConfig(
                num_workers=place.ranks,
                use_gpu=place.gpu,
                resources_per_worker=place.rank_resources,
            ),
            run_config=RunConfig(
                name="ray",
                storage_path=str(self._job.path / "ray"),
                failure_config=FailureConfig(
                    max_failures=failures,
                    # Ray's default tries to start ranks for ever, without a word.
                    # https://github.com/ray-project/ray/pull/60376
                    controller_failure_limit=failures,
                ),
                worker_runtime_env={"env_vars": _rank_environment(place, self._job.threads)},
            ),
        )


def _patience(status: Mapping[str, Any]) -> float:
    """Seconds to wait for a step, by what earlier ones took."""
    mean = status.get("seconds", 0.0) / max(status.get("step", 0), 1)
    return max(OOM_SECONDS, STEPS_WAITED * float(mean))


def _out_of_memory(job: RankJob) -> str:
    """What to say where the kernel has killed a process of this machine's part of a training."""
    return (
        f"Out of memory: the kernel killed a process (limit {memory_limit()}). Lower"
        f" train.micro_batch_tokens={job.train.micro_batch_tokens} or cluster.workers, set"
        " train.gradient_checkpointing=true, or give it more memory"
    )


def _run_name(job: RankJob) -> str:
    """The run folder's name, from ``RUN/train/shard-<k>``."""
    return job.path.parent.parent.name


def start_environment(timeout: float) -> dict[str, str]:
    """Variables that Ray Train's controllers read: seconds to wait for a group of ranks."""
    return {_START_TIMEOUT_ENV: f"{timeout:g}"}


_KEEP_FREED_MEMORY = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 32),
    "THP_MEM_ALLOC_ENABLE": "1",
}
"""glibc's malloc gives every large block back to the kernel at once, and in a thread like Ray's
always; the next step's gradients then fault in page by page. Kept, and in huge pages (PyTorch's
variable), a step of SmolLM2-135M (ten layers, bf16, two threads) takes 0.51 instead of 0.62 s."""


def _rank_environment(placement: Placement, threads: int) -> dict[str, str]:
    env = {
        "OMP_NUM_THREADS": str(threads),
        "OMP_WAIT_POLICY": "PASSIVE",
        "TOKENIZERS_PARALLELISM": "false",
    }
    if not placement.gpu:
        env |= _KEEP_FREED_MEMORY
    return {**env, **process.accelerator_environment(placement.gpu)}


def _readable(error: BaseException | None, label: str, folder: Path) -> MemoDistError:
    """The first failure of a rank as one message; user errors keep their exit code."""
    if error is None:
        return RunError(f"{label} ended without final weights; see {folder}/STATUS.json")
    failures = getattr(error, "worker_failures", None) or {}
    for rank in sorted(failures):
        cause = failures[rank]
        cause = getattr(cause, "cause", None) or cause
        if isinstance(cause, UsageError):
            return UsageError(str(cause))
        return RunError(f"{label}: rank {rank} failed: {_cause(cause)}")
    return RunError(f"{label}: {error}")


def _cause(error: BaseException) -> str:
    """An error in one line; a rank whose process died left no error of its own."""
    from ray.exceptions import RayActorError

    if isinstance(getattr(error, "health_check_failure", error), RayActorError):
        return "its process died (killed, out of memory, or crashed); see logs/ of the run"
    return str(error)
