"""What one question may cost, and which limit was met first."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from memo_dist.config.model_schema import ProtocolConfig
from memo_dist.llm.requests import Failure, Reply
from memo_dist.protocol.types import Ballot


class Budget:
    """Counts one question's calls, questions, tokens and seconds.

    The last call is kept for the synthesis: questions end one call before ``max_calls``.

    Attributes:
        calls, failed: calls of the executive, and those without a valid reply.
        attempts: sends, repair turns included.
        questions: to the memory, wordings not counted.
        answers: of the memory: one for each wording and shard.
        executive_tokens, memory_tokens: read and written.
        executive_written: the part of ``executive_tokens`` that the executive wrote.
    """

    def __init__(
        self, settings: ProtocolConfig, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._begin = clock()
        self.calls = self.failed = self.attempts = self.questions = self.answers = 0
        self.executive_tokens = self.memory_tokens = self.executive_written = 0

    def called(self, reply: Reply) -> None:
        """Count a call of the executive."""
        self.calls += 1
        self.attempts += reply.attempts
        self.failed += isinstance(reply, Failure)
        self.executive_tokens += reply.usage.prompt + reply.usage.completion
        self.executive_written += reply.usage.completion

    def asked(self, ballots: Sequence[Ballot]) -> None:
        """Count a turn's questions to the memory."""
        self.questions += len(ballots)
        for answer in (answer for ballot in ballots for answer in ballot.answers):
            self.answers += max(1, len(answer.shards))
            self.memory_tokens += answer.tokens

    @property
    def questions_left(self) -> int:
        """Questions that the memory may still be asked."""
        return self._settings.max_questions - self.questions

    def used_up(self) -> str:
        """The key of the limit that ends the questions; "" where none does."""
        settings = self._settings
        spent = {
            "max_calls": self.calls >= settings.max_calls - 1,
            "max_questions": self.questions_left <= 0,
            "max_tokens": 0 < settings.max_tokens <= self.executive_tokens + self.memory_tokens,
            "max_seconds": 0 < settings.max_seconds <= self._clock() - self._begin,
        }
        return next((f"protocol.{key}" for key, over in spent.items() if over), "")
