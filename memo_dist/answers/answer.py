"""What a memory answers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer of a memory or of a bank.

    Attributes:
        text: the answer; empty when abstained.
        confidence: calibrated probability that the answer is right, 0 to 1.
        abstained: the memory said that it does not know, or its confidence is below the
            calibrated threshold.
        sources: ids of the documents behind the answer, best first; empty when abstained.
        shards: the bank shards that read the question or answered, the chosen one first.
        seconds: wall-clock seconds for this question (its share of a batch).
        tokens: prompt and generated tokens spent on this question.
        calls: models asked for it, each wording and attempt counted; 0: one for each shard.
        refused: the text that a memory wrote and that is not its answer, because it abstained.
    """

    text: str
    confidence: float
    abstained: bool
    sources: tuple[str, ...]
    shards: tuple[int, ...]
    seconds: float
    tokens: int
    calls: int = 0
    refused: str = ""
