"""Requests and tokens a minute: a worker's equal share of both limits."""

from __future__ import annotations

from aiolimiter import AsyncLimiter

from memo_dist.config.model_schema import EndpointConfig
from memo_dist.llm.requests import CHARS_PER_TOKEN, Request, Usage

SMOOTHING = 0.05


class RateLimits:
    """Waits until a request may be sent.

    Tokens are estimated before the send: characters over four for the prompt, and the running
    mean of the answers. A limiter lets at most one period's worth through at once.
    """

    def __init__(self, config: EndpointConfig, workers: int) -> None:
        self._requests = _limiter(config.requests_per_minute / workers, 1.0)
        self._tokens = _limiter(config.tokens_per_minute / workers, 2000.0)
        self._completion = 256.0

    @property
    def are_set(self) -> bool:
        """Whether there is anything to wait for."""
        return self._requests is not None or self._tokens is not None

    async def acquire(self, request: Request) -> None:
        """Wait for this request's turn."""
        if self._requests is not None:
            await self._requests.acquire()
        if self._tokens is not None:
            prompt = sum(len(message.content) for message in request.messages) / CHARS_PER_TOKEN
            await self._tokens.acquire(min(prompt + self._completion, self._tokens.max_rate))

    def learn(self, usage: Usage) -> None:
        """Take the tokens of an answer into the running mean."""
        if usage.completion:
            self._completion += SMOOTHING * (usage.completion - self._completion)


def _limiter(per_minute: float, least: float) -> AsyncLimiter | None:
    """A limiter whose period is a second, or as long as it takes to let ``least`` through."""
    if not per_minute:
        return None
    period = max(1.0, 60.0 * least / per_minute)
    return AsyncLimiter(per_minute * period / 60.0, period)
