"""Whether a text is English: other languages would become nonsense, so they are refused."""

from __future__ import annotations

import re

from memo_dist.answers.text import word_set
from memo_dist.synthesis.rules.noise import without_marks

_ENGLISH = word_set(
    "the of and to in is are was were be been for with that this it as on by from at or an not "
    "have has had can will would should must may if when which who their its they he she his her "
    "you we but all any no than then there these those into about after before between how what "
    "where why"
)
_FOREIGN = word_set(
    # German, Dutch, French, Spanish, Portuguese, Italian, Swedish, Danish, Polish
    "der das und ist nicht ein eine einen dem den des mit für auf wird werden sind von zu bei oder "
    "het een van niet voor zijn worden naar ook maar le la les du une est et dans pour que qui pas "
    "sur avec sont el los las del por para con una es se como más o os da em uma não com il lo gli "
    "di che della sono och att det som en på för är av til og ikke w z się jest nie na że"
)
_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)?")
_LATIN = re.compile(r"[A-Za-z\u00c0-\u024f]")
_SENTENCE_END = re.compile(r"[^\W\d_]{2,}[.!?](?:\s|$)")
_READ_WORDS = 2000
_LEAST_SHARE = 0.08
_FEW_WORDS = 5


def refused_language(text: str) -> str:
    """Why a text is not read as English; empty when it is.

    Compares the share of frequent English function words with that of other languages in the
    first 2,000 words. Lists and tables without sentences have few of either and are read.
    """
    words = _WORD.findall(without_marks(text))[:_READ_WORDS]
    if not words:
        return ""
    letters = "".join(words)
    if sum(1 for letter in letters if not _LATIN.match(letter)) * 2 > len(letters):
        return "another script than Latin"
    if len(words) < _FEW_WORDS:
        return ""
    lower = [word.lower() for word in words]
    english = sum(word in _ENGLISH for word in lower)
    foreign = sum(word in _FOREIGN for word in lower)
    if foreign > english and foreign >= _LEAST_SHARE * len(words):
        return "more function words of other languages than English ones"
    sentences = len(_SENTENCE_END.findall(text))
    if sentences >= 3 and len(words) >= 15 and english < _LEAST_SHARE * len(words) / 2:
        return "hardly any English function words"
    return ""
