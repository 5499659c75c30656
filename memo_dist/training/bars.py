"""What a terminal shows of one shard's training, from its STATUS.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from memo_dist.observability.progress import ProgressBoard, ProgressReport


class TrainingBars:
    """Steps, and before them the frozen layers, which run once: their time is not that of steps."""

    def __init__(self, board: ProgressBoard, label: str) -> None:
        self._board, self._label = board, label
        self._frozen: ProgressReport | None = None
        self._steps: ProgressReport | None = None

    def show(self, status: Mapping[str, Any]) -> None:
        """Show the newest status; one without a number of steps says nothing yet."""
        if not status.get("steps"):
            return
        if "frozen" in status:
            self._end_steps()
            if self._frozen is None:
                self._frozen = self._board.add(100, f"{self._label}, frozen layers", unit="%")
            self._frozen.advance(max(0, round(100 * status["frozen"]) - self._frozen.done))
            return
        self._end_frozen()
        if self._steps is None:
            self._steps = self._board.add(status["steps"], self._label, status["step"], "steps")
        self._steps.total = status["steps"]
        numbers = {"loss": status["loss"]} if "loss" in status else {}
        if "tokens_per_second" in status:
            numbers["tokens/s"] = status["tokens_per_second"]
        self._steps.advance(max(0, status["step"] - self._steps.done), **numbers)

    def close(self) -> None:
        """End them; their last lines stay."""
        self._end_frozen()
        self._end_steps()

    def _end_frozen(self) -> None:
        if self._frozen is not None:
            self._board.remove(self._frozen)
            self._frozen = None

    def _end_steps(self) -> None:
        if self._steps is not None:
            self._board.remove(self._steps)
            self._steps = None
