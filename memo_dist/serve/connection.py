"""uvicorn's HTTP protocol with deadlines for the header of a request and for taking its answer.

uvicorn ends idle connections between requests, but waits without end for a header of which a
client sends a byte now and then (slow loris): https://github.com/encode/uvicorn/discussions/2106
It also waits without end for a client that does not read what it asked for.
"""

from __future__ import annotations

import asyncio

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

_LEAST_BYTES = 16 * 1024


class GuardedProtocol(H11Protocol):
    """The protocol; the seconds are set by :func:`guarded_protocol`."""

    header_seconds = 10.0
    write_seconds = 30.0
    _deadline: asyncio.TimerHandle | None = None
    _reader: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See asyncio."""
        super().connection_made(transport)
        # Writing pauses while the kernel takes no more, not only above asyncio's 64 KiB: closing
        # a connection waits for these too. Not 0: TLS transports would always pause.
        transport.set_write_buffer_limits(high=1, low=0)
        self._watch()

    def data_received(self, data: bytes) -> None:
        """See asyncio."""
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio."""
        self._unwatch()
        self._end_wait()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """See asyncio."""
        super().pause_writing()
        self._await_reader()

    def resume_writing(self) -> None:
        """See asyncio."""
        self._end_wait()
        super().resume_writing()

    def _await_reader(self) -> None:
        left = self.transport.get_write_buffer_size()
        self._reader = self.loop.call_later(self.write_seconds, self._check_reader, left)

    def _check_reader(self, before: int) -> None:
        """A slow client may go on while it reads; what one does not read is dropped."""
        if before - self.transport.get_write_buffer_size() < _LEAST_BYTES:
            self.transport.abort()
        else:
            self._await_reader()

    def _end_wait(self) -> None:
        if self._reader is not None:
            self._reader.cancel()
            self._reader = None

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


def guarded_protocol(header_seconds: float, write_seconds: float) -> type[GuardedProtocol]:
    """The protocol class.

    Args:
        header_seconds: to receive a header.
        write_seconds: in each of these periods a client takes 16 KiB of an answer, or the rest.
    """
    limits = {"header_seconds": header_seconds, "write_seconds": write_seconds}
    return type("Guarded", (GuardedProtocol,), limits)
