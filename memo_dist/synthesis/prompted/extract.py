"""The steps ``direct`` and ``indirect``: pairs from passages, and the coverage loop."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any

from memo_dist.config.steps import StepName
from memo_dist.llm import schemas
from memo_dist.llm.requests import Reply, Request, Response
from memo_dist.synthesis.coverage import counted_sentences, evidence_of, uncovered
from memo_dist.synthesis.prompted.anchors import Anchor, anchors_of
from memo_dist.synthesis.prompted.prompts import Prompt, passages_text
from memo_dist.synthesis.prompted.reading import Passage, Reading
from memo_dist.synthesis.prompted.reflection_builder import Author, Collector, answered, tidy
from memo_dist.synthesis.prompted.step import Toolkit, version_of
from memo_dist.synthesis.quality import FOREIGN_NAMES, NAMES_ANSWER, foreign_names, names_answer
from memo_dist.synthesis.types import Dialogue, Kind, Reflection, Unit

JOINT = Prompt(("joint",), schemas.EXTRACTED, 80)
DIRECT = Prompt(("direct",), schemas.OF_PASSAGES, 80)
INDIRECT = Prompt(("indirect",), schemas.OF_PASSAGES, 80)
ANCHORED = Prompt(
    ("anchored",), schemas.ANCHORED, 48, example=("anchored-example", "anchored-reply")
)
GAPS_JOINT = Prompt(("joint", "gaps"), schemas.EXTRACTED, 80)
GAPS_DIRECT = Prompt(("direct", "gaps"), schemas.OF_PASSAGES, 80)

_PAIRS_A_CALL = 8
_CHARS_A_PAIR = 40
"""A reply lists at most so many pairs, and one more for so many characters that were read."""

_Round = Generator[Sequence[Request], Sequence[Reply], None]
Gap = tuple[int, str]
"""Passage number and sentence."""


class DirectStep:
    """Asks for every stated fact, then again for sentences that no pair covers.

    With ``synthesis.extraction=joint`` the same calls also yield the indirect facts; with
    ``anchored`` the step names the answers itself and asks for their questions only.
    """

    name: StepName = "direct"

    def __init__(self, tools: Toolkit) -> None:
        self._tools = tools
        joint = tools.settings.extraction == "joint"
        self._first, self._again = (JOINT, GAPS_JOINT) if joint else (DIRECT, GAPS_DIRECT)
        self._anchored = tools.settings.extraction == "anchored"
        self.version = version_of(ANCHORED if self._anchored else self._first, self._again)

    def dialogue(self, unit: Unit, inputs: Sequence[Reflection]) -> Dialogue:
        """One call a reading, and up to ``synthesis.coverage_rounds`` more where it has gaps."""
        author, found = self._tools.author(unit, self.version), Collector()
        readings = self._tools.readings(unit)
        if self._anchored:
            yield from self._ask_anchored(readings, author, found)
        else:
            first = [(reading, self._request(self._first, reading)) for reading in readings]
            yield from _ask(first, author, found)
        for _ in range(self._tools.settings.coverage_rounds):
            missing = self._gaps(unit, readings, found)
            again = [
                (reading, self._request(self._again, reading, gaps=gaps))
                for reading, gaps in missing
            ]
            if not again:
                break
            yield from _ask(again, author, found)
        return found.result()

    def _request(self, prompt: Prompt, reading: Reading, **values: Any) -> Request:
        return _request(self._tools, prompt, reading, _most(reading), **values)

    def _ask_anchored(
        self, readings: Sequence[Reading], author: Author, found: Collector
    ) -> _Round:
        asked = []
        for reading in readings:
            anchors = anchors_of(reading, self._tools.settings.anchors)
            titles = "; ".join(dict.fromkeys(p.document.title for p in reading.passages))
            if anchors:
                request = _request(
                    self._tools, ANCHORED, reading, len(anchors), anchors=anchors, titles=titles
                )
                asked.append((anchors, request))
        replies = yield [request for _, request in asked]
        for anchors, reply in answered(asked, replies):
            for row in reply.value["questions"]:
                _take_anchored(anchors, row, reply, author, found)

    def _gaps(
        self, unit: Unit, readings: Sequence[Reading], found: Collector
    ) -> list[tuple[Reading, list[Gap]]]:
        """Sentences to ask for again, where a reading is covered less than it should be."""
        rows = list(found.reflections.values())
        missing = []
        for reading in readings:
            total, gaps = 0, []
            for passage in reading.passages:
                sentences = _sentences(passage)
                total += len(sentences)
                gaps += [(passage.number, text) for text in _missing(passage, sentences, rows)]
            if gaps and 1 - len(gaps) / total < self._tools.settings.coverage:
                missing.append((reading, gaps))
        return missing


class IndirectStep:
    """Asks for what follows from the facts; has nothing to ask where ``direct`` did so already."""

    name: StepName = "indirect"

    def __init__(self, tools: Toolkit) -> None:
        self._tools = tools
        self.version = version_of(INDIRECT)

    def dialogue(self, unit: Unit, inputs: Sequence[Reflection]) -> Dialogue:
        """One call a reading."""
        found = Collector()
        if self._tools.settings.extraction == "joint":
            return found.result()
        asked = [
            (reading, _request(self._tools, INDIRECT, reading, _most(reading) // 2))
            for reading in self._tools.readings(unit)
        ]
        author = self._tools.author(unit, self.version)
        yield from _ask(asked, author, found, kind="indirect")
        return found.result()


def _most(reading: Reading) -> int:
    return _PAIRS_A_CALL + reading.chars // _CHARS_A_PAIR


def _request(tools: Toolkit, prompt: Prompt, reading: Reading, most: int, **values: Any) -> Request:
    numbers = len(values.get("anchors", reading.passages))
    return tools.prompter.request(prompt, passages_text(reading), most, numbers, **values)


def _ask(
    asked: Sequence[tuple[Reading, Request]],
    author: Author,
    found: Collector,
    kind: Kind = "direct",
) -> _Round:
    """Send one round about readings and take the pairs of its replies."""
    if not asked:
        return
    replies = yield [request for _, request in asked]
    for reading, reply in answered(asked, replies):
        for row in reply.value["pairs"]:
            take_pair(reading, {"kind": kind, **row}, reply, author, found)


def take_pair(
    reading: Reading, row: dict[str, Any], reply: Response, author: Author, found: Collector
) -> None:
    """Accept a pair of a reply, or say why not; ``row`` has passage, kind, question, answer."""
    passage = reading.passage(row["passage"])
    if passage is None:
        found.reject("no such passage", row)
    elif not tidy(row["question"]) or not tidy(row["answer"]):
        found.reject("empty", row, (passage.document.id,))
    elif names_answer(row["question"], row["answer"]):
        found.reject(NAMES_ANSWER, row, (passage.document.id,))
    elif foreign_names(row["question"], passage.ground):
        found.reject(FOREIGN_NAMES, row, (passage.document.id,))
    else:
        found.take(
            author.from_passage(passage, row["kind"], row["question"], row["answer"], reply.key)
        )


def _take_anchored(
    anchors: Sequence[Anchor],
    row: dict[str, Any],
    reply: Response,
    author: Author,
    found: Collector,
) -> None:
    number = row["answer"]
    if not 1 <= number <= len(anchors):
        found.reject("no such answer", row)
        return
    anchor = anchors[number - 1]
    whole = Reading((anchor.passage,))
    pair = {"passage": 1, "kind": "direct", "question": row["question"], "answer": anchor.text}
    take_pair(whole, pair, reply, author, found)


def _sentences(passage: Passage) -> list[str]:
    text = passage.chunk.text
    return [text[start:end] for start, end in counted_sentences(text)]


def _missing(passage: Passage, sentences: Sequence[str], rows: Sequence[Reflection]) -> list[str]:
    mine = [evidence_of(row) for row in rows if passage.chunk.id in row.chunks]
    return uncovered(sentences, [item for item in mine if item is not None])
