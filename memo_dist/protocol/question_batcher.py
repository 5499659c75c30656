"""Where the memory is asked: what several sessions want at once becomes one batch."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from memo_dist.answers.answer import Answer
from memo_dist.errors import UsageError

AskMemory = Callable[[Sequence[str]], list[Answer]]
"""A bank's ``answer``: one answer for each question, in order."""
_SILENCE = Answer("", 0.0, True, (), (), 0.0, 0)


class QuestionBatcher:
    """Collects questions while the memory answers earlier ones; asks it off the loop's thread."""

    def __init__(self, memory: AskMemory) -> None:
        self._memory = memory
        self._waiting: list[tuple[Sequence[str], asyncio.Future[list[Answer]]]] = []
        self._work: asyncio.Task[None] | None = None

    async def ask(self, questions: Sequence[str]) -> list[Answer]:
        """The memory's answers, in order; what it cannot read it is silent about."""
        if not questions:
            return []
        future: asyncio.Future[list[Answer]] = asyncio.get_running_loop().create_future()
        self._waiting.append((questions, future))
        if self._work is None or self._work.done():
            self._work = asyncio.create_task(self._answer_all())
        return await future

    async def _answer_all(self) -> None:
        await asyncio.sleep(0)  # sessions that are ready now join the first batch
        while self._waiting:
            batch, self._waiting = self._waiting, []
            flat = [question for questions, _ in batch for question in questions]
            try:
                answers = await asyncio.to_thread(self._answer, flat)
            except Exception as error:
                for _, future in batch:
                    if not future.done():
                        future.set_exception(error)
                continue
            for questions, future in batch:
                own, answers = answers[: len(questions)], answers[len(questions) :]
                if not future.done():  # its session may have been cancelled
                    future.set_result(own)

    def _answer(self, questions: Sequence[str]) -> list[Answer]:
        try:
            return self._memory(questions)
        except UsageError:  # one of them is longer than the memory reads; that one alone is lost
            if len(questions) == 1:
                return [_SILENCE]
            return [self._answer([question])[0] for question in questions]
