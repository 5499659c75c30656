"""Facts of the spans that people ask for: amounts, dates and names that no clause yielded.

A clause that the parser leaves unread still tells what stands in it. Each remaining amount, date
or name of a sentence becomes the gap of a question in place ("the meter measures a nominal flow
of how many cubic metres per hour?"), which is grammatical whatever the sentence's structure.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from memo_dist.synthesis.rules.document import ReadDocument, ReadSentence
from memo_dist.synthesis.rules.facts import Fact, fact_key
from memo_dist.synthesis.rules.kinds import name_kind
from memo_dist.synthesis.rules.naming import render
from memo_dist.synthesis.rules.tokens import Token
from memo_dist.synthesis.rules.wording import join, sentence

_MAX_SHORT_WORDS = 6
_MAX_SENTENCE_WORDS = 26
_CODE = re.compile(r"^[A-Za-z]{1,4}-?\d+[\w-]*$")
_LOOSE = frozenset({"one"})
_FRAMES = ("fill in the gap", "complete the sentence", "what is missing here")


@dataclass(frozen=True, slots=True)
class Span:
    """Tokens ``start`` to ``end`` (exclusive) of a sentence, and what asks for them."""

    start: int
    end: int
    asked: str


def span_facts(item: ReadSentence, read: ReadDocument, known: Sequence[Fact]) -> Iterator[Fact]:
    """Facts of the sentence's spans that no short answer among ``known`` holds yet."""
    tokens = item.sentence.tokens
    if item.sentence.end_mark == "?" or len(tokens) > _MAX_SENTENCE_WORDS:
        return
    short = [fact_key(f.answer) for f in known if len(f.answer.split()) <= _MAX_SHORT_WORDS]
    topic = fact_key(read.topic.name) if read.topic is not None else ""
    for span in _spans(tokens):
        answer = render(tokens[span.start : span.end])
        key = fact_key(answer)
        given = any(f" {key} " in f" {other} " for other in short)
        if key and key not in topic and not given:
            questions = _wordings(tokens, span, read.context)
            yield Fact(questions, answer, "direct", item.sentence.start, "", "span")


def _wordings(tokens: Sequence[Token], span: Span, context: str) -> tuple[str, ...]:
    article = span.start > 0 and tokens[span.start - 1].tag == "AT0"  # "the which network"
    before = render(list(tokens[: span.start - article]))
    after = render(list(tokens[span.end :]))
    lead = f"{context}, " if context else ""
    in_place = join((before, span.asked, after))
    gap = join((before, "...", after)).rstrip(".")
    questions = [
        sentence(f"{lead}{in_place}"),
        sentence(f"{span.asked}: {join((before, after))} ({context})" if context else in_place),
        *(f"{frame.capitalize()} ({context or 'a fact'}): {gap}." for frame in _FRAMES),
    ]
    return tuple(dict.fromkeys(questions))


def _spans(tokens: Sequence[Token]) -> Iterator[Span]:
    at = 0
    while at < len(tokens):
        span = _date(tokens, at) or _amount(tokens, at) or _name(tokens, at)
        if span is None:
            at += 1
            continue
        yield span
        at = span.end


def _date(tokens: Sequence[Token], at: int) -> Span | None:
    if tokens[at].tag != "DATE":
        return None
    year = tokens[at].text.isdigit()
    return Span(at, at + 1, "which year" if year else "which date")


def _amount(tokens: Sequence[Token], at: int) -> Span | None:
    """A number with its unit: "7.9 million orrins", "2.5 cubic metres per hour"."""
    if tokens[at].tag != "CRD" or tokens[at].lower in _LOOSE:
        return None
    number = at
    while number < len(tokens) and tokens[number].tag == "CRD":
        number += 1
    end = _noun_end(tokens, number)
    if end == number:
        return Span(at, number, "which number")
    if end + 1 < len(tokens) and tokens[end].lower == "per" and tokens[end + 1].is_noun:
        end += 2
    unit = render(list(tokens[number:end]))
    asked = "what percentage" if unit in {"percent", "%"} else f"how many {unit}"
    return Span(at, end, asked)


def _name(tokens: Sequence[Token], at: int) -> Span | None:
    """A run of names with the nouns behind it: "the Norrtel mobile network"."""
    if not (tokens[at].tag == "NP0" and tokens[at].is_name) and not _CODE.match(tokens[at].text):
        return None
    end = at
    while end < len(tokens) and (tokens[end].is_name or end == at) and tokens[end].tag != "DATE":
        end += 1
    names = [token.text for token in tokens[at:end]]
    behind = end if _CODE.match(names[-1]) else _noun_end(tokens, end)
    kind = name_kind(names)
    if behind > end:
        asked = f"which {render(list(tokens[end:behind]))}"
    elif kind == "person":
        asked = "which person"
    elif kind in {"group", "place"} and len(names) > 1:
        asked = f"which {names[-1].lower()}"
    else:
        asked = "which name"
    return Span(at, behind, asked)


def _noun_end(tokens: Sequence[Token], at: int) -> int:
    """Where the adjectives and nouns from ``at`` end; ``at`` itself where no noun follows."""
    end = at
    while end < len(tokens) and (tokens[end].tag in {"AJ0", "NN0", "NN1", "NN2"}):
        if tokens[end].is_name and end > at:
            break
        end += 1
    while end > at and tokens[end - 1].tag == "AJ0":
        end -= 1
    return end
