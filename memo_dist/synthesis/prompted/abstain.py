"""The step ``abstain``: questions that the documents do not answer, answered by abstaining."""

from __future__ import annotations

from collections.abc import Sequence

from memo_dist.answers.text import ABSTAIN_ANSWER
from memo_dist.config.steps import StepName
from memo_dist.llm import schemas
from memo_dist.llm.requests import Request
from memo_dist.synthesis.clean import normalise
from memo_dist.synthesis.prompted.manners import FILE, manners
from memo_dist.synthesis.prompted.prompts import Prompt
from memo_dist.synthesis.prompted.reading import Reading
from memo_dist.synthesis.prompted.reflection_builder import Collector, answered, tidy
from memo_dist.synthesis.prompted.step import FACT_KINDS, Toolkit, by_reading, version_of
from memo_dist.synthesis.quality import wording_fault
from memo_dist.synthesis.types import Dialogue, Reflection, Unit

ABSTAIN = Prompt(("abstain",), schemas.UNANSWERED, 56, uses=(FILE,))

_MANNERS = 6


class AbstainStep:
    """Asks for plausible questions that nothing in a reading answers."""

    name: StepName = "abstain"

    def __init__(self, tools: Toolkit) -> None:
        self._tools = tools
        self.version = version_of(ABSTAIN)

    def dialogue(self, unit: Unit, inputs: Sequence[Reflection]) -> Dialogue:
        """One call a reading, for the larger of its two numbers of abstentions."""
        facts = [row for row in inputs if row.kind in FACT_KINDS]
        asked = []
        for reading, rows in by_reading(self._tools.readings(unit), facts):
            count = self._count(reading, len(rows))
            if count:
                asked.append(((reading, count), self._request(reading, count)))
        found, taken = Collector(), {normalise(row.question) for row in inputs}
        if asked:
            author = self._tools.author(unit, self.version)
            replies = yield [request for _, request in asked]
            for (reading, count), reply in answered(asked, replies):
                for row in reply.value["questions"][:count]:
                    passage, question = reading.passage(row["passage"]), tidy(row["question"])
                    fault = "no such passage" if passage is None else _fault(question, taken)
                    if passage is None or fault:
                        found.reject(fault, row)
                        continue
                    taken.add(normalise(question))
                    found.take(
                        author.from_passage(passage, "abstain", question, ABSTAIN_ANSWER, reply.key)
                    )
        return found.result()

    def _count(self, reading: Reading, facts: int) -> int:
        """The fraction of the facts, or the number for the reading's words if that is more."""
        settings = self._tools.settings
        by_words = settings.abstain_per_1000_words * reading.words / 1000
        return max(round(settings.abstain_fraction * facts), round(by_words))

    def _request(self, reading: Reading, count: int) -> Request:
        body = self._tools.prompter.passages(reading)
        return self._tools.prompter.request(
            ABSTAIN,
            body,
            count,
            len(reading.passages),
            count=count,
            manners=manners(_MANNERS, body.turn, without=("vague",)),
        )


def _fault(question: str, taken: set[str]) -> str:
    if not normalise(question):
        return "empty"
    if normalise(question) in taken:
        return "has an answer"
    return wording_fault(question, "")
