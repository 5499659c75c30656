"""The step ``roundtrip``: a reader answers each question from the passages; pairs that it answers
otherwise go to quarantine with both answers.

Like ``verify`` it replaces the reflections of all steps before it
(:func:`memo_dist.synthesis.types.in_force`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from memo_dist.answers.text import ABSTAIN_ANSWER
from memo_dist.config.steps import StepName
from memo_dist.llm import schemas
from memo_dist.llm.requests import Failure, Reply, Request
from memo_dist.synthesis.agreement import agree, says_nothing
from memo_dist.synthesis.prompted.prompts import Prompt
from memo_dist.synthesis.prompted.reading import Reading
from memo_dist.synthesis.prompted.reflection_builder import Collector, tidy
from memo_dist.synthesis.prompted.step import Toolkit, batches, by_reading, version_of
from memo_dist.synthesis.types import Dialogue, Reflection, Unit

ROUNDTRIP = Prompt(("roundtrip",), schemas.READ, 40)

_ROUNDS = 2
"""Times that a question is asked: a reply may leave some out."""

Batch = tuple[Reading, Sequence[Reflection]]


class RoundtripStep:
    """Keeps pairs whose answer a reader gives too, and abstentions that it has no answer for."""

    name: StepName = "roundtrip"

    def __init__(self, tools: Toolkit) -> None:
        self._tools = tools
        model = tools.settings.reader_model or tools.prompter.model
        self._prompter = replace(tools.prompter, model=model)
        self.version = version_of(ROUNDTRIP)

    def dialogue(self, unit: Unit, inputs: Sequence[Reflection]) -> Dialogue:
        """One call a reading and batch of questions, a second one for questions left out."""
        found = Collector()
        rows = list({row.id: row for row in inputs}.values())
        work = [
            (reading, [row for _, row in mine])
            for reading, mine in by_reading(self._tools.readings(unit), rows)
        ]
        known = {row.id for _, mine in work for row in mine}
        for row in rows:
            if row.id not in known:  # a pair without a passage to read it by
                found.take(row)
        for _ in range(_ROUNDS):
            asked = self._batches(work)
            if not asked:
                break
            replies = yield [self._request(reading, mine) for reading, mine in asked]
            work = [
                (reading, _compare(mine, reply, found))
                for (reading, mine), reply in zip(asked, replies, strict=True)
            ]
        for _, mine in work:
            for row in mine:
                found.reject_pair("roundtrip: no answer", row)
        return found.result()

    def _batches(self, work: Iterable[Batch]) -> list[Batch]:
        size = self._tools.settings.pairs_per_call
        return [(reading, some) for reading, mine in work for some in batches(mine, size)]

    def _request(self, reading: Reading, rows: Sequence[Reflection]) -> Request:
        body = self._prompter.passages(reading).block(
            "questions", questions=[row.question for row in rows]
        )
        return self._prompter.request(ROUNDTRIP, body, len(rows), len(rows))


def _compare(rows: Sequence[Reflection], reply: Reply, found: Collector) -> list[Reflection]:
    """Take or reject the pairs that were answered; returns those that were not."""
    if isinstance(reply, Failure):
        for row in rows:
            found.reject_pair(f"roundtrip: not read: {reply.reason}", row)
        return []
    answers: dict[int, str] = {}
    for item in reply.value["answers"]:
        answers.setdefault(item["question"], tidy(item["answer"]))
    left = []
    for number, row in enumerate(rows, start=1):
        read = answers.get(number)
        if read is None:
            left.append(row)
        elif _stands(row, read):
            found.take(row)
        else:
            value = {"question": row.question, "answer": row.answer, "read": read}
            found.reject("roundtrip: another answer", value, row.sources)
    return left


def _stands(row: Reflection, read: str) -> bool:
    if row.answer == ABSTAIN_ANSWER:
        return says_nothing(read)
    return not says_nothing(read) and agree(row.answer, read)
