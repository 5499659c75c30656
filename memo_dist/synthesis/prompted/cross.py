"""The step ``cross``: facts of several documents of one shard joined.

Its groups are found without any question (:mod:`memo_dist.synthesis.grouping`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from memo_dist.answers.text import normalise
from memo_dist.config.steps import StepName
from memo_dist.llm import schemas
from memo_dist.llm.requests import Request, Response
from memo_dist.synthesis.grouping import find_groups
from memo_dist.synthesis.prompted.consolidate import merged_rows
from memo_dist.synthesis.prompted.facts import FactTaker
from memo_dist.synthesis.prompted.manners import FILE, manners, questions_per_fact
from memo_dist.synthesis.prompted.prompts import ListedPair, Prompt
from memo_dist.synthesis.prompted.reading import grounds
from memo_dist.synthesis.prompted.reflection_builder import Collector, answered, tidy
from memo_dist.synthesis.prompted.step import FACT_KINDS, Toolkit, version_of
from memo_dist.synthesis.types import Dialogue, Group, Reflection, Unit

CROSS = Prompt(("cross",), schemas.JOINED, 60, 40, uses=(FILE,))


class CrossStep:
    """Bridges, converging clues and parallel properties over groups of pairs."""

    name: StepName = "cross"

    def __init__(self, tools: Toolkit) -> None:
        self._tools = tools
        self.version = version_of(CROSS)

    def groups(self, shard: int, reflections: Iterable[Reflection]) -> list[Group]:
        """Pairs of different documents that share a name or ask for the same property."""
        facts = [row for row in reflections if row.kind in FACT_KINDS and row.kind != "cross"]
        return find_groups(facts, self._tools.settings)

    def dialogue(self, unit: Unit, inputs: Sequence[Reflection]) -> Dialogue:
        """One call a group."""
        found, rows = Collector(), list(inputs)
        if len({row.sources for row in rows}) < 2:
            return found.result()
        request = self._request(unit, rows)
        author = self._tools.author(unit, self.version)
        taker = FactTaker(author, found, self._tools.settings.phrasings)
        replies = yield [request]
        for _, reply in answered([(unit, request)], replies):
            for value in reply.value["facts"]:
                _take(unit, rows, value, reply, taker)
        return found.result()

    def _request(self, unit: Unit, rows: Sequence[Reflection]) -> Request:
        titles = {document.id: document.title for document in unit.documents}
        body = self._tools.prompter.facts(
            [ListedPair(row.question, row.answer, title=titles[row.sources[0]]) for row in rows]
        )
        most = min(len(rows), self._tools.settings.facts_per_call)
        count = questions_per_fact(self._tools.settings)
        asked = manners(count, body.turn)
        return self._tools.prompter.request(CROSS, body, most, len(rows), count, manners=asked)


def _take(
    unit: Unit, rows: Sequence[Reflection], value: dict[str, Any], reply: Response, taker: FactTaker
) -> None:
    merged = merged_rows(rows, value, taker.found)
    if merged is None:
        return
    sources = sorted({source for row in merged for source in row.sources})
    if len(sources) < 2:
        taker.found.reject("joins no two documents", value, sources)
        return

    ground = grounds(unit)
    text = "\n".join(ground[source] for source in sources)
    bridge = _bridge(value, text)

    def make(question: str, answer: str) -> Reflection:
        made = taker.author.from_pairs(merged, "cross", question, answer, reply.key)
        return replace(made, bridge=bridge)

    taker.take(make, value["answer"], value["questions"], sources, text)


def _bridge(value: dict[str, Any], text: str) -> str | None:
    """The entity in the middle; None where the reply names none, or one that is not stated."""
    bridge = tidy(value["bridge"])
    words = normalise(bridge)
    if not words or words == normalise(value["answer"]):
        return None
    return bridge if f" {' '.join(words)} " in f" {' '.join(normalise(text))} " else None
