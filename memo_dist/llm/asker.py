"""Asking: from a request to its reply, through journal, attempts and validation."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from memo_dist.config.model_schema import EndpointConfig
from memo_dist.llm.backends.base import (
    Answer,
    ConnectionBroken,
    NoReply,
    RequestRefused,
    ServerFault,
)
from memo_dist.llm.records import Attempt, RequestJournal, answered, reply_of
from memo_dist.llm.requests import OpenRequest, Reply, Request, with_schema_in_prompt
from memo_dist.llm.router import Router
from memo_dist.llm.validation import fault_of, next_send

BACKOFF_SECONDS = (0.5, 30.0)
_FAULTS = ("fault", "broken")

OtherHistory = Callable[[str], list[Attempt]]
"""Attempts of a request that was settled elsewhere: by another partition, or before the corpus
was revised; empty where it was not."""


class Unanswered(Exception):
    """Replies are still to come; nothing of ``requests`` is settled or journaled."""

    def __init__(self, requests: Sequence[OpenRequest]) -> None:
        super().__init__(f"{len(requests)} requests have no reply yet")
        self.requests = requests


class Asker:
    """Asks for one partition of one step. Identical requests are asked once."""

    def __init__(
        self,
        config: EndpointConfig,
        router: Router,
        journal: RequestJournal,
        elsewhere: OtherHistory,
    ) -> None:
        self._config = config
        self._router = router
        self._journal = journal
        self._elsewhere = elsewhere
        self._asking: dict[str, asyncio.Task[Reply]] = {}

    async def ask(self, request: Request) -> Reply:
        """The reply to a request; from the journal where it is there.

        Raises:
            NoReply: the reply is still to come.
            RunError: the endpoints are of no use.
            Stopping: the run stops.
        """
        key = request.key
        task = self._asking.get(key)
        if task is None:
            task = asyncio.get_running_loop().create_task(self._ask(request, key))
            self._asking[key] = task
            task.add_done_callback(partial(self._settled, key))
        return await asyncio.shield(task)

    async def ask_all(self, requests: Sequence[Request]) -> list[Reply]:
        """The replies to a round of requests, in order.

        Raises:
            Unanswered: some replies are still to come; all others of the round are journaled.
            RunError: the endpoints are of no use.
            Stopping: the run stops.
        """
        found = await asyncio.gather(*(self._ask_or_leave(request) for request in requests))
        unanswered = [item for item in found if isinstance(item, OpenRequest)]
        if unanswered:
            raise Unanswered(unanswered)
        return [item for item in found if not isinstance(item, OpenRequest)]

    async def _ask_or_leave(self, request: Request) -> Reply | OpenRequest:
        try:
            return await self.ask(request)
        except NoReply as why:
            return OpenRequest(request, str(why))

    async def drain(self) -> None:
        """Wait for what is in flight; its answers are journaled, errors are not raised here."""
        await asyncio.gather(*self._asking.values(), return_exceptions=True)

    def _settled(self, key: str, task: asyncio.Task[Reply]) -> None:
        self._asking.pop(key, None)
        if not task.cancelled():
            task.exception()  # seen: whoever waits gets it; nobody may be waiting any more

    async def _ask(self, request: Request, key: str) -> Reply:
        history = self._journal.history(key) or self._elsewhere(key)
        while True:
            reply = reply_of(request, key, history)
            if reply is not None:
                return reply
            if history and history[-1].outcome in _FAULTS:
                await self._router.pause(asyncio.sleep(_backoff(history)))
            attempt = await self._attempt(request, key, history)
            self._journal.append(attempt)
            history.append(attempt)

    async def _attempt(self, request: Request, key: str, history: list[Attempt]) -> Attempt:
        send = next_send(request, history)
        send = replace(send, max_tokens=send.max_tokens + self._config.thinking_tokens)
        if self._config.structured == "prompt":
            send = with_schema_in_prompt(send)
        number = len(history)
        try:
            answer = await self._router.send(send, f"{key}-{answered(history)}")
        except ServerFault as fault:
            final = _faults(history) >= self._config.retries
            broken = isinstance(fault, ConnectionBroken)
            return Attempt(key, number, "broken" if broken else "fault", final, str(fault))
        except RequestRefused as fault:
            return Attempt(key, number, "refused", True, str(fault))
        return self._judge(request, key, answer, history)

    def _judge(self, request: Request, key: str, answer: Answer, history: list[Attempt]) -> Attempt:
        reason = fault_of(answer, request.schema)
        if reason and answer.source:
            raise NoReply(f"{answer.source}: {reason}")
        last = _count(history, "invalid") + 1 >= self._config.attempts
        usage = (answer.usage.prompt, answer.usage.cached, answer.usage.completion)
        return Attempt(
            key=key,
            attempt=len(history),
            outcome="invalid" if reason else "ok",
            final=not reason or last,
            reason=reason,
            text=answer.text.encode("utf-8", "replace").decode(),
            finish_reason=answer.finish_reason,
            usage=usage,
            at=round(time.time(), 3),
        )


def _count(history: Sequence[Attempt], outcome: str) -> int:
    return sum(row.outcome == outcome for row in history)


def _faults(history: Sequence[Attempt]) -> int:
    return sum(row.outcome in _FAULTS for row in history)


def _backoff(history: Sequence[Attempt]) -> float:
    """Seconds: exponential in the faults so far, with full jitter."""
    least, most = BACKOFF_SECONDS
    return random.uniform(0, min(most, least * 2 ** _faults(history)))
