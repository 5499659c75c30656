"""Requests to the endpoint of ``executive``, all at once; each is paid for once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from memo_dist.config.model_schema import EndpointConfig
from memo_dist.errors import StoppedError
from memo_dist.llm.asker import Asker
from memo_dist.llm.backends.make import make_backends
from memo_dist.llm.records import RequestJournal
from memo_dist.llm.requests import Reply, Request
from memo_dist.llm.router import Router, Stopping

_POLL_SECONDS = 0.2


def ask_endpoint(
    endpoint: EndpointConfig,
    requests: Sequence[Request],
    journal: Path,
    should_stop: Callable[[], bool] = lambda: False,
) -> list[Reply]:
    """The replies to some requests, in order; those in the journal are not sent again.

    Args:
        endpoint: kind, model, URLs, limits.
        requests: equal ones are sent once.
        journal: file of the attempts.
        should_stop: polled while replies are awaited.

    Raises:
        RunError: the endpoint cannot be reached, or refuses everything.
        StoppedError: ``should_stop`` said so; replies so far are in the journal.
    """
    try:
        return asyncio.run(_ask(endpoint, requests, journal, should_stop))
    except Stopping:
        raise StoppedError("stopped; the replies so far are kept") from None


async def _ask(
    endpoint: EndpointConfig,
    requests: Sequence[Request],
    journal: Path,
    should_stop: Callable[[], bool],
) -> list[Reply]:
    router = Router(make_backends(endpoint), endpoint, 1)
    known = RequestJournal(journal)
    asker = Asker(endpoint, router, known, lambda key: [])
    watching = asyncio.create_task(_watch(router, should_stop))
    try:
        return await asker.ask_all(requests)
    finally:
        watching.cancel()
        router.stop()
        with suppress(TimeoutError):
            await asyncio.wait_for(asker.drain(), _POLL_SECONDS)
        await router.close()
        known.sync()
        known.close()


async def _watch(router: Router, should_stop: Callable[[], bool]) -> None:
    while not should_stop():
        await asyncio.sleep(_POLL_SECONDS)
    router.stop()
