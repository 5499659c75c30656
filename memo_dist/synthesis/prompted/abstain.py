"""The step ``abstain``: questions that the documents do not answer, answered by abstaining."""

from __future__ import annotations

from collections.abc import Sequence

from memo_dist.answers.text import ABSTAIN_ANSWER
from memo_dist.config.steps import StepName
from memo_dist.llm import schemas
from memo_dist.synthesis.clean import normalise
from memo_dist.synthesis.prompted.prompts import Prompt, passages_text
from memo_dist.synthesis.prompted.reflection_builder import Collector, answered, tidy
from memo_dist.synthesis.prompted.step import FACT_KINDS, Toolkit, by_reading, version_of
from memo_dist.synthesis.quality import wording_fault
from memo_dist.synthesis.types import Dialogue, Reflection, Unit

ABSTAIN = Prompt(("abstain",), schemas.UNANSWERED, 48)


class AbstainStep:
    """Asks for plausible questions that nothing in a reading answers."""

    name: StepName = "abstain"

    def __init__(self, tools: Toolkit) -> None:
        self._tools = tools
        self.version = version_of(ABSTAIN)

    def dialogue(self, unit: Unit, inputs: Sequence[Reflection]) -> Dialogue:
        """One call a reading, for ``synthesis.abstain_fraction`` of its facts."""
        facts = [row for row in inputs if row.kind in FACT_KINDS]
        asked = []
        for reading, rows in by_reading(self._tools.readings(unit), facts):
            count = round(self._tools.settings.abstain_fraction * len(rows))
            if count:
                body = passages_text(reading)
                request = self._tools.prompter.request(
                    ABSTAIN, body, count, len(reading.passages), count=count
                )
                asked.append(((reading, count), request))
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


def _fault(question: str, taken: set[str]) -> str:
    if not normalise(question):
        return "empty"
    if normalise(question) in taken:
        return "has an answer"
    return wording_fault(question, "")
