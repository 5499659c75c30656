"""What every way of answering has in common: questions in, answers with their details out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from memo_dist.answers.answer import Answer
from memo_dist.errors import UsageError

if TYPE_CHECKING:
    from memo_dist.memory.bank import Bank


@dataclass(frozen=True, slots=True)
class Answered:
    """An answer and how its mode came to it.

    Attributes:
        answer: text, confidence, sources, shards, cost.
        details: JSON values by name, those that ``ask --json`` adds; the mode decides which.
            ``direct``: none. ``logits``: ``memory_weight`` (mean over the answer's tokens, 0 to
            1), ``backbone_forwards``, and ``lost`` (probability between vocabularies, where some
            is). ``latent``: ``backbone_forwards``. ``protocol``: ``ended``, ``limit``,
            ``executive_calls``, ``failed_calls``, ``memory_questions``, ``tokens``,
            ``executive_tokens`` (read, written) and ``transcript`` (a folder).
    """

    answer: Answer
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Options:
    """How an answerer is opened.

    Attributes:
        bank: the run's loaded bank, for several answerers to share; None: load it.
        batch_size: most questions of one batch.
        transcripts: folder of a protocol's transcript and journal; None: a new one below
            ``RUN/ask/``.
        should_stop: polled while an executive is asked.
    """

    bank: Bank | None = None
    batch_size: int = 16
    transcripts: Path | None = None
    should_stop: Callable[[], bool] = lambda: False


class Answerer(ABC):
    """An open way of answering; a context manager.

    Threads may share it. Each call gets the answers that it would get alone (to the rounding of
    confidences: questions of several calls may share a batch), and all that is known of an answer
    is in the value returned for it.

    Attributes:
        decided_by: JSON values that decide its answers, beside the memory's weights: answers of
            the same memory and equal values are the same.
        at_once: questions that a call should bring at least where that is much faster; else 0.
    """

    decided_by: Sequence[Any] = ()
    at_once: int = 0

    def __init__(self) -> None:
        self._held = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def holds(self, more: ExitStack) -> None:
        """Close ``more`` when this is closed."""
        self._held.push(more)

    def close(self) -> None:
        """End what it holds open; a second call does nothing."""
        self._held.close()

    @abstractmethod
    def answer(self, questions: Sequence[str]) -> list[Answered]:
        """Answer every question, in the given order.

        Raises:
            UsageError: a question is longer than a model reads.
            RunError: an executive cannot be reached.
            StoppedError: ``should_stop`` said so.
        """

    def stream(self, question: str) -> Iterator[str]:
        """The answer's text piece by piece; the pieces joined are the text.

        Raises:
            UsageError: the mode writes no text piece by piece.
        """
        raise UsageError(f"{type(self).__name__} has its answers only as a whole, it cannot stream")
