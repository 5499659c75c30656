"""The step ``paraphrase``: a set number of wordings of each fact's question.

Rewording matters more than repeating (arXiv 2309.14316): the memory must know the fact, not the
sentence.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from memo_dist.config.steps import StepName
from memo_dist.llm import schemas
from memo_dist.llm.requests import Request
from memo_dist.synthesis.clean import normalise
from memo_dist.synthesis.prompted.prompts import ListedPair, Prompt, facts_text
from memo_dist.synthesis.prompted.reflection_builder import Author, Collector, answered, tidy
from memo_dist.synthesis.prompted.step import FACT_KINDS, Toolkit, batches, version_of
from memo_dist.synthesis.quality import NAMES_ANSWER, names_answer, wording_fault
from memo_dist.synthesis.types import Dialogue, Reflection, Unit
from memo_dist.synthesis.words import numbers

PARAPHRASE = Prompt(("paraphrase",), schemas.WORDINGS, 400)

_ROUNDS = 2


class ParaphraseStep:
    """Asks for wordings until each fact has ``synthesis.phrasings``, in at most two rounds."""

    name: StepName = "paraphrase"

    def __init__(self, tools: Toolkit) -> None:
        self._tools = tools
        self._wanted = tools.settings.phrasings - 1
        self.version = version_of(PARAPHRASE)

    def dialogue(self, unit: Unit, inputs: Sequence[Reflection]) -> Dialogue:
        """One call for a batch of facts; again for those that got too few wordings."""
        titles = {document.id: document.title for document in unit.documents}
        facts = [row for row in inputs if row.kind in FACT_KINDS]
        taken = {normalise(row.question) for row in inputs}
        made: dict[str, int] = defaultdict(int)
        author, found = self._tools.author(unit, self.version), Collector()
        for _ in range(_ROUNDS):
            lacking = [row for row in facts if made[row.id] < self._wanted]
            asked = [
                (batch, self._request(batch, titles))
                for batch in batches(lacking, self._tools.settings.pairs_per_call)
            ]
            if not asked:
                break
            replies = yield [request for _, request in asked]
            for batch, reply in answered(asked, replies):
                for value in reply.value["facts"]:
                    if not 1 <= value["pair"] <= len(batch):
                        found.reject("no such pair", value)
                        continue
                    row = batch[value["pair"] - 1]
                    left = self._wanted - made[row.id]
                    fresh = _fresh(row, value["questions"], taken, found)[:left]
                    made[row.id] += len(fresh)
                    _take(row, fresh, reply.key, author, found)
        return found.result()

    def _request(self, rows: Sequence[Reflection], titles: dict[str, str]) -> Request:
        listed = [
            ListedPair(row.question, row.answer, title="; ".join(titles[s] for s in row.sources))
            for row in rows
        ]
        body = facts_text(listed)
        return self._tools.prompter.request(
            PARAPHRASE, body, len(rows), len(rows), count=self._wanted
        )


def _fresh(
    row: Reflection, questions: Iterable[str], taken: set[str], found: Collector
) -> list[str]:
    """The wordings that nobody has yet and that keep the fact's numbers."""
    fresh = []
    for question in map(tidy, questions):
        key = normalise(question)
        fault = _fault(row, question, key)
        if fault:
            found.reject(fault, {"question": question, "parent": row.question}, row.sources)
        elif key not in taken:
            taken.add(key)
            fresh.append(question)
    return fresh


def _fault(row: Reflection, question: str, key: str) -> str:
    if not key:
        return "empty"
    if numbers(question) != numbers(row.question):
        return "other numbers than its parent"
    if names_answer(question, row.answer) and not names_answer(row.question, row.answer):
        return NAMES_ANSWER
    return wording_fault(question, row.answer)


def _take(
    row: Reflection, questions: Iterable[str], request: str, author: Author, found: Collector
) -> None:
    for question in questions:
        found.take(author.reworded(row, question, request))
