"""One endpoint as a worker sees it: how many requests it bears, and whether it answers at all."""

from __future__ import annotations

import random
import time

from memo_dist.llm.backends.base import Backend

SLOW_GROWTH = 2.0
SLOW_CUT = 4.0
"""Latency over the best one seen from which the limit stops growing, and is cut."""
LEAST_SECONDS = 0.5
"""Quicker answers are no sign of anything: this process itself may have been busy."""
SMOOTHING = 0.1
FORGETTING = 0.001
"""How quickly, an answer, the best latency follows the present one: another load is no congestion
for ever."""
BREAKER_FAULTS = 5
BREAKER_SECONDS = (1.0, 60.0)


class Endpoint:
    """Additive increase, multiplicative decrease of the requests in flight; a circuit breaker.

    The limit starts at half of the most, doubles a round trip until the first congestion and
    then grows by one a round trip (TCP Reno). A 429 halves it, a latency of four times the best
    cuts it by a tenth, each at most once a round trip. After five faults in a row nothing is sent
    for a while (twice as long each time), then one request tries.
    """

    def __init__(self, backend: Backend, most: int) -> None:
        self.backend = backend
        self.in_flight = 0
        self._most = float(most)
        self._limit = max(1.0, most / 2)
        self._threshold = self._most
        self._latency = self._best = 0.0
        self._cut_after = 0.0
        self._resume_at = 0.0
        self._faults = 0
        self._trips = 0

    @property
    def limit(self) -> int:
        """Requests in flight that it bears, as far as is known."""
        return int(self._limit)

    @property
    def latency(self) -> float:
        """Smoothed seconds an answer; 0 before the first."""
        return self._latency

    @property
    def load(self) -> float:
        """Requests in flight over the limit."""
        return self.in_flight / self._limit

    @property
    def is_tripped(self) -> bool:
        """Whether the breaker is open or lets one request try."""
        return self._faults >= BREAKER_FAULTS

    def has_room(self) -> bool:
        """Whether a request may be sent now."""
        if time.monotonic() < self._resume_at:
            return False
        return self.in_flight < (1 if self.is_tripped else self.limit)

    def succeeded(self, seconds: float) -> None:
        """An answer came after ``seconds``."""
        self._faults = self._trips = 0
        first = self._latency == 0
        self._latency += (1.0 if first else SMOOTHING) * (seconds - self._latency)
        best = self._best + FORGETTING * (self._latency - self._best)
        self._best = self._latency if first else min(best, self._latency)
        slowness = self._latency / max(self._best, LEAST_SECONDS)
        if slowness > SLOW_CUT:
            self._cut(0.9)
        elif slowness <= SLOW_GROWTH and self.in_flight >= 0.9 * self.limit:
            step = 1.0 if self._limit < self._threshold else 1.0 / self._limit
            self._limit = min(self._most, self._limit + step)

    def limited(self, retry_after: float | None) -> None:
        """A 429 came; ``retry_after`` are the seconds that it asked for."""
        self._cut(0.5)
        pause = retry_after if retry_after is not None else random.uniform(0.5, 1.5)
        self._resume_at = max(self._resume_at, time.monotonic() + pause)

    def failed(self) -> None:
        """No answer: 5xx, a time-out or no connection."""
        self._cut(0.5)
        self._faults += 1
        if not self.is_tripped:
            return
        least, most = BREAKER_SECONDS
        pause = min(most, least * 2**self._trips) * random.uniform(0.5, 1.0)
        self._resume_at = max(self._resume_at, time.monotonic() + pause)
        self._trips += 1

    def _cut(self, factor: float) -> None:
        now = time.monotonic()
        if now >= self._cut_after:
            self._cut_after = now + max(self._latency, 0.5)
            self._limit = max(1.0, self._limit * factor)
            self._threshold = self._limit
