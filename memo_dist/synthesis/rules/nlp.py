"""Tokens, tags and sentences: the seam to HanTa (tags, lemmas) and pysbd (sentence borders).

Tags are those of the British National Corpus (CLAWS 5), which HanTa's English model emits,
plus ``DATE`` for a calendar date or year read as one token.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any

from memo_dist.synthesis.rules.lexicon import MONTHS
from memo_dist.synthesis.rules.repair import (
    compound,
    decapitalise,
    ensure_verb,
    repair,
    repair_names,
)
from memo_dist.synthesis.rules.tokens import Sentence, Token

_MONTH = "(?:" + "|".join(MONTHS) + ")"
_FUNCTION = "the|a|an|and|or|in|on|at|of|to|for|with|by|is|are|was|it|he|she|they|this|that|which"
_DAY = r"\d{1,2}(?:st|nd|rd|th)?"
DATE_PATTERN = (
    rf"{_DAY}(?: of)? {_MONTH}(?:,? \d{{4}})?|{_MONTH} {_DAY}(?:, ?\d{{4}})?(?!\d)|"
    rf"{_MONTH},? \d{{4}}|\d{{4}}-\d{{2}}-\d{{2}}|"
    r"\d{1,2}(?:[:.]\d{2})? ?(?:a\.m\.|p\.m\.|am|pm|o'clock)|\d{1,2}:\d{2}"
)
_TOKEN = re.compile(
    rf"(?P<date>\b(?:{DATE_PATTERN})(?!\w))"
    r"|(?P<quoted>\"[^\"\n]{1,70}\"|“[^”\n]{1,70}”)"
    r"|(?P<other>(?:https?://|www\.)\S+|[\w.+-]+@[\w-]+\.[\w.]+"
    r"|(?:[A-Za-z]\.){2,}"
    r"|(?:Mr|Mrs|Ms|Dr|St|Prof|Gen|Col|Lt|Sgt|Rev|Jr|Sr|No|vs|Inc|Ltd|Co|Corp|Mt)\.(?=\s)"
    r"|\b[A-Z]\.(?= [A-Z])"
    r"|[$€£¥]\s?\d[\d.,]*\d|[$€£¥]\s?\d"
    r"|\d+(?:[.,:/]\d+)*(?:[-–][A-Za-z]+)+|\d+(?:[.,:/]\d+)*\s?%|\d+(?:[.,:/]\d+)*[A-Za-z°]*"
    rf"|[a-z\d]+ [-–] (?!(?:{_FUNCTION})\b)[a-z]+"
    r"|[^\W_]+(?:[-‑&./_'’][^\W_]+)*"
    r"|--+|\.\.\.|\S)"
)
_CLITIC = re.compile(r"(?P<stem>.+?)(?P<tail>['’](?:s|re|ve|ll|d|m)|n['’]t)$", re.IGNORECASE)
_CANNOT = re.compile(r"(?P<stem>can)(?P<tail>not)$", re.IGNORECASE)


def split_sentences(text: str, offset: int) -> list[tuple[str, int]]:
    """Sentences of one paragraph, each with its offset (``offset`` is the paragraph's)."""
    found: list[tuple[str, int]] = []
    cursor = 0
    for piece in _segmenter().segment(text):
        stripped = piece.strip()
        at = text.find(stripped, cursor)
        if not stripped or at < 0:
            continue
        found.append((stripped, offset + at))
        cursor = at + len(stripped)
    return found


def tag_sentence(text: str, start: int, names: frozenset[str] = frozenset()) -> Sentence:
    """Tokenise and tag one sentence that stands at ``start`` in its document.

    ``names`` are words that keep their capital at the start of a sentence.
    """
    tokens = tag_tokens(text)
    end_mark = ""
    while tokens and tokens[-1].text in {".", "!", "?", ";", ":", "..."}:
        end_mark = tokens.pop().text
    tokens, asides = _take_asides(tokens, text)
    repair_names(tokens)
    repair(tokens)
    ensure_verb(tokens)
    tokens = compound(tokens)
    decapitalise(tokens, names)
    return Sentence(" ".join(text.split()), start, start + len(text), tokens, asides, end_mark)


def tag_tokens(text: str) -> list[Token]:
    """All tokens of one sentence with the tagger's tags: no repair, nothing taken out."""
    tokens = _tokenise(text)
    _tag(tokens)
    return tokens


@cache
def _segmenter() -> Any:
    import pysbd

    return pysbd.Segmenter(language="en", clean=False)


@cache
def _tagger() -> Any:
    from HanTa.HanoverTagger import HanoverTagger

    return HanoverTagger("morphmodel_en.pgz")


def _tokenise(text: str) -> list[Token]:
    tokens: list[Token] = []
    for match in _TOKEN.finditer(text):
        glued = match.start() > 0 and not text[match.start() - 1].isspace()
        word = match.group().replace("’", "'").replace(" - ", "-").replace(" – ", "-")
        kind = match.lastgroup or "other"
        tag = {"date": "DATE", "quoted": "NP0"}.get(kind, "")
        clitic = None if tag else _CLITIC.match(word) or _CANNOT.match(word)
        if clitic:
            cut = match.start() + len(clitic["stem"])
            tokens.append(Token(clitic["stem"], "", "", match.start(), cut, glued))
            glue = clitic["tail"] != "not"
            tokens.append(Token(clitic["tail"], "", "", cut, match.end(), glue))
        else:
            tokens.append(Token(word, tag, word, match.start(), match.end(), glued))
    return tokens


def _tag(tokens: list[Token]) -> None:
    """Fill tags and lemmas; dates and quoted titles, tagged already, are shown as a name."""
    shown = [{"DATE": "Monday", "NP0": "Title"}.get(token.tag, token.text) for token in tokens]
    for token, (_, lemma, tag) in zip(tokens, _tagger().tag_sent(shown), strict=True):
        if not token.tag:
            token.tag, token.lemma = tag, lemma


def _take_asides(tokens: list[Token], text: str) -> tuple[list[Token], list[tuple[int, str]]]:
    kept: list[Token] = []
    asides: list[tuple[int, str]] = []
    depth, opened = 0, 0
    for token in tokens:
        if token.text in {"(", "["}:
            depth += 1
            opened = token.end if depth == 1 else opened
        elif token.text in {")", "]"}:
            depth -= 1
            if depth == 0:
                asides.append((len(kept) - 1, text[opened : token.start].strip()))
        elif depth <= 0:
            kept.append(token)
    return kept, asides
