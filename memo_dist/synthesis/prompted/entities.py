"""The step ``entities`` (entity surfacing): the question describes an entity, the answer names it.

A model that has learned "A is B" does not know that B is A (the reversal curse, arXiv 2309.12288),
so the way back is trained too.
"""

from __future__ import annotations

from collections.abc import Sequence

from memo_dist.config.steps import StepName
from memo_dist.llm import schemas
from memo_dist.llm.requests import Request
from memo_dist.synthesis.prompted.extract import take_pair
from memo_dist.synthesis.prompted.prompts import Prompt, passages_text
from memo_dist.synthesis.prompted.reading import Reading
from memo_dist.synthesis.prompted.reflection_builder import Collector, answered
from memo_dist.synthesis.prompted.step import Toolkit, version_of
from memo_dist.synthesis.types import Dialogue, Reflection, Unit

ENTITIES = Prompt(("entities",), schemas.OF_PASSAGES, 80)

_PAIRS_A_CALL = 4
_CHARS_A_PAIR = 100
"""A reply lists at most so many pairs, and one more for so many characters that were read."""


class EntityStep:
    """Asks for descriptions of the entities of each reading."""

    name: StepName = "entities"

    def __init__(self, tools: Toolkit) -> None:
        self._tools = tools
        self.version = version_of(ENTITIES)

    def dialogue(self, unit: Unit, inputs: Sequence[Reflection]) -> Dialogue:
        """One call a reading; a question that names its answer is rejected."""
        asked = [(reading, self._request(reading)) for reading in self._tools.readings(unit)]
        found = Collector()
        if asked:
            author = self._tools.author(unit, self.version)
            replies = yield [request for _, request in asked]
            for reading, reply in answered(asked, replies):
                for row in reply.value["pairs"]:
                    take_pair(reading, {"kind": "entity", **row}, reply, author, found)
        return found.result()

    def _request(self, reading: Reading) -> Request:
        most = _PAIRS_A_CALL + reading.chars // _CHARS_A_PAIR
        body, numbers = passages_text(reading), len(reading.passages)
        return self._tools.prompter.request(ENTITIES, body, most, numbers)
