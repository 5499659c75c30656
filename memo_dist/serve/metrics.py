"""Prometheus metrics of one server; no label holds a text, an id or a question."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """What ``/metrics`` shows."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.seconds = Histogram(
            "memo_dist_request_seconds", "Time of a request.", ("route", "method", "status"),
            buckets=_SECONDS, registry=self._registry,
        )  # fmt: skip
        self.batches = Histogram(
            "memo_dist_batch_questions", "Questions of a batch.", ("mode",),
            buckets=_SIZES, registry=self._registry,
        )  # fmt: skip
        self.answers = Counter(
            "memo_dist_answers", "Answers by what they came from: memory, pending or none.",
            ("mode", "source"), registry=self._registry,
        )  # fmt: skip
        self.refused = Counter(
            "memo_dist_refused", "Requests refused, by reason.", ("code",), registry=self._registry
        )

    def watch(self, name: str, text: str, value: Callable[[], float]) -> None:
        """Add a gauge whose value is taken when the metrics are read."""
        Gauge(f"memo_dist_{name}", text, registry=self._registry).set_function(value)

    def text(self) -> bytes:
        """In Prometheus' text format."""
        return generate_latest(self._registry)
