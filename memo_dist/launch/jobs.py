"""A submitted job, wherever it runs: its state, its end, and the wait for it with a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from memo_dist.errors import MemoDistError, RunError

POLL_SECONDS = 2.0
UNREACHABLE_SECONDS = 120.0
"""How long a scheduler may give no answer while a job is followed."""


@dataclass(frozen=True)
class JobState:
    """What a scheduler says of a job.

    Attributes:
        text: for people, one line.
        waiting: whether it waits in the queue.
        code: the verb's exit code once the job has ended, else None.
    """

    text: str
    waiting: bool
    code: int | None


class Job(Protocol):
    """A submitted job; its text is what ``memo-dist status`` takes."""

    def state(self) -> JobState:
        """Ask the scheduler.

        Raises:
            RunError: it gives no answer, or does not know the job.
        """
        ...

    def cancel(self) -> None:
        """End it."""
        ...

    def missing(self) -> str:
        """Why a waiting job does not start: have and want."""
        ...


def follow(job: Job, queue_seconds: float, tell: Callable[[str], None]) -> int:
    """Wait for a job's end, telling each change of its state; returns the verb's exit code.

    Args:
        job: the job.
        queue_seconds: how long it may wait in the queue before it is cancelled.
        tell: takes a line for people.

    Raises:
        RunError: it did not start in time, or the scheduler gave no answer for two minutes.
    """
    shown, waiting_since, answered = "", time.monotonic(), time.monotonic()
    while True:
        try:
            state = job.state()
        except MemoDistError:
            if time.monotonic() - answered > UNREACHABLE_SECONDS:
                raise
            time.sleep(POLL_SECONDS)
            continue
        answered = time.monotonic()
        if state.text != shown:
            shown = state.text
            tell(f"{job}: {shown}")
        if state.code is not None:
            return state.code
        waiting_since = waiting_since if state.waiting else answered
        if answered - waiting_since > queue_seconds:
            why = job.missing()
            job.cancel()
            raise RunError(
                f"{job} did not start within {queue_seconds / 60:g} minutes"
                f" (launch.queue_minutes) and was cancelled: {why}"
            )
        time.sleep(POLL_SECONDS)
