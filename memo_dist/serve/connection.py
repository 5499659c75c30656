"""uvicorn's HTTP protocol with a deadline for the header of a request.

uvicorn ends idle connections between requests, but waits without end for a header of which a
client sends a byte now and then (slow loris): https://github.com/encode/uvicorn/discussions/2106
"""

from __future__ import annotations

import asyncio

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol


class GuardedProtocol(H11Protocol):
    """The protocol; ``header_seconds`` is set by :func:`guarded_protocol`."""

    header_seconds = 10.0
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See asyncio."""
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        """See asyncio."""
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio."""
        self._unwatch()
        super().connection_lost(exc)

    def _watch(self) -> None:
        """Run the clock exactly while a header is awaited."""
        if self.conn.their_state is not h11.IDLE:
            self._unwatch()
        elif self._deadline is None:
            self._deadline = self.loop.call_later(self.header_seconds, self._expire)

    def _unwatch(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _expire(self) -> None:
        self._deadline = None
        if self.conn.their_state is h11.IDLE and not self.transport.is_closing():
            self.transport.close()


def guarded_protocol(seconds: float) -> type[GuardedProtocol]:
    """The protocol class with ``seconds`` to receive a header."""
    return type("Guarded", (GuardedProtocol,), {"header_seconds": seconds})
