"""Questions of concurrent requests share batches."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from memo_dist.answering import Answered
from memo_dist.errors import MemoDistError

Asked = TypeVar("Asked")
"""What a question is: a text, or a text and whose memory is meant."""


@dataclass(frozen=True)
class _Waiting(Generic[Asked]):
    question: Asked
    future: asyncio.Future[Answered]
    since: float


class Batcher(Generic[Asked]):
    """Collects questions, and answers up to ``size`` of them in one call of a thread.

    While ``at_once`` batches run, the next one fills; a batch that is not full waits for others
    until its first question has waited for ``wait`` seconds.
    """

    def __init__(
        self,
        answer: Callable[[Sequence[Asked]], list[Answered]],
        size: int,
        wait: float,
        on_batch: Callable[[int], None] = lambda size: None,
        at_once: int = 1,
    ) -> None:
        """``answer`` is called by ``at_once`` threads at a time; ``on_batch`` hears the sizes."""
        self._answer, self._size, self._wait, self._on_batch = answer, size, wait, on_batch
        self._queue: asyncio.Queue[_Waiting[Asked]] = asyncio.Queue()
        self._threads = ThreadPoolExecutor(at_once, "memo-answers")
        self._free = asyncio.Semaphore(at_once)
        self._task: asyncio.Task[None] | None = None
        self._running: set[asyncio.Task[None]] = set()

    @property
    def waiting(self) -> int:
        """Questions that are in no batch yet."""
        return self._queue.qsize()

    async def ask(self, question: Asked) -> Answered:
        """The answer to one question.

        Raises:
            UsageError, RunError: see ``Answerer.answer``; of this question alone.
        """
        loop = asyncio.get_running_loop()
        if self._task is None:
            self._task = loop.create_task(self._run())
        waiting = _Waiting(question, loop.create_future(), loop.time())
        self._queue.put_nowait(waiting)
        return await waiting.future

    async def close(self) -> None:
        """End the threads; questions that still wait are cancelled."""
        for task in (self._task, *self._running):
            if task is not None:
                task.cancel()
        while not self._queue.empty():
            self._queue.get_nowait().future.cancel()
        await asyncio.to_thread(self._threads.shutdown)

    async def _run(self) -> None:
        while True:
            await self._free.acquire()
            batch = await self._collect()
            self._on_batch(len(batch))
            task = asyncio.create_task(self._work(batch))
            self._running.add(task)
            task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._free.release()

    async def _collect(self) -> list[_Waiting[Asked]]:
        batch = [await self._queue.get()]
        until = batch[0].since + self._wait
        while len(batch) < self._size:
            left = until - asyncio.get_running_loop().time()
            if self._queue.empty() and left <= 0:
                break
            try:
                batch.append(await asyncio.wait_for(self._queue.get(), max(left, 0.001)))
            except TimeoutError:
                break
        return batch

    async def _work(self, batch: Sequence[_Waiting[Asked]]) -> None:
        batch = [row for row in batch if not row.future.done()]  # who asked has gone
        if not batch:
            return
        try:
            found = await self._call([row.question for row in batch])
        except MemoDistError as error:
            if len(batch) == 1:
                _fail(batch[0], error)
                return
            for row in batch:  # one bad question must not fail the others
                await self._work([row])
        except Exception as error:
            for row in batch:
                _fail(row, error)
        else:
            for row, answered in zip(batch, found, strict=True):
                if not row.future.done():
                    row.future.set_result(answered)

    async def _call(self, questions: Sequence[Asked]) -> list[Answered]:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, self._answer, questions)


def _fail(row: _Waiting[Any], error: Exception) -> None:
    if not row.future.done():
        row.future.set_exception(error)
