"""Runs flows against a real executive and a real memory, many questions side by side."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from memo_dist.answers.answer import Answer
from memo_dist.config.schema import Config
from memo_dist.errors import StoppedError, UsageError
from memo_dist.io.hashing import short_hash
from memo_dist.llm.asker import Asker
from memo_dist.llm.backends.make import check_key, make_backends
from memo_dist.llm.records import RequestJournal
from memo_dist.llm.reopening import reopen_requests
from memo_dist.llm.router import Router, Stopping
from memo_dist.protocol.budget import Budget
from memo_dist.protocol.flows import FLOWS
from memo_dist.protocol.inquiry import Inquiry
from memo_dist.protocol.question_batcher import AskMemory, QuestionBatcher
from memo_dist.protocol.requests import Calls
from memo_dist.protocol.transcript import SessionTranscript, Transcript
from memo_dist.protocol.types import Ask, Ballot, Conclusion, Consult
from memo_dist.protocol.vote import vote

REQUESTS_FILE = "requests.jsonl"
POLL_SECONDS = 0.2
GRACE_SECONDS = 3.0

Found = TypeVar("Found")


@dataclass(frozen=True, slots=True)
class Outcome:
    """The answer to a question and what it took.

    Attributes:
        answer: its confidence is the least of the notes that it rests on.
        ended: see :class:`memo_dist.protocol.types.Conclusion`.
        limit: the budget that cut the questions short; "" for none.
        calls: calls of the executive.
        failed: those without a valid reply.
        questions: to the memory, wordings not counted.
        executive_tokens: read and written by the executive.
    """

    answer: Answer
    ended: str
    limit: str
    calls: int
    failed: int
    questions: int
    executive_tokens: tuple[int, int] = (0, 0)


class ProtocolSession:
    """An executive and a memory, ready to answer questions; a context manager.

    Threads may share it: all their questions run side by side on the event loop of one thread, and
    what they ask the memory at the same time becomes one batch.

    Every attempt of the executive is in ``requests.jsonl`` before it counts, so that a session
    that goes on in the same folder pays for no reply twice. Calls that failed there get one more
    attempt.
    """

    def __init__(
        self,
        config: Config,
        memory: AskMemory,
        folder: Path,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        """Prepare; nothing is asked yet.

        Args:
            config: ``executive``, ``protocol`` and ``run.seed`` are used.
            memory: a bank's ``answer``.
            folder: where transcript and journal are written.
            should_stop: polled while calls are in flight.

        Raises:
            UsageError: no executive is configured, or its key is not set.
        """
        check_executive(config)
        self._config = config
        self._memory = memory
        self._folder = folder
        self._should_stop = should_stop

    def __enter__(self) -> ProtocolSession:
        reopen_requests(self._folder / REQUESTS_FILE)
        self._journal = RequestJournal(self._folder / REQUESTS_FILE)
        self._transcript = Transcript(self._folder)
        self._router: Router | None = None
        self._closing = asyncio.Event()
        started: Future[asyncio.AbstractEventLoop] = Future()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(
            target=self._run_loop, args=(started,), name="protocol", daemon=True
        )
        self._thread.start()
        self._loop = started.result()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._loop.call_soon_threadsafe(self._closing.set)
        self._thread.join()
        self._journal.sync()
        self._journal.close()
        self._transcript.close()
        if self._failure is not None:
            raise self._failure

    def answer(self, questions: Sequence[str]) -> list[Outcome]:
        """Answer every question, in the given order, all at once.

        Raises:
            RunError: the executive cannot be reached, or refuses everything.
            StoppedError: ``should_stop`` said so.
            OSError: the disk is full.
        """
        begin = time.perf_counter()
        found = self._on_loop(self._answer_all(questions))
        seconds = (time.perf_counter() - begin) / max(1, len(questions))
        return [_outcome(conclusion, budget, seconds) for conclusion, budget in found]

    def _on_loop(self, work: Coroutine[Any, Any, Found]) -> Found:
        """Run in the loop's thread; an interrupt of the waiting thread ends the work too."""
        running = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return running.result()
        except BaseException:
            running.cancel()
            raise

    def _run_loop(self, started: Future[asyncio.AbstractEventLoop]) -> None:
        try:
            asyncio.run(self._serve(started))
        except BaseException as error:
            self._failure = error

    async def _serve(self, started: Future[asyncio.AbstractEventLoop]) -> None:
        """Keep the loop running for the threads that ask, until the session is left."""
        started.set_result(asyncio.get_running_loop())
        await self._closing.wait()
        await self._close()

    async def _answer_all(self, questions: Sequence[str]) -> list[tuple[Conclusion, Budget]]:
        if self._router is None:
            executive = self._config.executive
            self._router = Router(make_backends(executive), executive, 1)
            self._asker = Asker(executive, self._router, self._journal, lambda key: [])
            self._batcher = QuestionBatcher(self._memory)
        tasks: list[asyncio.Task[tuple[Conclusion, Budget]]] = []
        watching = asyncio.create_task(self._watch(self._router, tasks))
        try:
            async with asyncio.TaskGroup() as group:
                tasks += [group.create_task(self._answer(text)) for text in questions]
        except BaseExceptionGroup as errors:
            if not isinstance(errors.exceptions[0], Stopping):
                raise errors.exceptions[0] from None
        finally:
            watching.cancel()
        if any(task.cancelled() or task.exception() for task in tasks):
            raise StoppedError(
                "stopped; what the executive answered is kept: run the same command again"
            )
        return [task.result() for task in tasks]

    async def _answer(self, question: str) -> tuple[Conclusion, Budget]:
        """Drive one flow to its end."""
        config = self._config
        calls = Calls(question, config.executive, config.protocol, config.run.seed)
        budget = Budget(config.protocol)
        transcript = self._transcript.session(short_hash([question, time.time_ns()]))
        transcript.write(
            "question",
            question=question,
            protocol=asdict(config.protocol),
            executive={"kind": config.executive.kind, "model": config.executive.model},
        )
        try:
            conclusion = await self._drive(Inquiry(calls, budget), transcript)
        except Exception as error:
            transcript.write("error", error=f"{type(error).__name__}: {error}")
            raise
        transcript.concluded(
            conclusion,
            calls=budget.calls,
            attempts=budget.attempts,
            questions=budget.questions,
            executive_tokens=budget.executive_tokens,
            memory_tokens=budget.memory_tokens,
        )
        return conclusion, budget

    async def _drive(self, inquiry: Inquiry, transcript: SessionTranscript) -> Conclusion:
        flow = FLOWS[self._config.protocol.variant](inquiry)
        received: Any = None
        while True:
            try:
                call = flow.send(received)
            except StopIteration as end:
                conclusion: Conclusion = end.value
                return conclusion
            begin = time.perf_counter()
            if isinstance(call, Consult):
                received = await self._asker.ask(call.request)
                transcript.consulted(call, received, time.perf_counter() - begin)
            else:
                received = await self._ballots(call)
                transcript.asked(call, received, time.perf_counter() - begin)

    async def _ballots(self, call: Ask) -> list[Ballot]:
        answers = await self._batcher.ask([text for q in call.queries for text in q.wordings])
        ballots = []
        for query in call.queries:
            own, answers = answers[: len(query.wordings)], answers[len(query.wordings) :]
            ballots.append(vote(own))
        return ballots

    async def _watch(self, router: Router, tasks: Sequence[asyncio.Task[Any]]) -> None:
        """Replies may take minutes: a stop waits a little for those in flight, no longer."""
        while not self._should_stop():
            await asyncio.sleep(POLL_SECONDS)
        router.stop()
        await asyncio.wait(tasks, timeout=GRACE_SECONDS)
        for task in tasks:
            task.cancel()

    async def _close(self) -> None:
        if self._router is None:
            return
        self._router.stop()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._asker.drain(), POLL_SECONDS)
        await self._router.close()


def check_executive(config: Config) -> None:
    """Refuse to start without an executive or the key that it needs.

    Raises:
        UsageError: names the keys.
    """
    if config.executive.kind == "none":
        raise UsageError(
            "the protocol needs an executive, and executive.kind is 'none': write for example"
            " executive.kind=openai executive.model=NAME executive.urls=[http://127.0.0.1:8000/v1]"
        )
    check_key(config.executive)


def _outcome(conclusion: Conclusion, budget: Budget, seconds: float) -> Outcome:
    ballots = [note.ballot for note in conclusion.support]
    answer = Answer(
        text=conclusion.text,
        confidence=min((ballot.confidence for ballot in ballots), default=0.0),
        abstained=not conclusion.text,
        sources=tuple(dict.fromkeys(name for ballot in ballots for name in ballot.sources)),
        shards=tuple(dict.fromkeys(shard for ballot in ballots for shard in ballot.shards)),
        seconds=seconds,
        tokens=budget.executive_tokens + budget.memory_tokens,
        calls=budget.attempts + budget.answers,
    )
    return Outcome(
        answer,
        conclusion.ended,
        conclusion.limit,
        budget.calls,
        budget.failed,
        budget.questions,
        (budget.executive_tokens - budget.executive_written, budget.executive_written),
    )
