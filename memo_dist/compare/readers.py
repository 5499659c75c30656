"""The reader that all methods share: a local model, or the endpoint of ``executive``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from memo_dist.models.chat_template import Messages
    from memo_dist.models.reader import Generation


class ReadingModel(Protocol):
    """A model that answers chat prompts greedily."""

    context: int

    def count(self, messages: Messages) -> int:
        """Prompt tokens of a chat."""
        ...

    def truncate(self, text: str, tokens: int) -> str:
        """The beginning of ``text`` that fits into ``tokens`` tokens."""
        ...

    def generate(
        self, prompts: Sequence[Messages], max_new_tokens: int, batch_size: int = 16
    ) -> list[Generation]:
        """Answer each prompt, in order."""
        ...


class CountedReader:
    """A reader that remembers what its last call read and wrote.

    Attributes:
        identity: hash of the model; answers of another one are not reused.
        name: for the report and the price file.
        billed: its tokens are paid for (an endpoint).
        context: longest prompt with its answer, in tokens.
    """

    def __init__(self, model: ReadingModel, identity: str, name: str, billed: bool) -> None:
        self._model = model
        self.identity = identity
        self.name = name
        self.billed = billed
        self.context = model.context
        self.last: list[Generation] = []

    def count(self, messages: Messages) -> int:
        """Prompt tokens of a chat."""
        return self._model.count(messages)

    def truncate(self, text: str, tokens: int) -> str:
        """The beginning of ``text`` that fits into ``tokens`` tokens."""
        return self._model.truncate(text, tokens)

    def generate(
        self, prompts: Sequence[Messages], max_new_tokens: int, batch_size: int = 16
    ) -> list[Generation]:
        """Answer each prompt, in order."""
        self.last = self._model.generate(prompts, max_new_tokens, batch_size)
        return self.last
