"""The steps ``direct``, ``indirect`` and ``entities``: facts from passages, and the rounds."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from memo_dist.config.steps import StepName
from memo_dist.llm import schemas
from memo_dist.llm.requests import Reply, Request, Response
from memo_dist.synthesis.coverage import LEAST_WORDS, Evidence, evidence_of, uncovered
from memo_dist.synthesis.prompted.anchored import ANCHORED, AnchoredQuestions
from memo_dist.synthesis.prompted.facts import FactTaker
from memo_dist.synthesis.prompted.manners import FILE, manners, questions_per_fact
from memo_dist.synthesis.prompted.prompts import Body, Prompt
from memo_dist.synthesis.prompted.reading import Part, Reading, parts
from memo_dist.synthesis.prompted.reflection_builder import Collector, answered
from memo_dist.synthesis.prompted.step import Toolkit, version_of
from memo_dist.synthesis.types import Dialogue, Kind, Reflection, Unit
from memo_dist.synthesis.words import content

_ROW_TOKENS, _QUESTION_TOKENS = 40, 32


def _facts_prompt(task: str) -> Prompt:
    files = (task, "rows")
    return Prompt(files, schemas.FACTS, _ROW_TOKENS, _QUESTION_TOKENS, uses=(FILE,))


DIRECT, INDIRECT, ENTITIES = map(_facts_prompt, ("direct", "indirect", "entities"))

CHARS_A_FACT = 20
"""Text for which a call expects one fact at most; dense text has one in 25 characters."""

_Rounds = Generator[Sequence[Request], Sequence[Reply], None]


@dataclass(slots=True)
class _Work:
    """A part, the facts that were taken from it, and whether its last reply was full."""

    part: Part
    facts: list[Reflection] = field(default_factory=list)
    full: bool = False


class DirectStep:
    """Asks for every stated fact, with its questions, then again for what is missing.

    With ``synthesis.extraction=anchored`` the step names the answers itself and asks for their
    questions only.
    """

    name: StepName = "direct"

    def __init__(self, tools: Toolkit) -> None:
        self._tools = tools
        self._anchored = tools.settings.extraction == "anchored"
        self.version = version_of(ANCHORED if self._anchored else DIRECT)

    def dialogue(self, unit: Unit, inputs: Sequence[Reflection]) -> Dialogue:
        """One call a part of a reading, up to ``synthesis.coverage_rounds`` more for its rest."""
        found = Collector()
        author = self._tools.author(unit, self.version)
        taker = FactTaker(author, found, self._tools.settings.phrasings)
        if self._anchored:
            yield from AnchoredQuestions(self._tools, unit, taker).rounds()
        else:
            yield from self._rounds(unit, taker)
        return found.result()

    def _rounds(self, unit: Unit, taker: FactTaker) -> _Rounds:
        most = self._tools.settings.facts_per_call
        work = [
            _Work(part)
            for reading in self._tools.readings(unit)
            for part in parts(reading, most * CHARS_A_FACT)
        ]
        asked = [(item, self._request(item, item.part.sentences, item.part.whole)) for item in work]
        for turn in range(self._tools.settings.coverage_rounds + 1):
            if turn:
                asked = self._further(work, taker.found)
            if not asked:
                return
            replies = yield [request for _, request in asked]
            for item, reply in answered(asked, replies):
                item.full = len(reply.value["facts"]) >= most
                item.facts += take_facts(item.part.reading, reply, "direct", taker)

    def _further(self, work: Sequence[_Work], found: Collector) -> list[tuple[_Work, Request]]:
        """The calls of a round after the first."""
        told = _evidence(found)
        return [
            (item, self._request(item, missing, False))
            for item in work
            if (missing := self._missing(item, told))
        ]

    def _request(self, item: _Work, sentences: Sequence[tuple[int, str]], whole: bool) -> Request:
        """The call for some sentences of a part, or for the whole reading."""
        body = self._tools.prompter.passages(item.part.reading)
        known = list(dict.fromkeys(fact.answer for fact in item.facts))
        turn = body.turn + item.part.index + len(known)
        if not whole:
            body = body.block("sentences", sentences=sentences)
        if known:
            body = body.block("answers", answers=known)
        return facts_request(
            self._tools, DIRECT, item.part.reading, body, turn, known=known, focus=not whole
        )

    def _missing(
        self, item: _Work, told: Mapping[str, Sequence[Evidence]]
    ) -> list[tuple[int, str]]:
        """Sentences to ask for again: all after a full reply, else those without a fact."""
        if item.full:
            return list(item.part.sentences)
        counted = [row for row in item.part.sentences if len(content(row[1])) >= LEAST_WORDS]
        chunks = [passage.chunk.id for passage in item.part.reading.passages]
        evidence = [one for chunk in chunks for one in told.get(chunk, ())]
        gaps = set(uncovered([text for _, text in counted], evidence))
        missing = [row for row in counted if row[1] in gaps]
        share = len(missing) / len(counted) if counted else 0.0
        return missing if 1 - share < self._tools.settings.coverage else []


def _evidence(found: Collector) -> dict[str, list[Evidence]]:
    """What the reflections tell, by the id of each chunk that they rest on."""
    told: dict[str, list[Evidence]] = {}
    for row in found.reflections.values():
        item = evidence_of(row)
        if item is not None:
            for chunk in row.chunks:
                told.setdefault(chunk, []).append(item)
    return told


class FactStep:
    """One call a reading for facts of one kind."""

    def __init__(self, tools: Toolkit, name: StepName, kind: Kind, prompt: Prompt) -> None:
        self._tools = tools
        self.name: StepName = name
        self._kind = kind
        self._prompt = prompt
        self.version = version_of(prompt)

    def dialogue(self, unit: Unit, inputs: Sequence[Reflection]) -> Dialogue:
        """Ask about each reading once."""
        asked = [(reading, self._request(reading)) for reading in self._tools.readings(unit)]
        author, found = self._tools.author(unit, self.version), Collector()
        taker = FactTaker(author, found, self._tools.settings.phrasings)
        if asked:
            replies = yield [request for _, request in asked]
            for reading, reply in answered(asked, replies):
                take_facts(reading, reply, self._kind, taker)
        return found.result()

    def _request(self, reading: Reading) -> Request:
        body = self._tools.prompter.passages(reading)
        return facts_request(self._tools, self._prompt, reading, body, body.turn, known=())


def indirect_step(tools: Toolkit) -> FactStep:
    """The step ``indirect``: what follows from the passages without being said."""
    return FactStep(tools, "indirect", "indirect", INDIRECT)


def entity_step(tools: Toolkit) -> FactStep:
    """The step ``entities``: the question describes an entity, the answer names it.

    A model that has learned "A is B" does not know that B is A (the reversal curse, arXiv
    2309.12288), so the way back is trained too.
    """
    return FactStep(tools, "entities", "entity", ENTITIES)


def facts_request(
    tools: Toolkit, prompt: Prompt, reading: Reading, body: Body, turn: int, **values: Any
) -> Request:
    """A call for facts with :func:`questions_per_fact` questions each."""
    count = questions_per_fact(tools.settings)
    return tools.prompter.request(
        prompt,
        body,
        tools.settings.facts_per_call,
        len(reading.passages),
        count,
        manners=manners(count, turn),
        **values,
    )


def take_facts(reading: Reading, reply: Response, kind: Kind, taker: FactTaker) -> list[Reflection]:
    """Take the facts of one reply; what is not taken is in quarantine with its reason."""
    facts = []
    for row in reply.value["facts"]:
        passage = reading.passage(row["passage"])
        if passage is None:
            taker.found.reject("no such passage", row)
            continue
        fact = taker.from_passage(
            passage, kind, row["answer"], row["questions"], reply.key, reading.ground
        )
        facts += [fact] if fact is not None else []
    return facts
