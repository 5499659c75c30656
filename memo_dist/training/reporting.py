"""What rank 0 says while it trains: ``metrics.jsonl`` and ``STATUS.json``."""

from __future__ import annotations

import resource
import time
from collections.abc import Mapping
from pathlib import Path

import torch

from memo_dist.io import atomic
from memo_dist.observability.status import StatusWriter
from memo_dist.training.progress import Progress

STATUS_SECONDS = 0.5
"""Least seconds between two replacements of STATUS.json while training runs: each is flushed to
the disk, and a step of a small model takes less."""


class Reporter:
    """Writes one line of metrics a step, and the status twice a second.

    Args:
        folder: of the training.
        steps: of the whole training.
        seconds: limit of the training's length; 0: none.
        flops: floating-point operations per token; None where no tokens are counted: then nothing
            is said of them.
        peak: FLOP/s of all devices together; None where it is not known.
    """

    def __init__(
        self, folder: Path, steps: int, seconds: float, flops: float | None, peak: float | None
    ) -> None:
        self._writer = StatusWriter(folder)
        self._steps, self._seconds = steps, seconds
        self._flops, self._peak = flops, peak
        self._last = 0.0
        self._before = (0.0, 0)

    def step(self, progress: Progress, values: Mapping[str, float | int | None]) -> None:
        """Record one step."""
        tokens = {} if self._flops is None else self._tokens(progress, self._flops)
        self._writer.metric(
            step=progress.step,
            **values,
            **tokens,
            seconds=progress.seconds,
            memory_bytes=_peak_memory(),
        )
        if time.monotonic() - self._last >= STATUS_SECONDS or progress.step >= self._steps:
            self.state("running", progress, **values)

    def _tokens(self, progress: Progress, flops: float) -> dict[str, float | None]:
        """Tokens so far, and the speed of the last step."""
        seconds = max(progress.seconds - self._before[0], 1e-9)
        speed = (progress.consumed_tokens - self._before[1]) / seconds
        self._before = (progress.seconds, progress.consumed_tokens)
        return {
            "tokens": progress.consumed_tokens,
            "trained_tokens": progress.trained_tokens,
            "tokens_per_second": speed,
            "flops_per_second": speed * flops,
            "mfu": None if self._peak is None else speed * flops / self._peak,
        }

    def speed(self, progress: Progress) -> dict[str, float]:
        """Tokens read per second so far, for a progress bar; empty where none are counted."""
        if self._flops is None:
            return {}
        return {"tokens/s": progress.consumed_tokens / max(progress.seconds, 1e-9)}

    def state(self, state: str, progress: Progress, **values: float | int | None) -> None:
        """Replace the status."""
        self._last = time.monotonic()
        self._writer.status(
            state,
            step=progress.step,
            steps=self._steps,
            seconds=progress.seconds,
            seconds_left=self._seconds_left(progress),
            **self._mean_speed(progress),
            **{name: value for name, value in values.items() if value is not None},
        )

    def _mean_speed(self, progress: Progress) -> dict[str, float]:
        if self._flops is None:
            return {}
        seconds = max(progress.seconds, 1e-9)
        return {
            "tokens_per_second": progress.consumed_tokens / seconds,
            "trained_tokens": progress.trained_tokens,
            "trained_tokens_per_second": progress.trained_tokens / seconds,
        }

    def _seconds_left(self, progress: Progress) -> float | None:
        if not progress.step:
            return None
        left = progress.seconds / progress.step * (self._steps - progress.step)
        return min(left, max(0.0, self._seconds - progress.seconds)) if self._seconds else left


def _peak_memory() -> int:
    """Most bytes in use so far: on the GPU where there is one, else of the process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def last_metric_step(path: Path) -> int:
    """The last step of which a metric was written; 0 without any."""
    if not path.exists():
        return 0
    return max((int(row["step"]) for _, row in atomic.whole_rows(path)), default=0)


def drop_metrics_after(path: Path, step: int) -> None:
    """Forget metrics of steps that a resume repeats, and a half-written last line."""
    if not path.exists():
        return
    kept = []
    for line, row in atomic.whole_rows(path):
        if row["step"] > step:
            break
        kept.append(line)
    atomic.write_bytes(path, b"".join(kept))
