"""From a request to an answer: which endpoint, when, and what to do while none will do."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import deque
from collections.abc import Coroutine, Sequence
from typing import Any

from memo_dist.config.model_schema import EndpointConfig
from memo_dist.errors import RunError
from memo_dist.llm.backends.base import (
    Answer,
    Backend,
    BackendFault,
    EndpointRefused,
    NoReply,
    RateLimited,
    RequestRefused,
    ServerFault,
    Unreachable,
)
from memo_dist.llm.endpoints import Endpoint
from memo_dist.llm.limits import RateLimits
from memo_dist.llm.requests import Request

logger = logging.getLogger(__name__)

TICK_SECONDS = 0.1
_ONE_REQUEST = 0.9
"""Share of the patience after which one request ends, so that it ends before the run does."""
_TELL_SECONDS = 30.0
"""Between two reports of an endpoint that cannot be reached."""
HEDGE_SAMPLES = 20


class Stopping(Exception):
    """Nothing more is sent because the run stops."""


class Router:
    """Sends requests over equal endpoints; one a worker, inside its event loop.

    Args of the constructor:
        backends: the endpoints.
        config: limits, patience, hedging.
        workers: workers that share the limits equally.
    """

    def __init__(self, backends: Sequence[Backend], config: EndpointConfig, workers: int) -> None:
        share = max(1, config.max_in_flight // (workers * len(backends)))
        self.endpoints = [Endpoint(backend, share) for backend in backends]
        self._config = config
        self._limits = RateLimits(config, workers)
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._retrying = 0
        """Requests between two sends to endpoints that cannot be reached: neither in flight nor
        waiting for a place, but not done. After a 429 a request ends by itself (see ``send``)."""
        self._pauses: set[asyncio.Future[None]] = set()
        self._end: Exception | None = None
        self._answered = time.monotonic()
        self._last_fault = "none"
        self._told_at = -_TELL_SECONDS
        self.trouble = ""
        """Why no endpoint can be reached at present; empty once one answers."""
        self._sent = self._hedged = 0
        self._ticker = asyncio.get_running_loop().create_task(self._tick())

    def stop(self, reason: Exception | None = None) -> None:
        """Send nothing more; what waits for an endpoint gets ``reason`` (default Stopping)."""
        self._end = self._end or reason or Stopping()
        while self._waiting:
            self._wake()
        for pause in list(self._pauses):
            pause.cancel()

    async def pause(self, wait: Coroutine[Any, Any, None]) -> None:
        """Wait for something that a stop cuts short.

        Raises:
            Exception: what :meth:`stop` was given, at once where it was called before.
        """
        if self._end:
            wait.close()
            raise self._end
        task = asyncio.ensure_future(wait)
        self._pauses.add(task)
        task.add_done_callback(self._pauses.discard)
        try:
            await task
        except asyncio.CancelledError:
            if self._end:
                raise self._end from None
            raise

    async def close(self) -> None:
        """Release the endpoints."""
        self._ticker.cancel()
        for endpoint in self.endpoints:
            await endpoint.backend.close()

    async def send(self, request: Request, tag: str) -> Answer:
        """One answer, however long the endpoints ask to wait or cannot be reached.

        Raises:
            ServerFault, RequestRefused: this attempt failed; also where the endpoints ask to wait
                for longer than the patience, so that a request that they never take ends alone.
            NoReply: the reply is still to come.
            RunError: an endpoint refuses everything, or ``patience`` is over.
            Stopping: the run stops.
        """
        until = None
        while True:
            if self._limits.are_set:
                await self.pause(self._limits.acquire(request))
            endpoint = await self._acquire()
            try:
                answer = await self._send_to(endpoint, request, tag)
                self._limits.learn(answer.usage)
                return answer
            except (RateLimited, Unreachable) as fault:
                self._last_fault = str(fault)
                until = until or time.monotonic() + _ONE_REQUEST * self._config.patience
                # An endpoint that cannot be reached is no fault of the request: _tick ends the run.
                if isinstance(fault, RateLimited) and time.monotonic() > until:
                    raise RequestRefused(
                        f"still refused after {self._config.group}.patience: {fault}"
                    ) from None
                await self._breathe(fault)
            except EndpointRefused as fault:
                error = RunError(f"{fault}: check {self._config.group}.urls, model and api_key_env")
                self.stop(error)
                raise error from None

    async def _breathe(self, fault: RateLimited | Unreachable) -> None:
        """The pause before a request is sent again; the run's patience goes on meanwhile."""
        unreached = int(isinstance(fault, Unreachable))
        self._retrying += unreached
        try:
            await self.pause(asyncio.sleep(random.uniform(0.05, 0.5)))
        finally:
            self._retrying -= unreached

    async def _send_to(self, endpoint: Endpoint, request: Request, tag: str) -> Answer:
        self._sent += 1
        patience = self._config.hedge_after * endpoint.latency
        if not patience or self._sent < HEDGE_SAMPLES:
            return await self._call(endpoint, request, tag)
        first = asyncio.ensure_future(self._call(endpoint, request, tag))
        await asyncio.wait({first}, timeout=patience)
        other = None if first.done() else await self._hedge(first)
        if other is None:
            return await first
        return await _first_answer(first, asyncio.ensure_future(self._call(other, request, tag)))

    async def _hedge(self, first: asyncio.Future[Answer]) -> Endpoint | None:
        """A place for a second send, before new requests get one; None where none may be made.

        Under load every place is taken: a straggler that only looked once would never find one.
        """
        if self._hedged + 1 > self._config.hedge_fraction * self._sent or self._end:
            return None
        self._hedged += 1
        place = asyncio.ensure_future(self._acquire(ahead=True))
        either: set[asyncio.Future[Any]] = {first, place}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if not first.done() and not place.exception():
            return place.result()
        self._hedged -= 1
        if not place.done():
            place.cancel()
        elif not place.exception():
            place.result().in_flight -= 1
            self._wake()
        return None

    async def _call(self, endpoint: Endpoint, request: Request, tag: str) -> Answer:
        """One send; the caller has taken the place, this gives it back."""
        begin = time.monotonic()
        try:
            answer = await endpoint.backend.complete(request, tag)
        except BackendFault as fault:
            self._note(endpoint, fault)
            raise
        else:
            self._answered, self.trouble = time.monotonic(), ""
            endpoint.succeeded(self._answered - begin)
            return answer
        finally:
            endpoint.in_flight -= 1
            self._wake()

    def _note(self, endpoint: Endpoint, fault: BackendFault) -> None:
        if isinstance(fault, RateLimited):
            endpoint.limited(fault.retry_after)
        elif isinstance(fault, (ServerFault, Unreachable)):
            if isinstance(fault, Unreachable):
                self._tell(fault)
            tripped = endpoint.is_tripped
            endpoint.failed()
            if endpoint.is_tripped and not tripped:
                logger.warning("%s answers no more: %s", endpoint.backend.name, fault)
        elif isinstance(fault, (RequestRefused, NoReply)):
            self._answered = time.monotonic()

    def _tell(self, fault: Unreachable) -> None:
        """Report at once, and while it lasts, what may never heal (a misspelt host, say)."""
        self.trouble = str(fault)
        if time.monotonic() - self._told_at >= _TELL_SECONDS:
            self._told_at = time.monotonic()
            limit = f"{self._config.group}.patience={self._config.patience:g} s"
            logger.warning("cannot reach %s; trying for %s", fault, limit)

    def _pick(self) -> Endpoint | None:
        free = [endpoint for endpoint in self.endpoints if endpoint.has_room()]
        return min(free, key=lambda endpoint: endpoint.load, default=None)

    async def _acquire(self, ahead: bool = False) -> Endpoint:
        """A place at an endpoint, in order of arrival; ``ahead``: before all who wait."""
        while True:
            if self._end:
                raise self._end
            endpoint = self._pick()
            if endpoint is not None:
                endpoint.in_flight += 1
                return endpoint
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            (self._waiting.appendleft if ahead else self._waiting.append)(waiter)
            try:
                await waiter
            except asyncio.CancelledError:
                if not waiter.cancelled():
                    self._wake()  # whoever is next takes the place that this one was woken for
                raise

    def _wake(self) -> None:
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return

    async def _tick(self) -> None:
        """Pauses end and limits grow without anything else happening: look now and then."""
        while True:
            await asyncio.sleep(TICK_SECONDS)
            open_here = bool(self._waiting or self._retrying)
            if not open_here and not any(e.in_flight for e in self.endpoints):
                self._answered = time.monotonic()
            elif time.monotonic() - self._answered > self._config.patience:
                self.stop(self._out_of_patience())
            room = sum(max(0, e.limit - e.in_flight) for e in self.endpoints if e.has_room())
            for _ in range(room):
                self._wake()

    def _out_of_patience(self) -> RunError:
        names = ", ".join(endpoint.backend.name for endpoint in self.endpoints)
        return RunError(
            f"no answer from any of {len(self.endpoints)} endpoints ({names}) within "
            f"{self._config.group}.patience={self._config.patience:g} s;"
            f" last fault: {self._last_fault}."
            " What was answered is kept: run the same command again"
        )


async def _first_answer(*sends: asyncio.Task[Answer]) -> Answer:
    """The answer of whichever send brings one first; the other is cancelled."""
    pending = set(sends)
    while pending:
        done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        good = [task for task in done if task.exception() is None]
        if good or not pending:
            for task in pending:
                task.cancel()
            return (good or list(done))[0].result()
    raise AssertionError("no sends")
