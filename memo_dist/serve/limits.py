"""How much one caller, and all together, may do at a time."""

from __future__ import annotations

import time
from collections import OrderedDict

_CALLERS = 10_000
"""Callers that are remembered; of more, the one that was silent for longest has a full bucket."""


class RateLimit:
    """A token bucket for each caller: a minute's requests at once, then at an even rate."""

    def __init__(self, per_minute: int) -> None:
        """``per_minute`` 0: no limit."""
        self._rate = per_minute / 60
        self._size = float(per_minute)
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, caller: str) -> float:
        """Count one request; seconds after which it would be allowed, 0: it is."""
        if not self._size:
            return 0.0
        now = time.monotonic()
        left, since = self._buckets.pop(caller, (self._size, now))
        left = min(self._size, left + (now - since) * self._rate)
        allowed = left >= 1
        self._buckets[caller] = (left - 1 if allowed else left, now)
        while len(self._buckets) > _CALLERS:
            self._buckets.popitem(last=False)
        return 0.0 if allowed else (1 - left) / self._rate
