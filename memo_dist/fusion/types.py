"""What is asked of a mixture, and what it writes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from memo_dist.answers.answer import Answer

ORDERS = ("parallel", "sequential")
"""``parallel``: all sources step together. ``sequential``: the memory drafts, the backbone reads
the draft in one forward and keeps what the mixture would have written itself: the same text."""


@dataclass(frozen=True, slots=True)
class Belief:
    """What is known of one memory's own answer to a question before the mixture is asked.

    Attributes:
        question: the wording that the memory is asked.
        confidence: calibrated probability that its own answer is right.
        silent: it abstains; the mixture does not read it.
        draft: its own answer, where sequential writing begins.
        heard: the bank asks it; if not, it is silent whatever it believes.
        familiar: how much likelier it finds the question than the backbone, nats a token.
    """

    question: str
    confidence: float = 0.5
    silent: bool = False
    draft: str = ""
    heard: bool = True
    familiar: float = 0.0


@dataclass(frozen=True, slots=True)
class Request:
    """A question, and what each memory believes, in the order of the memories."""

    question: str
    beliefs: tuple[Belief, ...]

    @property
    def mixed(self) -> bool:
        """Whether any memory has a say."""
        return not all(belief.silent for belief in self.beliefs)

    def with_silence(self, silent: Sequence[bool]) -> Request:
        """The same question with other silent memories; those that are not heard stay silent."""
        pairs = zip(self.beliefs, silent, strict=True)
        beliefs = (replace(b, silent=value or not b.heard) for b, value in pairs)
        return replace(self, beliefs=tuple(beliefs))

    def silenced(self) -> Request:
        """The same question, of which no memory has anything to say."""
        return self.with_silence([True] * len(self.beliefs))

    def spoken(self) -> Request:
        """The same question, on which every memory that is heard speaks, sure or not."""
        return self.with_silence([False] * len(self.beliefs))


@dataclass(frozen=True, slots=True)
class Settings:
    """How text is written.

    Attributes:
        max_new_tokens: longest answer, the end token included.
        sample: draw tokens (at the sources' temperatures) instead of taking the likeliest.
        seed: of the samples; the same seed draws the same text in any batch and order.
        order: of :data:`ORDERS`.
        draft_tokens: tokens that a sequential draft goes on for after the memory's own answer
            was left.
    """

    max_new_tokens: int = 48
    sample: bool = False
    seed: int = 17
    order: str = "parallel"
    draft_tokens: int = 8


@dataclass(frozen=True, slots=True)
class FusedText:
    """What the mixture wrote.

    Attributes:
        text: without special tokens.
        tokens: of the backbone's vocabulary, the end token included.
        log_probs: mixed log-prob of each.
        memory_weights: weight of all memories together at each.
        read: prompt and written tokens, over all sources.
        forwards: of the backbone, this question's share not divided by its batch.
        lost: mean probability lost between vocabularies (0: one vocabulary).
        seconds: this question's share of its batch.
    """

    text: str
    tokens: tuple[int, ...]
    log_probs: tuple[float, ...]
    memory_weights: tuple[float, ...]
    read: int
    forwards: int
    lost: float
    seconds: float


class Fused(NamedTuple):
    """An answer of a fusion, and the text behind it with its weights and forwards."""

    answer: Answer
    text: FusedText
