"""The step ``cross``: facts of several documents of one shard joined.

Its groups are found without any question (:mod:`memo_dist.synthesis.grouping`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from memo_dist.config.steps import StepName
from memo_dist.llm import schemas
from memo_dist.synthesis.grouping import find_groups
from memo_dist.synthesis.prompted.consolidate import merged_rows, take_merged
from memo_dist.synthesis.prompted.prompts import ListedPair, Prompt, facts_text
from memo_dist.synthesis.prompted.reflection_builder import Collector, answered
from memo_dist.synthesis.prompted.step import FACT_KINDS, Toolkit, version_of
from memo_dist.synthesis.quality import NAMES_ANSWER, names_answer
from memo_dist.synthesis.types import Dialogue, Group, Reflection, Unit

CROSS = Prompt(("cross",), schemas.MERGED, 100)


class CrossStep:
    """Converging clues and parallel properties over groups of pairs."""

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
        found = Collector()
        rows = list(inputs)
        if len({row.sources for row in rows}) < 2:
            return found.result()
        titles = {document.id: document.title for document in unit.documents}
        listed = [
            ListedPair(row.question, row.answer, title=titles[row.sources[0]]) for row in rows
        ]
        request = self._tools.prompter.request(CROSS, facts_text(listed), len(rows), len(rows))
        author = self._tools.author(unit, self.version)
        replies = yield [request]
        for _, reply in answered([(unit, request)], replies):
            for value in reply.value["pairs"]:
                merged = merged_rows(rows, value, found)
                if merged is None:
                    continue
                sources = {source for row in merged for source in row.sources}
                if len(sources) < 2:
                    found.reject("joins no two documents", value, sources)
                elif names_answer(value["question"], value["answer"]):
                    found.reject(NAMES_ANSWER, value, sources)
                else:
                    take_merged(merged, "cross", value, reply, author, found)
        return found.result()
