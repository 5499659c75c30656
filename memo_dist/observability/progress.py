"""Progress of long work: a bar on a terminal, one line every 30 seconds anywhere else."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.progress import TaskID as BarId

from memo_dist.io.terminal import drawing, visible

LINE_SECONDS = 30.0


class ProgressReport:
    """What is done of a total, with the rate and the time left; feed it by :meth:`advance`."""

    def __init__(self, total: int, label: str, done: int, unit: str) -> None:
        self.total = total
        self.label = label
        self.unit = unit
        self.done = done
        self._first = done
        self._start = time.monotonic()
        self._numbers: dict[str, float | int | str] = {}

    def advance(self, n: int = 1, **numbers: float | int | str) -> None:
        """Count ``n`` more as done and show ``numbers``; ``n=0`` keeps the clock going."""
        self.done += n
        self._numbers.update(numbers)
        self._show()

    @property
    def rate(self) -> float:
        """Units a second since the start of this process (work of earlier ones left out)."""
        return (self.done - self._first) / max(time.monotonic() - self._start, 1e-9)

    @property
    def seconds_left(self) -> float | None:
        """Seconds to the total at this rate; None before anything was done."""
        return (self.total - self.done) / self.rate if self.done > self._first else None

    def line(self) -> str:
        """``direct: 12/40 units, 3.1/s, ETA 9 s, failed 0``."""
        left = self.seconds_left
        parts = [f"{self.done}/{self.total} {self.unit}", f"{self.rate:.3g}/s"]
        parts.append("ETA ?" if left is None else f"ETA {duration(left)}")
        return f"{self.label}: {', '.join([*parts, *self._number_texts()])}"

    def finish(self) -> None:
        """Show the last state."""
        raise NotImplementedError

    def _show(self) -> None:
        raise NotImplementedError

    def _number_texts(self) -> list[str]:
        return [f"{key} {_number(value)}" for key, value in self._numbers.items()]


class LineProgress(ProgressReport):
    """One line at the start of every interval, and one at the end."""

    def __init__(  # noqa: PLR0913
        self, total: int, label: str, done: int, unit: str, stream: TextIO, interval: float
    ) -> None:
        super().__init__(total, label, done, unit)
        self._stream = stream
        self._interval = interval
        self._next = time.monotonic() + interval

    def finish(self) -> None:
        """Write the last line."""
        print(self.line(), file=self._stream, flush=True)

    def _show(self) -> None:
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + self._interval
            self.finish()


class BarProgress(ProgressReport):
    """A bar of rich."""

    def __init__(self, total: int, label: str, done: int, unit: str, bar: Progress) -> None:
        super().__init__(total, label, done, unit)
        self._bar = bar
        self._task: BarId = bar.add_task(visible(label), total=total, completed=done, numbers="")

    def finish(self) -> None:
        """Draw the last state; the bar stays where it is."""
        self._show()
        self._bar.stop_task(self._task)

    def _show(self) -> None:
        numbers = ", ".join([f"{self.rate:.3g} {self.unit}/s", *self._number_texts()])
        self._bar.update(self._task, total=self.total, completed=self.done, numbers=numbers)


class ProgressBoard:
    """Several reports at once: a bar each on a terminal, a line each every 30 s elsewhere."""

    def __init__(self, stream: TextIO, interval: float, bars: Progress | None) -> None:
        self._stream, self._interval, self._bars = stream, interval, bars
        self._open: list[ProgressReport] = []

    def add(self, total: int, label: str, done: int = 0, unit: str = "units") -> ProgressReport:
        """Show one more piece of work; see :func:`progress` for the arguments."""
        report: ProgressReport
        if self._bars is None:
            report = LineProgress(total, label, done, unit, self._stream, self._interval)
        else:
            report = BarProgress(total, label, done, unit, self._bars)
        self._open.append(report)
        return report

    def remove(self, report: ProgressReport) -> None:
        """End one report; its last line or bar stays."""
        self._open.remove(report)
        report.finish()

    def close(self) -> None:
        """End all reports."""
        for report in tuple(self._open):
            self.remove(report)


@contextmanager
def progress_board(
    *, stream: TextIO | None = None, interval: float = LINE_SECONDS
) -> Iterator[ProgressBoard]:
    """A board for work that runs side by side, while the ``with`` block runs.

    Args:
        stream: where to; standard error by default.
        interval: seconds between two lines where the stream is no terminal.
    """
    stream = stream or sys.stderr
    with _bars(stream) if stream.isatty() else nullcontext() as bars:
        board = ProgressBoard(stream, interval, bars)
        try:
            yield board
        finally:
            board.close()


@contextmanager
def progress(  # noqa: PLR0913
    total: int,
    label: str,
    *,
    done: int = 0,
    unit: str = "units",
    stream: TextIO | None = None,
    interval: float = LINE_SECONDS,
) -> Iterator[ProgressReport]:
    """Report the progress of ``total`` units of work while the ``with`` block runs.

    Args:
        total: units of work.
        label: what is being done.
        done: units that earlier processes did (a resumed run); they don't count in the rate.
        unit: plural name of the unit.
        stream: where to; standard error by default.
        interval: seconds between two lines where the stream is no terminal.
    """
    with progress_board(stream=stream, interval=interval) as board:
        yield board.add(total, label, done, unit)


def _bars(stream: TextIO) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    numbers = TextColumn("{task.fields[numbers]}")
    return Progress(*columns, TimeRemainingColumn(), numbers, console=Console(file=drawing(stream)))


def duration(seconds: float) -> str:
    """``45 s``, ``3 min 20 s`` or ``2 h 5 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def _number(value: float | int | str) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
