"""What a synthesis has cost: tokens and money, counted from the request journals."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from memo_dist.config.model_schema import GeneratorConfig

MILLION = 1e6


@dataclass(slots=True)
class Spending:
    """Counts over attempts; every attempt was paid for, valid or not.

    Attributes:
        attempts: sends that were answered or timed out.
        answered: requests with a valid answer.
        failed: requests that no attempt could satisfy.
        prompt, cached, completion: tokens; ``prompt`` includes the cached ones.
    """

    attempts: int = 0
    answered: int = 0
    failed: int = 0
    prompt: int = 0
    cached: int = 0
    completion: int = 0

    def add_row(self, row: dict[str, Any]) -> None:
        """Count one line of a request journal."""
        prompt, cached, completion = row["usage"]
        self.attempts += 1
        self.prompt += prompt
        self.cached += cached
        self.completion += completion
        if row["final"]:
            self.answered += row["outcome"] == "ok"
            self.failed += row["outcome"] != "ok"

    def plus(self, other: Spending) -> Spending:
        """Both together."""
        sums = {name: getattr(self, name) + getattr(other, name) for name in self.__slots__}
        return replace(self, **sums)

    @property
    def tokens(self) -> int:
        """Prompt and answer tokens."""
        return self.prompt + self.completion

    @property
    def requests(self) -> int:
        """Requests that are settled."""
        return self.answered + self.failed

    def money(self, prices: GeneratorConfig) -> float:
        """In the unit of the prices."""
        return (
            (self.prompt - self.cached) * prices.price_prompt
            + self.cached * prices.price_cached
            + self.completion * prices.price_completion
        ) / MILLION


def has_prices(config: GeneratorConfig) -> bool:
    """Whether money can be told."""
    return bool(config.price_prompt or config.price_cached or config.price_completion)


def exhausted(spent: Spending, config: GeneratorConfig) -> str:
    """Which budget is used up, for people; "" where none is."""
    if config.budget_tokens and spent.tokens >= config.budget_tokens:
        return f"{spent.tokens} tokens of generator.budget_tokens={config.budget_tokens} are spent"
    money = spent.money(config)
    if config.budget_money and money >= config.budget_money:
        return f"{money:.4g} of generator.budget_money={config.budget_money:g} is spent"
    return ""
