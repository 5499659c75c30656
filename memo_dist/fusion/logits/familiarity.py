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

from memo_dist.fusion.types import Belief, Request
from memo_dist.memory.question_likelihood import QuestionLogProb, question_log_probs
from memo_dist.models.chat_format import ChatFormat


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

    def read(self, questions: Sequence[str], batch_size: int) -> list[QuestionLogProb]:
        """See :func:`~memo_dist.memory.question_likelihood.question_log_probs`."""
        names = [self.adapter] * len(questions) if self.adapter else None
        prompts = [self.chat.prompt_ids(question) for question in questions]
        return question_log_probs(self.model, self.chat, prompts, batch_size, names)


class Familiarity:
    """Completes what is believed of each memory."""

    def __init__(
        self, backbone: Reader, memories: Sequence[Reader], silent_too: bool = False
    ) -> None:
        """Take the readers.

        Args:
            backbone: the backbone's.
            memories: the memories', in their order.
            silent_too: for silent memories as well, which nobody reads unless they are made to
                speak (to fit a gate); else theirs stays 0.
        """
        self._backbone, self._memories = backbone, tuple(memories)
        self._silent_too = silent_too

    def complete(self, requests: Sequence[Request], batch_size: int = 16) -> list[Request]:
        """The requests with the familiarity of each memory.

        Familiarity is log p(question) of the memory minus the backbone's, each of the question and
        the turn that ends it in its own format, in nats for each token of the backbone's.

        Args:
            requests: what is asked. Each model reads the question itself, whatever wording the
                memory is asked.
            batch_size: most rows of one forward pass.
        """

        def wanted(request: Request, memory: int) -> bool:
            return self._silent_too or not request.beliefs[memory].silent

        def read(reader: Reader, rows: Sequence[int]) -> dict[int, QuestionLogProb]:
            found = reader.read([requests[i].question for i in rows], batch_size)
            return dict(zip(rows, found, strict=True))

        places = range(len(self._memories))
        asked = [[i for i, request in enumerate(requests) if wanted(request, k)] for k in places]
        own = read(self._backbone, sorted(set().union(*asked)))
        of_memories = [read(self._memories[k], asked[k]) for k in places]

        def belief(i: int, k: int) -> Belief:
            known, other = requests[i].beliefs[k], of_memories[k].get(i)
            if other is None:
                return known
            return replace(known, familiar=(other.total - own[i].total) / own[i].tokens)

        return [
            replace(request, beliefs=tuple(belief(i, k) for k in places))
            for i, request in enumerate(requests)
        ]
