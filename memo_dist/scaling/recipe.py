"""How the memories of a study are trained, so that a law can say what it holds for.

A recall law is a law of one recipe: the same memory, trained at another rate or on other batches,
recalls more or less. The law's file carries the recipe, and a plan by the law proposes it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from memo_dist.config.scale_rules import REFLECTION_TOKENS
from memo_dist.config.scale_schema import ReflectionStudyConfig, ScaleConfig
from memo_dist.models.scratch import MAX_POSITIONS

REFERENCE_PARAMETERS = 10_000
"""Size at which a grid's ``lr`` holds."""
BETAS = (0.9, 0.98)
CLIP = 1.0
WEIGHT_DECAY = 0.0
"""Of AdamW: none, it would trade stored bits for small weights."""
_MAY_BE_ZERO = ("lr_exponent", "warmup_fraction")


def rule_rate(lr: float, exponent: float, parameters: int) -> float:
    """Peak learning rate of a size: ``lr (parameters / 10,000)^-exponent``."""
    return lr * float((parameters / REFERENCE_PARAMETERS) ** -exponent)


@dataclass(frozen=True, slots=True)
class Recipe:
    """What of a study's training another training must share to reach the study's recall.

    Attributes:
        vocabulary: of the memories' BPE.
        least_layers: of the memories.
        batch_tokens: that an optimizer step reads.
        lr, lr_exponent: of :func:`rule_rate`.
        warmup_fraction: of the steps; a cosine to zero follows.
    """

    vocabulary: int
    least_layers: int
    batch_tokens: int
    lr: float
    lr_exponent: float
    warmup_fraction: float

    @classmethod
    def of_reflections(cls, scale: ScaleConfig) -> Recipe:
        """The recipe of a study's ``reflections``."""
        grid: ReflectionStudyConfig = scale.reflections
        return cls(
            vocabulary=grid.vocabulary,
            least_layers=grid.least_layers,
            batch_tokens=grid.batch_tokens,
            lr=grid.lr,
            lr_exponent=grid.lr_exponent,
            warmup_fraction=scale.warmup_fraction,
        )

    @classmethod
    def from_json(cls, row: Any) -> Recipe:
        """Read what :meth:`to_json` wrote.

        Raises:
            ValueError: a number is missing or not above 0, or no row of ``train`` fits a step;
                says which.
        """
        values: dict[str, Any] = {}
        for known in fields(cls):
            value = row.get(known.name) if isinstance(row, Mapping) else None
            kind = int if known.type == "int" else float
            least = 0.0 if known.name in _MAY_BE_ZERO else math.ulp(0.0)
            if not isinstance(value, int | kind) or not least <= value < math.inf:
                raise ValueError(f"{known.name}={value} must be a number above 0")
            values[known.name] = kind(value)
        if values["batch_tokens"] % REFLECTION_TOKENS:
            raise ValueError(
                f"batch_tokens={values['batch_tokens']} must be a multiple of {REFLECTION_TOKENS}"
            )
        return cls(**values)

    def to_json(self) -> dict[str, float]:
        """Its numbers by name."""
        return asdict(self)

    def overrides(self, parameters: int, passes: int) -> list[str]:
        """``key=value`` with which ``train`` follows the recipe for a memory of this size.

        A step is one row where the positions of the model allow it: too little for several ranks.
        """
        rows = range(min(self.batch_tokens, MAX_POSITIONS), 0, -REFLECTION_TOKENS)
        row = next(tokens for tokens in rows if self.batch_tokens % tokens == 0)
        rate = rule_rate(self.lr, self.lr_exponent, parameters)
        return [
            f"train.epochs={passes}",
            f"train.lr={rate:.3g}",
            "train.schedule=cosine",
            f"train.warmup_fraction={self.warmup_fraction:g}",
            f"train.weight_decay={WEIGHT_DECAY:g}",
            f"train.betas=[{','.join(map(str, BETAS))}]",
            f"train.clip={CLIP:g}",
            f"train.batch_tokens={self.batch_tokens}",
            f"train.micro_batch_tokens={row}",
            "cluster.workers=1",
        ]
