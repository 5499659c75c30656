"""The gate: what a reader would stumble over is rejected with a reason."""

from __future__ import annotations

import re

from memo_dist.answers.text import word_set
from memo_dist.synthesis.rules.naming import DANGLING

_MAX_QUESTION_WORDS = 32
_VAGUE = word_set(
    "it that this these those one ones him her them he she they there himself herself itself "
    "themselves something everything nothing anything someone everyone others another some many "
    "so not you i we us me such both all each"
)
_LOOSE_END = word_set(
    "a an the of in on at to for with by from and or but that which who as into about than his "
    "her its their is are was were be been"
)
_LOOSE_START = frozenset({"and", "or", "but", "nor", "of", "than", "'s"})
_BARE = re.compile(
    r"^(?:the|this|these|that|those) (?:company|firm|organisation|organization|device|product|"
    r"system|unit|city|country|town|place|film|book|story|thing|one|same|following|former|latter)s?$",
    re.IGNORECASE,
)
_WORD = re.compile(r"\w+(?:['.-]\w+)*")


def fault(question: str, answer: str) -> str:
    """Why a pair must not be used; empty when it may."""
    if DANGLING in question or DANGLING in answer:
        return "unresolved pronoun"
    words, given = _words(question), _words(answer)
    if not given or not 3 <= len(words) <= _MAX_QUESTION_WORDS:
        return "too long" if len(words) > _MAX_QUESTION_WORDS else "too short"
    if len(given) == 1 and given[0] in _VAGUE:
        return "vague answer"
    if _BARE.match(answer) or given[0] == "no":
        return "vague answer"
    if given[-1] in _LOOSE_END or given[0] in _LOOSE_START:
        return "broken answer"
    if words[-1] in {"and", "or", "the", "a", "an", "his", "her", "its", "their"}:
        return "broken question"
    if set(given) <= set(words):
        return "answer in question"
    return "unbalanced" if _unbalanced(question) or _unbalanced(answer) else ""


def _words(text: str) -> list[str]:
    return [word.lower().removesuffix("'s") for word in _WORD.findall(text)]


def _unbalanced(text: str) -> bool:
    return text.count('"') % 2 == 1 or text.count("(") != text.count(")")
