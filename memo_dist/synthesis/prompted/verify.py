"""The step ``verify``: many facts a call; a fact stays, is rewritten, or is dropped.

Its further wordings share its fate: they go with it, and take a rewritten answer.

The step's result replaces the reflections of all steps before it
(:func:`memo_dist.synthesis.types.in_force`): what it does not return is gone, with a reason.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from memo_dist.config.steps import StepName
from memo_dist.llm import schemas
from memo_dist.llm.requests import Failure, Reply, Request, Response
from memo_dist.synthesis.prompted.prompts import ListedPair, Prompt
from memo_dist.synthesis.prompted.reading import Reading
from memo_dist.synthesis.prompted.reflection_builder import Author, Collector, tidy
from memo_dist.synthesis.prompted.step import Toolkit, batches, by_reading, version_of
from memo_dist.synthesis.quality import (
    FOREIGN_NAMES,
    UNFOUNDED,
    foreign_names,
    founded,
    wording_fault,
)
from memo_dist.synthesis.types import Dialogue, Reflection, Unit

VERIFY = Prompt(("verify",), schemas.VERDICTS, 80)

_ROUNDS = 2
"""Times that a pair is asked about: a reply may leave some out."""

Numbered = tuple[int, Reflection]
Batch = tuple[Reading, Sequence[Numbered]]


class VerifyStep:
    """Judges the pairs of the steps before it against their passages."""

    name: StepName = "verify"

    def __init__(self, tools: Toolkit) -> None:
        self._tools = tools
        self.version = version_of(VERIFY)

    def dialogue(self, unit: Unit, inputs: Sequence[Reflection]) -> Dialogue:
        """One call a reading and batch of pairs, a second one for pairs without a verdict."""
        author, found = self._tools.author(unit, self.version), Collector()
        parts = by_reading(self._tools.readings(unit), _checkable(inputs))
        known = {row.id for _, rows in parts for _, row in rows}
        facts = {row.fact for _, rows in parts for _, row in rows}
        for row in inputs:
            reworded = row.kind == "paraphrase" and row.fact in facts
            if row.id not in known and not reworded:  # abstentions, pairs without a passage
                found.take(row)
        for _ in range(_ROUNDS):
            asked = self._batches(parts)
            if not asked:
                break
            replies = yield [self.request(reading, pairs) for reading, pairs in asked]
            parts = [
                (reading, _judge(reading, pairs, reply, author, found))
                for (reading, pairs), reply in zip(asked, replies, strict=True)
            ]
        for _, pairs in parts:
            for _, row in pairs:
                found.reject_pair("verify: no verdict", row)
        _take_wordings(inputs, facts, found)
        return found.result()

    def request(self, reading: Reading, pairs: Sequence[Numbered]) -> Request:
        """The call that judges some pairs of one reading, (passage number, pair) each."""
        rows = [
            ListedPair(
                row.question, row.answer, number, fault=wording_fault(row.question, row.answer)
            )
            for number, row in pairs
        ]
        body = self._tools.prompter.passages(reading).pairs(rows)
        return self._tools.prompter.request(VERIFY, body, len(rows), len(rows))

    def _batches(self, parts: Iterable[Batch]) -> list[Batch]:
        size = self._tools.settings.pairs_per_call
        return [(reading, batch) for reading, pairs in parts for batch in batches(pairs, size)]


def _checkable(inputs: Iterable[Reflection]) -> list[Reflection]:
    """Each fact once, without abstentions and wordings."""
    facts = (row for row in inputs if row.kind not in ("abstain", "paraphrase"))
    return list({row.id: row for row in facts}.values())


def _take_wordings(inputs: Iterable[Reflection], facts: set[str], found: Collector) -> None:
    """Take the wordings of the facts that stay, with the answers that these have now."""
    kept = {row.fact: row for row in found.reflections.values() if row.kind != "paraphrase"}
    for row in inputs:
        if row.kind == "paraphrase" and row.fact in facts:
            fact = kept.get(row.fact)
            if fact is None:
                found.reject_pair("verify: its fact was dropped", row)
            else:
                found.take(replace(row, answer=fact.answer))


def _judge(
    reading: Reading,
    pairs: Sequence[Numbered],
    reply: Reply,
    author: Author,
    found: Collector,
) -> list[Numbered]:
    """Take the verdicts of one reply; returns the pairs that got none."""
    if isinstance(reply, Failure):
        for _, row in pairs:
            found.reject_pair(f"verify: not judged: {reply.reason}", row)
        return []
    verdicts: dict[int, dict[str, Any]] = {}
    for verdict in reply.value["verdicts"]:
        verdicts.setdefault(verdict["pair"], verdict)
    left = []
    for index, (number, row) in enumerate(pairs, start=1):
        if index in verdicts:
            ground = _ground(reading, row)
            _apply(verdicts[index], row, ground, reply, author, found)
        else:
            left.append((number, row))
    return left


def _apply(  # noqa: PLR0913
    verdict: dict[str, Any],
    row: Reflection,
    ground: str,
    reply: Response,
    author: Author,
    found: Collector,
) -> None:
    if verdict["verdict"] == "drop":
        found.reject_pair(f"verify: dropped: {tidy(verdict['problem'])}", row)
        return
    kept = row
    if verdict["verdict"] == "rewrite":
        question, answer = tidy(verdict["question"]), tidy(verdict["answer"])
        if (question, answer) != (row.question, row.answer):
            kept = author.rewritten(row, question, answer, reply.key)
    fault = _fault(kept, ground)
    if fault:
        found.reject_pair(f"verify: {'kept' if kept is row else 'rewritten'} with: {fault}", kept)
    else:
        found.take(kept)


def _fault(row: Reflection, ground: str) -> str:
    if not row.question or not row.answer:
        return "empty"
    fault = wording_fault(row.question, row.answer, ground)
    if fault:
        return fault
    if foreign_names(row.question, ground):
        return FOREIGN_NAMES
    return "" if founded(row.question, row.answer, row.kind, ground) else UNFOUNDED


def _ground(reading: Reading, row: Reflection) -> str:
    """The text that a pair may rest on: its passages, those of this reading at least."""
    cited = set(row.chunks)
    return "\n".join(p.ground for p in reading.passages if p.chunk.id in cited)
