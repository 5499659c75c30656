"""How much more a memory expects a question than the backbone does.

What a model was trained on it finds likelier than one that was not (the likelihood ratio of
Neyman and Pearson; for language models arXiv 2012.07805). A memory that was taught a corpus
expects questions about it more than the backbone, and questions about the rest of the world less,
though it may answer these with confidence. This tells them apart before a word is written.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from memo_dist.fusion.logits.types import Request
from memo_dist.memory.question_likelihood import QuestionLogProb, question_log_probs
from memo_dist.training.format import ChatFormat


@dataclass(frozen=True, slots=True)
class Reader:
    """A model that reads questions.

    Attributes:
        model: a loaded causal language model.
        chat: its format.
        adapter: of a PEFT model, the adapter that reads.
    """

    model: Any
    chat: ChatFormat
    adapter: str | None = None

    def read(self, questions: Sequence[str]) -> list[QuestionLogProb]:
        """See :func:`~memo_dist.memory.question_likelihood.question_log_probs`."""
        names = [self.adapter] * len(questions) if self.adapter else None
        return question_log_probs(self.model, self.chat, questions, names)


class Familiarity:
    """Completes what is believed of each memory."""

    def __init__(self, backbone: Reader, memories: Sequence[Reader]) -> None:
        """Take the readers, the memories' in their order."""
        self._backbone, self._memories = backbone, tuple(memories)

    def of(self, questions: Sequence[str]) -> list[tuple[float, ...]]:
        """For each question and memory, log p(question) of the memory minus the backbone's.

        Returns:
            Nats for each token of the backbone's (vocabularies may differ; the text is one).
        """
        own = self._backbone.read(questions)
        columns = [
            [
                (memory.total - backbone.total) / backbone.tokens
                for memory, backbone in zip(reader.read(questions), own, strict=True)
            ]
            for reader in self._memories
        ]
        return list(zip(*columns, strict=True))

    def complete(self, requests: Sequence[Request]) -> list[Request]:
        """The requests with the familiarity of each memory."""
        found = []
        rows = zip(requests, self.of([r.question for r in requests]), strict=True)
        for request, values in rows:
            pairs = zip(request.beliefs, values, strict=True)
            beliefs = tuple(replace(belief, familiar=value) for belief, value in pairs)
            found.append(replace(request, beliefs=beliefs))
        return found
