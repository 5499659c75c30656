"""Running the cells of a study over a Ray cluster; whatever is killed, the same command goes on.

A cell is one Ray task on one core, or on a part of a GPU. It writes nothing but its own folder:
a checkpoint while it runs and ``result.json`` in the end, so that no cell is run twice. A stop
request reaches the cells as a file in the study's folder, which they look for between steps; every
launch has its own, as several may share a study (array tasks).
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ray

from memo_dist import process
from memo_dist.cluster.ray_local import ray_session
from memo_dist.cluster.resources import Resources
from memo_dist.cluster.stop import STOP
from memo_dist.config.scale_schema import ScaleConfig
from memo_dist.config.schema import Config
from memo_dist.errors import RunError
from memo_dist.io import atomic
from memo_dist.observability.progress import ProgressReport, progress
from memo_dist.scaling.cells import RESULT, Cell, cell_weight
from memo_dist.scaling.folder import FAILED, SETTLED, SKIPPED, StudyFolder
from memo_dist.scaling.skipping import Saturation, Verdict

POLL_SECONDS = 0.5
DRAIN_SECONDS = 30.0
"""That a stop waits for running cells to save."""
_STOP_CHECK_SECONDS = 0.5
_GPU_SHARES = ((2_000_000, 0.125), (10_000_000, 0.25), (50_000_000, 0.5))
"""Cells of fewer parameters reserve this fraction of a GPU."""


def run_cells(study: StudyFolder, config: Config, cells: Sequence[Cell]) -> None:
    """Run every cell that is not settled.

    Raises:
        StoppedError, InterruptedRunError: a stop was requested; begun cells were saved.
        RunError: cells failed; names each, after the others have finished.
    """
    scale = config.scale
    waiting = [c for c in cells if study.outcome(c, scale) not in SETTLED]
    if not waiting:
        return
    with ray_session(config.cluster) as resources:
        queue = _Queue(study, scale, waiting, resources)
        total = len(cells)
        with progress(total, "scale", done=total - len(waiting), unit="cells") as report:
            queue.work(report)
    queue.conclude()


def cell_gpu(cell: Cell, scale: ScaleConfig) -> float:
    """The fraction of a GPU that a cell reserves, where there are GPUs."""
    if scale.cell_gpu:
        return scale.cell_gpu
    return next((share for most, share in _GPU_SHARES if cell.size < most), 1.0)


class _Queue:
    """Cells that wait and cells that run; large ones first, so that none is left alone at last."""

    def __init__(
        self, study: StudyFolder, scale: ScaleConfig, waiting: list[Cell], have: Resources
    ) -> None:
        self._study, self._scale, self._have = study, scale, have
        self._stop_file = study.root.absolute() / f".stop-{uuid.uuid4().hex[:8]}"
        self._saturation = Saturation(study, scale)
        order = self._saturation.order if scale.saturated else self._largest_first
        self._waiting = sorted(waiting, key=order)
        self._running: dict[Any, Cell] = {}
        self._failed: dict[Cell, str] = {}
        self._deaths: dict[Cell, int] = {}

    def work(self, report: ProgressReport) -> None:
        """Run until nothing is left or a stop was requested."""
        while (self._waiting or self._running) and not STOP():
            self._start_some(report)
            self._poll(report)
            report.advance(0, running=len(self._running), failed=len(self._failed))
        self._drain(report)

    def _drain(self, report: ProgressReport) -> None:
        """Let running cells save after a stop request. A signal to the whole process group ends
        Ray first: then nobody answers, hence the deadline."""
        if not self._running:
            return
        self._stop_file.touch()
        deadline = time.monotonic() + DRAIN_SECONDS
        while self._running and time.monotonic() < deadline:
            self._poll(report)
        self._stop_file.unlink()

    def conclude(self) -> None:
        """Raise what :func:`run_cells` raises."""
        if STOP():
            raise STOP.error("begun cells were saved; run the same command again")
        if self._failed:
            lines = [f"{cell.label}: {reason}" for cell, reason in self._failed.items()]
            raise RunError(
                f"{len(lines)} cell(s) failed; the same command tries them again:\n  "
                + "\n  ".join(lines)
            )

    @staticmethod
    def _largest_first(cell: Cell) -> float:
        return -cell_weight(cell)

    def _start_some(self, report: ProgressReport) -> None:
        for cell in list(self._waiting):
            if not self._has_room(cell):
                return
            verdict = self._verdict(cell)
            if verdict == "wait":
                continue
            self._waiting.remove(cell)
            if verdict == "skip":
                self._study.mark_skipped(cell, self._scale)
                report.advance()
            else:
                self._submit(cell)

    def _verdict(self, cell: Cell) -> Verdict:
        if not self._scale.saturated:
            return "run"
        return self._saturation.verdict(cell, {*self._waiting, *self._running.values()})

    def _has_room(self, cell: Cell) -> bool:
        if not self._have.gpus:
            return len(self._running) < max(1, self._have.cores // self._scale.cell_threads)
        held = sum(cell_gpu(other, self._scale) for other in self._running.values())
        there = len(self._running) < max(1, self._have.cores)
        return there and held + cell_gpu(cell, self._scale) <= self._have.gpus

    def _submit(self, cell: Cell) -> None:
        folder = self._study.cell(cell, self._scale)
        folder.mkdir(parents=True, exist_ok=True)
        for marker in (FAILED, SKIPPED):
            (folder / marker).unlink(missing_ok=True)
        gpus = cell_gpu(cell, self._scale) if self._have.gpus else 0
        cores = 1 if gpus else self._scale.cell_threads
        task = ray.remote(num_cpus=cores, num_gpus=gpus, max_retries=0)(run_cell)
        reference = task.remote(cell, self._scale, folder.absolute(), self._stop_file)
        self._running[reference] = cell

    def _poll(self, report: ProgressReport) -> None:
        if not self._running:
            return
        running = list(self._running)
        ready, _ = ray.wait(running, num_returns=len(running), timeout=POLL_SECONDS)
        for reference in ready:
            cell = self._running.pop(reference)
            reason = _failure(reference)
            if reason is None:  # a cell that was asked to stop has no result yet
                if (self._study.cell(cell, self._scale) / RESULT).exists():
                    report.advance()
            elif not STOP() and not self._tried_again(cell, reason):
                self._failed[cell] = reason
                folder = self._study.cell(cell, self._scale)
                atomic.write_json(folder / FAILED, {"reason": reason, "cell": cell.label})

    def _tried_again(self, cell: Cell, reason: str) -> bool:
        """Whether the cell of a dead worker goes back to the queue."""
        self._deaths[cell] = self._deaths.get(cell, 0) + 1
        if reason != _WORKER_DIED or self._deaths[cell] > self._scale.max_failures:
            return False
        self._waiting.insert(0, cell)
        return True


_WORKER_DIED = "its worker died"


def _failure(reference: Any) -> str | None:
    """Why a task did not end well, in one line; None where it did."""
    try:
        ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        first = str(error.cause).strip().splitlines()
        return f"{type(error.cause).__name__}: {first[0] if first else ''}"
    except ray.exceptions.RayError:
        return _WORKER_DIED
    return None


def run_cell(cell: Cell, scale: ScaleConfig, folder: Path, stop_file: Path) -> None:
    """One cell from wherever it was to its end, inside a Ray worker."""
    with process.imports():
        import torch

        from memo_dist.scaling.training import CellTraining

    gpu = torch.cuda.is_available() and bool(ray.get_gpu_ids())
    torch.set_num_threads(scale.cell_threads)
    stop = _stop_check(stop_file)
    if stop() or (folder / RESULT).exists():
        return
    CellTraining(cell, scale, folder, torch.device("cuda" if gpu else "cpu")).run(stop)


def _stop_check(file: Path) -> Callable[[], bool]:
    """Whether the file is there, looked up twice a second at most."""
    last, answer = float("-inf"), False

    def stop() -> bool:
        nonlocal last, answer
        now = time.monotonic()
        if now - last >= _STOP_CHECK_SECONDS:
            last, answer = now, file.exists()
        return answer

    return stop
