"""The gate: what a reader would stumble over is rejected with a reason."""

from __future__ import annotations

import re

from memo_dist.answers.text import word_set
from memo_dist.synthesis.rules.english import refused_language
from memo_dist.synthesis.rules.naming import DANGLING
from memo_dist.synthesis.rules.tokens import Sentence

_MAX_QUESTION_WORDS = 22
_MAX_TOKENS = 34
_MAX_MARKS = 3
_VAGUE = word_set(
    "it that this these those one ones him her them he she they there himself herself itself "
    "themselves something everything nothing anything someone everyone others another some many "
    "so not you i we us me such both all each"
)
_LOOSE_END = word_set(
    "a an the of in on at to for with by from and or but that which who as into about than his "
    "her its their is are was were be been"
)
_ARTICLES = frozenset({"the", "a", "an"})
_LOOSE_START = frozenset({"and", "or", "but", "nor", "of", "than", "'s"})
_BARE = re.compile(
    r"^(?:the|this|these|that|those) (?:company|firm|organisation|organization|device|product|"
    r"system|unit|city|country|town|place|film|book|story|thing|one|same|following|former|latter)s?$",
    re.IGNORECASE,
)
_BARE_THING = re.compile(
    r"^(?:(?:in|to|at|on|from|by|with|for|of) )?(?:the|its|their|his|her|this|that|these|those|"
    r"such|any|some|each|other|another|certain|several|many|various) (?:[a-z-]+)$"
)
"""An answer that means nothing outside its text: "the certificate", "in the city"."""
_REFERENCE = re.compile(
    r"\b(?:articles?|sections?|paragraphs?|subsections?|clauses?|chapters?|recitals?|annex(?:es)?|"
    r"appendix|appendices|figures?|tables?)\s+(?:\(?\d|[IVX]+\b|[A-Z]\b)|§"
    r"|\b(?:referred to|pursuant to|set out in|laid down in|within the meaning of)\b"
    r"|\b(?:this|that|the following|the preceding|the present) (?:articles?|sections?|paragraphs?|"
    r"subsections?|chapters?|pages?|documents?|guides?|tutorials?|examples?)\b",
    re.IGNORECASE,
)
"""A pointer to another place of the text: a reader of the question does not have it."""
_POINTING = re.compile(
    r"\b(?:above|below|the following|as follows|the former|the latter|previously|aforementioned|"
    r"here|respectively|this|these|those|such an? \w+|the same|so(?! that))\b",
    re.IGNORECASE,
)
_ELSEWHERE = (("cross-reference", _REFERENCE), ("points elsewhere", _POINTING))
_MARKUP = re.compile(r"[{}<>|=\\@#*~^]|://|\(\)|(?<!\w)--?\w|\[\]|`|\.{3}|…")
_SPEAKER = re.compile(r"(?<![\w'’])(?:we|our|ours|us|i|my|me|i'm|we're|let's|mine)(?![\w])", re.I)
_EXAMPLE = re.compile(
    r"^(?:for (?:example|instance)|e\.g\.|suppose|imagine|say,|assume|let us|in other words)\b",
    re.I,
)
_WORD = re.compile(r"\w+(?:['.-]\w+)*")


def unreadable(text: str) -> str:
    """Why a sentence is not read; empty when it is a whole statement in plain English."""
    opens = text[:1].isupper() or text[:1].isdigit() or text[:1] in "\"“'"
    if not opens or not text.endswith((".", ".”", '."', ".)")):
        return "no whole sentence"
    if _MARKUP.search(text):
        return "code or markup"
    if _SPEAKER.search(text) or _EXAMPLE.search(text):
        return "speaks for its author"
    return "not English" if refused_language(text) else ""


def too_nested(sentence: Sentence) -> bool:
    """Whether a sentence is so long or so divided that the parser often cuts it wrongly."""
    marks = sum(token.text in {",", ";", ":", "–", "—"} for token in sentence.tokens)
    return len(sentence.tokens) > _MAX_TOKENS or marks > _MAX_MARKS


def fault(question: str, answer: str) -> str:
    """Why a pair must not be used; empty when it may."""
    if DANGLING in question or DANGLING in answer:
        return "unresolved pronoun"
    words, given = _words(question), _words(answer)
    if not given or not 3 <= len(words) <= _MAX_QUESTION_WORDS:
        return "too long" if len(words) > _MAX_QUESTION_WORDS else "too short"
    if set(given) - _ARTICLES <= set(words):
        return "answer in question"
    if words[-1] in {"and", "or", "the", "a", "an", "his", "her", "its", "their"}:
        return "broken question"
    elsewhere = next(
        (name for name, mark in _ELSEWHERE if mark.search(f"{question}\n{answer}")), ""
    )
    unbalanced = _unbalanced(question) or _unbalanced(answer)
    return elsewhere or _answer_fault(answer, given) or ("unbalanced" if unbalanced else "")


def _answer_fault(answer: str, given: list[str]) -> str:
    if given[-1] in _LOOSE_END or given[0] in _LOOSE_START:
        return "broken answer"
    vague = len(given) == 1 and given[0] in _VAGUE
    owned = given[0] in {"your", "my", "our", "its", "their", "his", "her", "no"}
    if vague or owned or _BARE.match(answer) or _BARE_THING.match(answer):
        return "vague answer"
    return ""


def _words(text: str) -> list[str]:
    return [word.lower().removesuffix("'s") for word in _WORD.findall(text)]


def _unbalanced(text: str) -> bool:
    return text.count('"') % 2 == 1 or text.count("(") != text.count(")")
