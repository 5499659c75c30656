"""Whether a written question stands alone, and whether the reader's answer is the span."""

from __future__ import annotations

import re

from memo_dist.answers.text import contains, normalise, token_f1
from memo_dist.synthesis.quality import NAMES_ANSWER, names_answer, wording_fault
from memo_dist.synthesis.words import content, names, numbers

NOT_SELF_CONTAINED = "says nothing of what it asks about"
NO_QUESTION = "no question"
OTHER_ANSWER = "read otherwise"
UNREAD = "not stated, says the reader"

_LEAST_AGREEMENT = 0.6
_LEAST_CONTENT = 2
_MOST_WORDS = 28
_PERSON = re.compile(r"\bthe (?:author|poster|reviewer|writer|user|speaker|person)s?\b", re.I)
_POINTING = re.compile(
    r"\b(?:this|that|these|those)\b(?! (?:is|are|was|were|have|has|can|do|does)\b)", re.I
)


def question_fault(question: str, answer: str, title: str, text: str) -> str:
    """What is wrong with a question about a passage; empty: nothing that rules can see.

    Args:
        question, answer: the pair.
        title, text: of the passage.
    """
    if not question.endswith("?") or not 4 <= len(question.split()) <= _MOST_WORDS:
        return NO_QUESTION
    fault = wording_fault(question, answer, text)
    if fault or names_answer(question, answer):
        return fault or NAMES_ANSWER
    known = content(f"{title} {text}")
    unknown = content(question) - known
    person = _PERSON.search(question)
    points = _POINTING.search(question) or (person and content(person.group()) <= unknown)
    if len(content(question) & known) < _LEAST_CONTENT or points:
        return NOT_SELF_CONTAINED
    return ""


def names_subject(question: str, title: str, text: str) -> bool:
    """Whether a question names something: a name of the passage, a number or a title's word."""
    about = content(question)
    said = {word for name in names(f"{title}. {text}") for word in content(name)}
    return bool(about & (said | content(title)) or numbers(question) & numbers(text))


def agree(read: str, span: str) -> bool:
    """Whether what the reader answered is the span: nearly the same words, the same numbers."""
    if numbers(read) != numbers(span) and not _one_inside(read, span):
        return False
    return token_f1(read, [span]) >= _LEAST_AGREEMENT or _one_inside(read, span)


def _one_inside(left: str, right: str) -> bool:
    """Whether one answer holds the other, and is not much longer."""
    short, long = sorted((left, right), key=lambda text: len(normalise(text)))
    close = len(normalise(long)) <= len(normalise(short)) + 3
    return close and contains(long, [short]) == 1.0
