"""Faults of a question-answer pair that rules can see: leaks, loose pronouns, unfounded answers.

The rules apply to every generator's reflections in the cleaning pass; the ``verify`` step asks a
language model about the same faults and can mend them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from memo_dist.answers.text import ABSTAIN_ANSWER
from memo_dist.synthesis.types import Kind
from memo_dist.synthesis.words import coded, content, names, numbers

LEAK = "refers to the text"
PRONOUN = "pronoun without a name"
MARKUP = "copies the prompt"
UNFOUNDED = "answer not in the text"
FOREIGN_NAMES = "names what the text does not"
FOREIGN_NUMBERS = "numbers that the text does not have"
NAMES_ANSWER = "answer in the question"
UNFOUNDED_QUESTION = "question not in the text"

LEAST_FOUNDED = 0.5
"""Share of an answer's content words that its text must hold."""
_MOST_COMPUTED = 200
"""Numbers of a text of which sums and differences are looked for."""
LEAST_RELATED = 1 / 3
"""Share of an indirect pair's content words that its text must hold."""

_TEXT = r"(?:passage|text|excerpt|snippet|context|paragraph|chunk)s?"
_SOURCE = rf"(?:{_TEXT}|document|article|author|source|story)"
_LEAK = re.compile(
    rf"\b(?:the|this|that|these|given|provided|above|following) {_TEXT}\b(?! of\b)"
    rf"|\b(?:according to|in|from|by|of|does|did) (?:the|this) {_SOURCE}"
    r"(?=\s*(?:[?.,;:]|$)|\s+(?:say|state|mention|describe|tell|mean|above|below|provided|given))"
    rf"|\b(?:mentioned|stated|described|given|listed|discussed|provided) (?:above|below|here"
    rf"|in the {_SOURCE})\b"
    r"|\bpassage \[?\d|\[\d+\]|\bas (?:stated|mentioned|described) (?:above|earlier|before)\b"
    r"|\bthe (?:aforementioned|aforesaid|above-mentioned)\b",
    re.IGNORECASE,
)
_PRONOUN = re.compile(
    r"\b(?:he|him|his|she|her|hers|they|them|their|theirs|it|its)\b", re.IGNORECASE
)
_AFTER_AUXILIARY = re.compile(
    r"\b(?:do|does|did|is|are|was|were|has|have|had|can|could|will|would|should|may|might)\s+$",
    re.IGNORECASE,
)
_IMPERATIVES = frozenset({"please", "name", "tell", "state", "give", "list", "explain"})
_ANTECEDENT = re.compile(
    r"\b(?:the|an?|my|our|your|these|those|this|which|whose|each|every|any|all|some|no|\d+)\s+\w",
    re.I,
)
_OPENING = re.compile(r"(?:^|[.!?:]\s+)[^\W\d_][^\W_]*(?=[\s,])")
_GENERIC = frozenset({"they", "them", "their", "theirs"})
_EXPLETIVE = re.compile(
    r"\b(?:is|was|does|did|will|would|can|could|how long|to) it (?:take|took|from|true|possible|"
    r"mean|rain|snow|in|now|called|necessary|important|that|to|about|for)\b"
    r"|\bit (?:is|was|takes|took|will take) (?:true|possible|necessary|important|about|to)\b",
    re.IGNORECASE,
)


def leaks(text: str, ground: str = "") -> bool:
    """Whether the text points at the document it was made from ("the passage", "as stated").

    A phrase that ``ground`` has itself ("a draft of the passage") points at something else.
    """
    match = _LEAK.search(text)
    return match is not None and match.group().casefold() not in ground.casefold()


def loose_pronoun(question: str) -> bool:
    """Whether a personal pronoun comes before anything it could stand for.

    A pronoun behind a verb of its own question word ("Who sold his house?") is explained by it,
    and people say "they" of whoever is named later ("What do they charge at Tarn Works?").
    """
    match = _PRONOUN.search(question)
    if match is None or _EXPLETIVE.search(question):
        return False
    before = question[: match.start()]
    if match.group().casefold() in _GENERIC and names(question[match.end() :]):
        return False
    named = any(name.split()[0].casefold() not in _IMPERATIVES for name in names(before))
    quoted = any(mark in before for mark in "\"“'‘«")
    if named or quoted or _ANTECEDENT.search(before):
        return False
    return not content(before) or _AFTER_AUXILIARY.search(before) is not None


def founded(question: str, answer: str, kind: Kind, text: str) -> bool:
    """Whether the answer can come from ``text`` (its chunks, sections, titles and dates).

    A stated answer must stand in the text: half of its content words and all of its numbers. An
    indirect one may compute a number or turn a relation, so there a third of question and answer
    together must rest on the text.
    """
    if kind == "abstain" or answer == ABSTAIN_ANSWER:
        return True
    known = content(text)
    if kind == "indirect":
        return _share(f"{question} {answer}", known) >= LEAST_RELATED
    if _share(answer, known) < LEAST_FOUNDED:
        return False
    return numbers(answer) <= numbers(text) | numbers(question)


def stated_fault(question: str, answer: str, kind: Kind, text: str) -> str:
    """Why a pair is not taken from documents that are not the user's own; empty where it is.

    A model that obeys its documents may write anything. So all names and numbers of a pair must
    stand in ``text`` (the whole documents that it cites), all words of a stated answer, and half of
    those of the question. A computed number must be a sum or difference of two that stand there.
    """
    known, counted = content(text), {_plain(number) for number in numbers(text)}
    lowered = _OPENING.sub(lambda match: match.group().lower(), f"{question}\n{answer}")
    if not content(" ".join(names(lowered))) <= known:
        return FOREIGN_NAMES
    if not {_plain(number) for number in numbers(question)} <= counted:
        return FOREIGN_NUMBERS
    if _share(question, known) < LEAST_FOUNDED:
        return UNFOUNDED_QUESTION
    if kind == "abstain" or answer == ABSTAIN_ANSWER:
        return ""
    told = {_plain(number) for number in numbers(answer)} - counted
    if told and (kind != "indirect" or not told <= _sums(counted)):
        return FOREIGN_NUMBERS
    words = frozenset(word for word in content(answer) if not word[0].isdigit())
    least = LEAST_FOUNDED if kind == "indirect" else 1.0
    return "" if len(words & known) >= least * len(words) else UNFOUNDED


def _plain(number: str) -> str:
    return number.lstrip("0") or "0"


def _sums(counted: Iterable[str]) -> set[str]:
    """Sums and differences of two of the first numbers, as they would be written."""
    values = sorted({float(n) for n in counted if re.fullmatch(r"\d{1,12}(?:\.\d{1,6})?", n)})
    values = values[:_MOST_COMPUTED]
    pairs = ((a, b) for a in values for b in values)
    return {f"{result:g}" for a, b in pairs for result in (a + b, abs(a - b))}


def _share(text: str, known: frozenset[str]) -> float:
    wanted = content(text)
    return len(wanted & known) / len(wanted) if wanted else 1.0


def foreign_names(question: str, text: str) -> bool:
    """Whether most of a question's names stand nowhere in its text (a prompt's example, say).

    A word that opens a sentence has its capital from there ("Remind me which ...").
    """
    inner = _OPENING.sub(lambda match: match.group().lower(), question)
    asked = content(" ".join(names(inner)))
    return bool(asked) and len(asked & content(text)) < LEAST_FOUNDED * len(asked)


def foreign_numbers(question: str, text: str) -> bool:
    """Whether a question has a number that its text does not have ("07" is 7, as in dates)."""
    asked, known = ({n.lstrip("0") for n in numbers(part)} for part in (question, text))
    return not asked <= known


def names_answer(question: str, answer: str) -> bool:
    """Whether the question gives its answer away: all of the answer's content words stand in it.

    Words with digits or underscores count whole, others by their stems.
    """
    wanted = content(answer)
    return bool(wanted) and wanted <= content(question) and coded(answer) <= coded(question)


def wording_fault(question: str, answer: str, ground: str = "") -> str:
    """A fault that is visible in the pair alone; empty when there is none."""
    if "->" in question and "->" not in ground:
        return MARKUP
    if leaks(question, ground) or leaks(answer, ground):
        return LEAK
    return PRONOUN if loose_pronoun(question) else ""
