"""Facts of a reply: an answer with several questions.

The first question that stands is the fact's own; the others are its wordings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from memo_dist.synthesis.agreement import says_nothing
from memo_dist.synthesis.clean import normalise
from memo_dist.synthesis.prompted.reading import Passage
from memo_dist.synthesis.prompted.reflection_builder import Author, Collector, tidy
from memo_dist.synthesis.quality import (
    FOREIGN_NAMES,
    FOREIGN_NUMBERS,
    NAMES_ANSWER,
    foreign_names,
    foreign_numbers,
    names_answer,
    wording_fault,
)
from memo_dist.synthesis.types import Kind, Reflection

ASKED = "asked already, with another answer"
NO_ANSWER = "abstains"

Make = Callable[[str, str], Reflection]
"""Builds a fact from its question and answer."""
Asked = dict[tuple[tuple[str, ...], str], str]
"""(documents, normalised question) -> the normalised answer that it was taken with."""


def question_fault(question: str, answer: str, ground: str, computed: bool = False) -> str:
    """What stands against a question, empty when nothing does.

    Args:
        question: its text.
        answer: that it is for.
        ground: all that it may name; empty: unknown.
        computed: whether it may bring numbers of its own (a case that a rule is applied to).
    """
    if not normalise(question):
        return "empty"
    if names_answer(question, answer):
        return NAMES_ANSWER
    if ground and foreign_names(question, ground):
        return FOREIGN_NAMES
    if ground and not computed and foreign_numbers(question, ground):
        return FOREIGN_NUMBERS
    return wording_fault(question, answer, ground)


@dataclass(slots=True)
class FactTaker:
    """Takes the facts of replies, one fact after the other.

    Attributes:
        author: whose reflections.
        found: where they go.
        most: questions of a fact that are kept.
        asked: what was taken, by document: which of several documents' answers to one question
            stands is decided when all are there (:mod:`memo_dist.synthesis.clean`), so that a
            document does not change what is taken of another.
    """

    author: Author
    found: Collector
    most: int
    asked: Asked = field(default_factory=dict)

    def from_passage(  # noqa: PLR0913
        self,
        passage: Passage,
        kind: Kind,
        answer: str,
        questions: Iterable[str],
        request: str,
        ground: str,
    ) -> Reflection | None:
        """Take a fact of one passage; ``ground`` is all that its questions may name."""

        def make(question: str, answer: str) -> Reflection:
            return self.author.from_passage(passage, kind, question, answer, request)

        sources = (passage.document.id,)
        return self.take(make, answer, questions, sources, ground, computed=kind == "indirect")

    def take(  # noqa: PLR0913
        self,
        make: Make,
        answer: str,
        questions: Iterable[str],
        sources: Sequence[str],
        ground: str,
        computed: bool = False,
    ) -> Reflection | None:
        """Take a fact; None (and a rejection) where no question or no answer stands."""
        answer = tidy(answer)
        if says_nothing(answer):
            reason = NO_ANSWER if answer else "empty"
            self.found.reject(reason, {"answer": answer, "questions": [*questions]}, sources)
            return None
        good = [
            question
            for question in map(tidy, questions)
            if self._stands(question, answer, sources, ground, computed)
        ]
        if not good:
            return None
        fact = make(good[0], answer)
        self.found.take(fact)
        for question in good[1 : self.most]:
            self.found.take(self.author.reworded(fact, question, fact.request))
        return fact

    def add(
        self, fact: Reflection, questions: Iterable[str], ground: str, request: str, most: int
    ) -> list[str]:
        """Take at most ``most`` further wordings of a fact; returns them."""
        computed = fact.kind == "indirect"
        good = [
            question
            for question in map(tidy, questions)
            if self._stands(question, fact.answer, fact.sources, ground, computed)
        ]
        for question in good[:most]:
            self.found.take(self.author.reworded(fact, question, request))
        return good[:most]

    def _stands(
        self, question: str, answer: str, sources: Sequence[str], ground: str, computed: bool
    ) -> bool:
        """Whether a question is sound and new; one that comes again is passed over."""
        fault = question_fault(question, answer, ground, computed)
        key = tuple(sources), normalise(question)
        known = self.asked.get(key)
        if not fault and known is not None and known != normalise(answer):
            fault = ASKED
        if fault:
            self.found.reject(fault, {"question": question, "answer": answer}, sources)
            return False
        self.asked.setdefault(key, normalise(answer))
        return known is None
