"""The step ``consolidate``: pairs of one document merged into richer ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from memo_dist.config.steps import StepName
from memo_dist.llm import schemas
from memo_dist.llm.requests import Response
from memo_dist.synthesis.prompted.prompts import Prompt
from memo_dist.synthesis.prompted.reflection_builder import Author, Collector, answered, tidy
from memo_dist.synthesis.prompted.step import Toolkit, batches, by_reading, listed, version_of
from memo_dist.synthesis.types import Dialogue, Kind, Reflection, Unit

CONSOLIDATE = Prompt(("consolidate",), schemas.MERGED, 100)


class ConsolidateStep:
    """Merges pairs that share an entity, a period or a relation, inside one document."""

    name: StepName = "consolidate"

    def __init__(self, tools: Toolkit) -> None:
        self._tools = tools
        self.version = version_of(CONSOLIDATE)

    def dialogue(self, unit: Unit, inputs: Sequence[Reflection]) -> Dialogue:
        """One call a reading and batch of pairs; a batch with a single pair is not asked about."""
        facts = [row for row in inputs if row.kind in ("direct", "indirect")]
        asked = []
        for reading, mine in by_reading(self._tools.readings(unit), facts):
            for batch in batches(mine, self._tools.settings.pairs_per_call):
                if len(batch) > 1:
                    body = self._tools.prompter.passages(reading).pairs(listed(batch))
                    request = self._tools.prompter.request(
                        CONSOLIDATE, body, len(batch), len(batch)
                    )
                    asked.append(([row for _, row in batch], request))
        found = Collector()
        if asked:
            author = self._tools.author(unit, self.version)
            replies = yield [request for _, request in asked]
            for rows, reply in answered(asked, replies):
                for value in reply.value["pairs"]:
                    _take(rows, value, reply, author, found)
        return found.result()


def _take(
    rows: Sequence[Reflection],
    value: dict[str, Any],
    reply: Response,
    author: Author,
    found: Collector,
) -> None:
    merged = merged_rows(rows, value, found)
    if merged is None:
        return
    take_merged(merged, "consolidated", value, reply, author, found)


def merged_rows(
    rows: Sequence[Reflection], value: dict[str, Any], found: Collector
) -> list[Reflection] | None:
    """The pairs that a merged one names; None (and a rejection) for fewer than two."""
    numbers = sorted(set(value["merges"]))
    if len(numbers) < 2 or not all(1 <= number <= len(rows) for number in numbers):
        found.reject("merges no two listed pairs", value)
        return None
    return [rows[number - 1] for number in numbers]


def take_merged(  # noqa: PLR0913
    merged: Sequence[Reflection],
    kind: Kind,
    value: dict[str, Any],
    reply: Response,
    author: Author,
    found: Collector,
) -> None:
    """Accept a merged pair with the provenance of its parts, unless it is empty."""
    if tidy(value["question"]) and tidy(value["answer"]):
        found.take(author.from_pairs(merged, kind, value["question"], value["answer"], reply.key))
    else:
        found.reject("empty", value, {source for row in merged for source in row.sources})
