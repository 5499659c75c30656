"""Questions for given answers: what a small model does far better than finding both.

Each answer is asked about until it has ``synthesis.phrasings`` questions or the rounds are used up.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass

from memo_dist.llm import schemas
from memo_dist.llm.requests import Reply, Request, Response
from memo_dist.synthesis.clean import normalise
from memo_dist.synthesis.prompted.anchors import Anchor, anchors_of
from memo_dist.synthesis.prompted.facts import FactTaker
from memo_dist.synthesis.prompted.manners import FILE, PER_CALL, further_manners, manners
from memo_dist.synthesis.prompted.prompts import Prompt
from memo_dist.synthesis.prompted.reading import Passage, Reading
from memo_dist.synthesis.prompted.reflection_builder import answered
from memo_dist.synthesis.prompted.step import Toolkit, batches
from memo_dist.synthesis.types import Reflection, Unit

ANCHORED = Prompt(
    ("anchored",),
    schemas.ANCHORED,
    item_tokens=40,
    text_tokens=32,
    uses=(FILE,),
    example=("anchored-example", "anchored-example-reply"),
)

NOT_LISTED = "no listed answer"


@dataclass(slots=True)
class _Work:
    """An answer with the fact it became and its number of questions."""

    anchor: Anchor
    number: int
    fact: Reflection | None = None
    made: int = 0


class AnchoredQuestions:
    """The rounds about one unit's answers, a passage a reading."""

    def __init__(self, tools: Toolkit, unit: Unit, taker: FactTaker) -> None:
        settings = tools.settings
        self._tools = tools
        self._taker = taker
        documents = {document.id: document for document in unit.documents}
        passages = [Passage(1, documents[chunk.document], chunk) for chunk in unit.chunks]
        self._work = [
            [_Work(anchor, number) for number, anchor in enumerate(anchors)]
            for anchors in (anchors_of(passage, settings.anchors) for passage in passages)
        ]

    def rounds(self) -> Generator[Sequence[Request], Sequence[Reply], None]:
        """Ask for the questions that are missing, ``synthesis.coverage_rounds`` times again."""
        settings = self._tools.settings
        for turn in range(settings.coverage_rounds + 1):
            lacking = [
                [item for item in items if item.made < settings.phrasings] for items in self._work
            ]
            asked = [
                (batch, self._request(batch, turn))
                for items in lacking
                for batch in batches(items, settings.anchors_per_call)
            ]
            if not asked:
                return
            replies = yield [request for _, request in asked]
            for batch, reply in answered(asked, replies):
                self._take(batch, reply)

    def _request(self, batch: Sequence[_Work], turn: int) -> Request:
        passage = batch[0].anchor.passage
        body = self._tools.prompter.passages(Reading((passage,)))
        body = body.block("answers", answers=[item.anchor.text for item in batch])
        settings = self._tools.settings
        lacking = settings.phrasings - min(item.made for item in batch)
        count = min(lacking, PER_CALL)
        place = body.turn + batch[0].number + turn
        asked = manners(count, place) if not turn else further_manners(count, place)
        return self._tools.prompter.request(
            ANCHORED,
            body,
            len(batch),
            len(batch),
            count,
            manners=asked,
        )

    def _take(self, batch: Sequence[_Work], reply: Response) -> None:
        """Take the questions of listed answers: a reply names an answer by its text."""
        listed = {normalise(item.anchor.text): item for item in batch}
        for row in reply.value["facts"]:
            item = listed.get(normalise(row["answer"]))
            if item is None:
                self._taker.found.reject(NOT_LISTED, row, (batch[0].anchor.passage.document.id,))
            else:
                self._add(item, row["questions"], reply.key)

    def _add(self, item: _Work, questions: Iterable[str], request: str) -> None:
        passage = item.anchor.passage
        if item.fact is not None:
            left = self._tools.settings.phrasings - item.made
            added = self._taker.add(item.fact, questions, passage.ground, request, left)
            item.made += len(added)
            return
        before = len(self._taker.found.reflections)
        item.fact = self._taker.from_passage(
            passage, "direct", item.anchor.text, questions, request, passage.ground
        )
        item.made = len(self._taker.found.reflections) - before
