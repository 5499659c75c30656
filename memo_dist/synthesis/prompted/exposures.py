"""The step ``paraphrase``: further wordings of facts that have few.

Rewording matters more than repeating (arXiv 2309.14316): the memory must know the fact, not the
sentence.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

from memo_dist.config.steps import StepName
from memo_dist.llm import schemas
from memo_dist.llm.requests import Request
from memo_dist.synthesis.clean import normalise
from memo_dist.synthesis.prompted.facts import FactTaker
from memo_dist.synthesis.prompted.manners import (
    FILE,
    NEED_PASSAGES,
    further_manners,
    questions_per_fact,
)
from memo_dist.synthesis.prompted.prompts import ListedPair, Prompt
from memo_dist.synthesis.prompted.reading import grounds
from memo_dist.synthesis.prompted.reflection_builder import Collector, answered
from memo_dist.synthesis.prompted.step import FACT_KINDS, Toolkit, batches, version_of
from memo_dist.synthesis.types import Dialogue, Reflection, Unit

_Known = dict[str, list[str]]
"""Fact -> its questions so far."""
_KNOWN = "known"
PARAPHRASE = Prompt(("paraphrase",), schemas.WORDINGS, 16, 32, uses=(FILE, _KNOWN))


class ParaphraseStep:
    """Asks for wordings of facts that have fewer than three quarters of ``synthesis.phrasings``."""

    name: StepName = "paraphrase"

    def __init__(self, tools: Toolkit) -> None:
        self._tools = tools
        self._most = tools.settings.phrasings
        self._enough = self._most - self._most // 4
        self._per_call = questions_per_fact(tools.settings)
        self._rounds = 1 + -(-self._most // self._per_call)
        self.version = version_of(PARAPHRASE)

    def dialogue(self, unit: Unit, inputs: Sequence[Reflection]) -> Dialogue:
        """One call for a batch of facts of one document; again where too few came."""
        titles = {document.id: document.title for document in unit.documents}
        ground = grounds(unit)
        facts = [row for row in inputs if row.kind in FACT_KINDS]
        known = _questions(inputs)
        found = Collector()
        author = self._tools.author(unit, self.version)
        taken = {(row.sources, normalise(row.question)): normalise(row.answer) for row in inputs}
        taker = FactTaker(author, found, self._most, taken)
        for turn in range(self._rounds):
            lacking = [row for row in facts if len(known[row.fact]) < self._enough]
            asked = [
                (batch, self._request(batch, titles, known, turn))
                for batch in self._batches(lacking)
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
                    text = "\n".join(ground[name] for name in row.sources)
                    left = self._most - len(known[row.fact])
                    known[row.fact] += taker.add(row, value["questions"], text, reply.key, left)
        return found.result()

    def _batches(self, rows: Iterable[Reflection]) -> Iterator[Sequence[Reflection]]:
        """Batches of facts of the same documents: other documents do not change a request."""
        ordered = sorted(rows, key=lambda row: row.sources)
        for _, mine in groupby(ordered, key=lambda row: row.sources):
            yield from batches(list(mine), self._tools.settings.pairs_per_call)

    def _request(
        self, rows: Sequence[Reflection], titles: dict[str, str], known: _Known, turn: int
    ) -> Request:
        listed = [
            ListedPair(row.question, row.answer, title="; ".join(titles[s] for s in row.sources))
            for row in rows
        ]
        body = self._tools.prompter.facts(listed).block(
            _KNOWN, known=[known[row.fact] for row in rows]
        )
        lacking = self._most - min(len(known[row.fact]) for row in rows)
        count = min(lacking, self._per_call)
        asked = further_manners(count, body.turn + turn, without=NEED_PASSAGES)
        return self._tools.prompter.request(
            PARAPHRASE, body, len(rows), len(rows), count, manners=asked
        )


def _questions(rows: Iterable[Reflection]) -> _Known:
    known: _Known = defaultdict(list)
    for row in rows:
        if row.kind != "abstain":
            known[row.fact].append(row.question)
    return known
