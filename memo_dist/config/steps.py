"""The names of the synthesis steps (``synthesis.steps``)."""

from __future__ import annotations

from typing import Literal, get_args

StepName = Literal[
    "direct",
    "indirect",
    "consolidate",
    "verify",
    "entities",
    "cross",
    "paraphrase",
    "abstain",
    "roundtrip",
]
STEP_NAMES: tuple[StepName, ...] = get_args(StepName)
