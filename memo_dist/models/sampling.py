"""How texts are continued; apart from the models, so that it loads without torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Sampling:
    """How branches are continued.

    Attributes:
        rows: texts for one prompt, each begun with another of the most probable first tokens; the
            first one goes on greedily.
        least: probability below which a first token begins no text (the best one always does).
        temperature: of the other rows' tokens after the first; 0: greedy.
        most_tokens: longest text; one without an end by then is given up.
    """

    rows: int = 1
    least: float = 0.05
    temperature: float = 0.0
    most_tokens: int = 32
