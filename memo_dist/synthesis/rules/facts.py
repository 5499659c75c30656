"""A fact: a short answer with several wordings of its question."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from typing import Literal

FactKind = Literal["direct", "indirect"]


@dataclass(frozen=True, slots=True)
class Fact:
    """One question-answer fact.

    Attributes:
        questions: wordings, the first one is the reflection of its own step.
        answer: the short answer, without final punctuation.
        kind: ``direct``, or ``indirect`` when the question runs backwards.
        start: character offset of its sentence in the document.
        about: the name of the subject, empty when it has none of its own.
        attribute: lemma of the verb or noun that the question turns on.
        rule: what wrote it, for measurements ("copula.what", "pair.row").
    """

    questions: tuple[str, ...]
    answer: str
    kind: FactKind
    start: int
    about: str = ""
    attribute: str = ""
    rule: str = ""


def unambiguous(facts: list[Fact]) -> Iterator[Fact]:
    """The facts without those further wordings that another fact answers differently."""
    answers: dict[str, set[str]] = {}
    for fact in facts:
        for question in fact.questions:
            answers.setdefault(fact_key(question), set()).add(fact_key(fact.answer))
    for fact in facts:
        first, *others = fact.questions
        kept = [q for q in others if len(answers[fact_key(q)]) == 1]
        yield replace(fact, questions=(first, *kept))


def told_apart(newest: Collection[str]) -> bool:
    """Whether dates tell which of several answers holds: the newest date of each ("": none)."""
    return all(newest) and len(set(newest)) == len(newest)


def fact_key(text: str) -> str:
    """A text as it is compared: lower case, words only."""
    return re.sub(r"[^\w]+", " ", text.lower()).strip()
