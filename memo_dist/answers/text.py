"""Scores of one answer against its gold answers; every score is between 0 and 1.

Normalisation is SQuAD's (arXiv 1606.05250): lower case, no punctuation, no articles, single
spaces; punctuation of all scripts counts. Where nothing would be left ("A" as a grade), the
articles stay.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Sequence

from memo_dist.answers.characters import clean_characters

ARTICLES = frozenset({"a", "an", "the"})
MAX_CONTAINS_WORDS = 20
"""Longest answer, in words, in which ``contains`` looks: a longer one hedges or lists."""
_WORDS_AROUND = 5
"""Words that may stand around a gold answer which itself leaves no room below that limit."""

ABSTAIN_ANSWER = "I don't know."
"""The answer that abstention examples train and that ``ask`` recognises."""

BRIDGE = " ⇒ "
"""Between the entity in the middle and the answer, where a question joins two facts: a small model
finds the second fact only if it has written down the first (arXiv 2309.14402)."""

_WORD = re.compile(r"\w+")
_MARKS = ".,;:!?()[]{}'\"`_-"
"""ASCII punctuation that says nothing beside words."""
_SIGNS = "\u00a7\u2030\u2032\u2033"
"""Section, per mille, minutes and seconds: Unicode has them among the punctuation."""
_BETWEEN_DIGITS = re.compile(r"(?<=\d)[.:-](?=\d)")
_MINUS = re.compile(r"-(?=\.?\d)")
_PERCENT = re.compile(r"(?<=\d)\s+(?=%)")


def normalise(text: str) -> list[str]:
    """The tokens of a text after SQuAD's normalisation."""
    lowered = clean_characters(text).lower()
    tokens = "".join(c for c in lowered if not _is_punctuation(c)).split()
    return [token for token in tokens if token not in ARTICLES] or tokens


def meant_words(text: str) -> tuple[str, ...]:
    """As :func:`normalise`, with the signs that make another thing of a word: C++ is not C, -5 is
    not 5, 1.5 is not 15, and 5% is not 5. Empty where the text has neither word nor sign.

    For keys, by which questions and names of one meaning are found; scores are SQuAD's.
    """
    lowered = _PERCENT.sub("", clean_characters(text).lower().replace("\u2013", "-"))
    tokens = tuple(filter(None, map(_meant, lowered.split())))
    return tuple(token for token in tokens if token not in ARTICLES) or tokens


def answer_key(text: str) -> tuple[str, ...]:
    """By which equal answers are found; empty only where nothing is said: ``;`` may be one."""
    return meant_words(text) or tuple(text.split())


def _meant(token: str) -> str:
    """A token without what only prose needs; all of it where it is symbols, as ``->``."""
    core = token.strip("\"'`.,;:!?()[]")
    if not any(character.isalnum() for character in core):
        return core if any(not _is_mark(character) for character in core) else ""
    kept = {match.start() for match in _BETWEEN_DIGITS.finditer(core)}
    kept |= {0} if _MINUS.match(core) else set()
    return "".join(c for i, c in enumerate(core) if i in kept or not (c == "*" or _is_mark(c)))


def _is_mark(character: str) -> bool:
    if character.isascii():
        return character in _MARKS
    return unicodedata.category(character).startswith("P") and character not in _SIGNS


def with_bridge(bridge: str | None, answer: str) -> str:
    """The answer as it is trained: after the entity that leads to it, if there is one."""
    plain = answer.replace(BRIDGE, " → ")
    return f"{bridge.replace(BRIDGE, ' → ')}{BRIDGE}{plain}" if bridge else plain


def after_bridge(text: str) -> str:
    """The answer as it is given: without the entity that the memory wrote before it."""
    return text.rpartition(BRIDGE)[2]


def word_set(text: str) -> frozenset[str]:
    """The words of a text as a set."""
    return frozenset(text.split())


def _is_punctuation(character: str) -> bool:
    return character in string.punctuation or unicodedata.category(character).startswith("P")


def exact_match(prediction: str, golds: Sequence[str]) -> float:
    """1 where the normalised prediction equals a normalised gold answer."""
    tokens = normalise(prediction)
    return float(bool(tokens) and any(tokens == normalise(gold) for gold in golds))


def token_f1(prediction: str, golds: Sequence[str]) -> float:
    """The best harmonic mean of token precision and recall over the gold answers."""
    tokens = normalise(prediction)
    return max((_f1(tokens, normalise(gold)) for gold in golds), default=0.0)


def contains(prediction: str, golds: Sequence[str]) -> float:
    """1 where a gold answer stands as whole tokens, in order, in an answer of at most 20 words.

    Around a longer gold answer up to 5 words may stand.
    """
    words = len(prediction.split())
    return float(holds(prediction, [gold for gold in golds if words <= _most_words(gold)]))


def _most_words(gold: str) -> int:
    return max(MAX_CONTAINS_WORDS, len(gold.split()) + _WORDS_AROUND)


def holds(text: str, golds: Sequence[str]) -> bool:
    """Whether a gold answer stands as whole tokens, in order, in a text of any length."""
    tokens = normalise(text)
    return any(_has_sequence(tokens, normalise(gold)) for gold in golds)


def rouge_l(prediction: str, golds: Sequence[str]) -> float:
    """The best ROUGE-L F-measure (longest common subsequence of lower-case words)."""
    words = _WORD.findall(prediction.lower())
    return max((_rouge_l(words, _WORD.findall(gold.lower())) for gold in golds), default=0.0)


def _f1(prediction: list[str], gold: list[str]) -> float:
    common = sum((Counter(prediction) & Counter(gold)).values())
    return _harmonic(common, len(prediction), len(gold))


def _rouge_l(prediction: list[str], gold: list[str]) -> float:
    lengths = [0] * (len(gold) + 1)
    for word in prediction:
        diagonal = 0
        for index, other in enumerate(gold, start=1):
            above = lengths[index]
            lengths[index] = diagonal + 1 if word == other else max(above, lengths[index - 1])
            diagonal = above
    return _harmonic(lengths[-1], len(prediction), len(gold))


def _harmonic(common: int, predicted: int, gold: int) -> float:
    """The F-measure 2PR / (P + R) of P = common / predicted and R = common / gold."""
    return 2 * common / (predicted + gold) if common else 0.0


def _has_sequence(tokens: list[str], wanted: list[str]) -> bool:
    size = len(wanted)
    starts = range(len(tokens) - size + 1) if size else range(0)
    return any(tokens[start : start + size] == wanted for start in starts)
