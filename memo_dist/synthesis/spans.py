"""Answer spans: every noun phrase, number, date, name and code term that a question can ask for.

A span is a run of tagged tokens without its article. Longer and shorter readings of one place are
spans of their own ("86.4 million litres of river water" and "86.4 million litres"): people ask for
either.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from memo_dist.answers.text import word_set
from memo_dist.synthesis.rules.nlp import split_sentences, tag_tokens
from memo_dist.synthesis.rules.tokens import Token
from memo_dist.synthesis.words import FUNCTION_WORDS

SpanKind = Literal["date", "number", "name", "code", "noun"]

_BLOCK = re.compile(r"(?:[^\n]|\n(?!\s*\n|\s*(?:[-*•–|]|#+\s|\(?(?:\d{1,3}|[a-z])[.)]\s)))+")
_LABEL = re.compile(r"\s*(?:[-*•–]\s+|#+\s+|\(?(?:\d{1,3}|[a-z])[.)]\s+)")
_CODE = re.compile(
    r"[A-Za-z]{1,5}-?\d[\w-]*|\w+(?:[_/]\w+)+|[\w-]+\.[A-Za-z]{2,5}|[a-z]+[A-Z]\w*|--?[a-z]\w*"
)
_AMOUNT = re.compile(r"[$€£¥]\s?\d.*|\d{2,}.*|\d+[.,:/]\d.*|\d+\s?%")
_HEADS = frozenset({"NN0", "NN1", "NN2", "NN", "NP0", "UNC", "ZZ0", "DATE"})
_MODIFIERS = frozenset({"AJ0", "AJC", "AJS", "ORD", "CRD", "POS"})
_LINKS = frozenset({"of", "in", "for", "per", "at", "from"})
_SKIPPED = frozenset({"AT0", "DPS", "DT0"})
_EMPTY = FUNCTION_WORDS | word_set(
    "one ones thing things way ways lot lots number part parts example case use other others "
    "something anything nothing everything someone anyone everyone mr mrs ms dr e.g i.e etc"
)
_MOST_WORDS = 8
_MOST_JOINED = 3
"""Words of each side of "A and B" that is a span as a whole."""

Run = tuple[int, int]
"""Token indices, half open."""


@dataclass(frozen=True, slots=True, order=True)
class Span:
    """A possible answer.

    Attributes:
        start, end: character offsets into the text (half open).
        text: what stands there, with single spaces.
        kind: ``date``, ``number`` (with its unit), ``name``, ``code`` or ``noun``.
    """

    start: int
    end: int
    text: str
    kind: SpanKind


def answer_spans(text: str) -> list[Span]:
    """All answer spans of a text in order; spans of one place may nest.

    Of spans with the same words (without regard to case) the first one stays.
    """
    found: dict[str, Span] = {}
    for sentence, offset in _sentences(text):
        tokens = tag_tokens(sentence)
        for start, end in dict.fromkeys(_token_spans(tokens)):
            low, high = tokens[start].start, tokens[end - 1].end
            words = " ".join(sentence[low:high].split())
            if _asks_something(tokens[start:end], words):
                span = Span(offset + low, offset + high, words, _kind(tokens[start:end], words))
                found.setdefault(words.casefold(), span)
    return sorted(found.values())


def _sentences(text: str) -> Iterator[tuple[str, int]]:
    """Sentences of each paragraph, list item and table line, without a list's marks."""
    for block in _BLOCK.finditer(text):
        label = _LABEL.match(block.group())
        skipped = label.end() if label else 0
        yield from split_sentences(block.group()[skipped:], block.start() + skipped)


def _token_spans(tokens: Sequence[Token]) -> Iterator[Run]:
    runs = list(_runs(tokens))
    for index, (start, end) in enumerate(runs):
        yield start, end
        yield from _parts(tokens, start, end)
        after = runs[index + 1] if index + 1 < len(runs) else None
        if after is not None and _linked(tokens, (start, end), after):
            yield start, after[1]
            first = _list_start(tokens, runs, index)
            if first < index:
                yield runs[first][0], after[1]


def _runs(tokens: Sequence[Token]) -> Iterator[Run]:
    """Maximal runs of modifiers and nouns that end in a noun or a number; dates stand alone."""
    at = 0
    while at < len(tokens):
        end = at
        while end < len(tokens) and _inside(tokens, at, end):
            end += 1
        stop = end
        while stop > at and not _ends(tokens[stop - 1]):
            stop -= 1
        start = at
        while start < stop and tokens[start].tag == "POS":
            start += 1
        if start < stop:
            yield start, stop
        at = max(end, at + 1)


def _inside(tokens: Sequence[Token], start: int, at: int) -> bool:
    token = tokens[at]
    if at > start and "DATE" in (token.tag, tokens[at - 1].tag):
        return False
    return token.tag in _HEADS or token.tag in _MODIFIERS or _is_code(token)


def _ends(token: Token) -> bool:
    return token.tag in _HEADS or token.tag == "CRD" or _is_code(token)


def _parts(tokens: Sequence[Token], start: int, end: int) -> Iterator[Run]:
    """Shorter readings inside a run: the owner, what is owned, a name, an amount, the bare noun."""
    for at in range(start, end):
        if tokens[at].tag == "POS":
            yield start, at
            yield at + 1, end
    for at in range(start, end):
        if _is_code(tokens[at]):
            yield at, at + 1
    for low, high in _stretches(tokens, start, end, lambda token: token.tag == "NP0"):
        yield low, high
    for low, high in _stretches(tokens, start, end, _is_number):
        yield low, high
        if high < end:
            yield low, high + 1
            yield high, end
    bare = start
    while bare < end - 1 and tokens[bare].tag in {"AJ0", "AJC", "AJS", "ORD"}:
        bare += 1
    yield bare, end


def _stretches(
    tokens: Sequence[Token], start: int, end: int, fits: Callable[[Token], bool]
) -> Iterator[Run]:
    at = start
    while at < end:
        stop = at
        while stop < end and fits(tokens[stop]):
            stop += 1
        if stop > at:
            yield at, stop
        at = max(stop, at + 1)


def _linked(tokens: Sequence[Token], left: Run, right: Run) -> bool:
    """Whether two runs are one phrase: "litres of water", "Ada Moss and Rob Pell"."""
    between = tokens[left[1] : right[0]]
    if not between or right[1] - left[0] > _MOST_WORDS:
        return False
    if all(map(_is_number, tokens[left[0] : left[1]])) and right[1] - right[0] == 1:
        return False
    if between[0].text == "," and between[1:2] and between[1].lower in {"and", "or"}:
        between = between[1:]
    if any(token.tag not in _SKIPPED for token in between[1:]):
        return False
    if between[0].lower in {"and", "or", "&"}:
        return max(left[1] - left[0], right[1] - right[0]) <= _MOST_JOINED
    return between[0].lower in _LINKS


def _list_start(tokens: Sequence[Token], runs: Sequence[Run], last: int) -> int:
    """The first run of a list "A, B and C" whose last but one is ``last``; else ``last``."""
    first = last
    joined = tokens[runs[last][1]].lower in {"and", "or", "&", ","}
    while joined and first > 0:
        between = tokens[runs[first - 1][1] : runs[first][0]]
        long = runs[first - 1][1] - runs[first - 1][0] > _MOST_JOINED
        if long or not between or between[0].text != "," or len(between) > 2:
            break
        first -= 1
    return first


def _is_number(token: Token) -> bool:
    if token.tag == "DATE" or _is_code(token):
        return False
    return token.tag == "CRD" or token.text[0].isdigit() or token.text[0] in "$€£¥"


def _is_code(token: Token) -> bool:
    return token.tag != "DATE" and _CODE.fullmatch(token.text) is not None


def _asks_something(tokens: Sequence[Token], words: str) -> bool:
    """Whether a question can ask for the words: no lone digit, letter or empty word."""
    if words.casefold() in _EMPTY or not any(letter.isalnum() for letter in words):
        return False
    if len(tokens) > _MOST_WORDS:
        return False
    if all(map(_is_number, tokens)):
        return _AMOUNT.match(words) is not None or len(tokens) > 1
    return len(words) > 1


def _kind(tokens: Sequence[Token], words: str) -> SpanKind:
    if any(token.tag == "DATE" for token in tokens):
        return "date"
    if any(_is_code(token) for token in tokens):
        return "code"
    if _is_number(tokens[0]):
        return "number"
    return "name" if any(token.is_name for token in tokens) else "noun"
