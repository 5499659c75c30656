"""The structure of a document's plain text: headings, key-value lines, lists, terms, prose."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from memo_dist.answers.text import word_set
from memo_dist.synthesis.rules.noise import is_noise, without_marks

BlockKind = Literal["pairs", "term", "prose"]

_BULLET = re.compile(r"^\s*(?:[-*•–+]\s+|\(?(?:\d{1,2}|[a-z])[.)]\s+|#+\s+)")
_PAIR = re.compile(r"^(?P<key>[^\W_][^:;|.?!]{0,48}?)\s*:\s+(?P<value>\S.*)$")
_CELL = re.compile(r"^(?P<key>[^\W_][^:;|?!]{0,48}?)\s*:\s+(?P<value>\S.*)$")
_TERM = re.compile(r"^(?P<term>\S.{0,58}?)\s+(?:—|–|--|-)\s+(?P<gloss>\S.*)$")
_PIPE = re.compile(r"^\|.*\|$")
_CODE_KEY = re.compile(r"[_{}<>$=/\\@#\"`*\[\]]|[a-z][A-Z]|^[a-z]+(?:[.-][a-z]+)+$")
_LINK = re.compile(r"https?://|www\.|^[#@]\S+$|#\d{2,}")
_NO_KEYS = word_set(
    "note notes tip warning caution important example examples info danger todo hint remark see "
    "e.g. i.e. q a question answer also however otherwise instead finally first second then so "
    "because if when where why how who what yes no update edit ps attention nb fixed added changed "
    "removed deprecated"
)
_PLACEHOLDERS = word_set("- – — n/a none tbd todo yes no true false x ✓ ✔ ✗")
_MAX_HEADING_WORDS = 12
_MAX_LIST_WORDS = 8
_MAX_TERM_WORDS = 5
_MOST_WRAPPED = 20_000
"""Characters of lines that are joined: each line is joined by a copy of those before it."""


@dataclass(frozen=True, slots=True)
class Block:
    """One readable piece of a document.

    Attributes:
        kind: ``pairs`` for key-value and table lines, ``term`` for an item of a list of terms
            with their explanations, else ``prose``.
        text: prose (line breaks made spaces, so that offsets stay valid), or the line.
        start: character offset into the document's text.
        heading: the nearest heading above, empty without one.
        pairs: (key, value) of a ``pairs`` block; (term, explanation) of a ``term`` block.
        intro: the line that announces a list of terms, empty without one.
    """

    kind: BlockKind
    text: str
    start: int
    heading: str = ""
    pairs: tuple[tuple[str, str], ...] = ()
    intro: str = ""


@dataclass(slots=True)
class _Line:
    text: str
    start: int
    alone: bool
    bullet: bool
    paragraph: int


def read_blocks(text: str) -> list[Block]:
    """Split a document's text into blocks, in order; code and navigation are left out."""
    blocks: list[Block] = []
    heading = ""
    lines = _lines(without_marks(text))
    at = 0
    while at < len(lines):
        line = lines[at]
        if _is_heading(line, at + 1 < len(lines)):
            heading = line.text.strip("# ")
            at += 1
            continue
        terms = _terms(lines, at, heading)
        pairs = _pairs(line.text)
        if terms:
            blocks.extend(terms)
            at += len(terms)
        elif pairs:
            blocks.append(Block("pairs", line.text, line.start, heading, pairs))
            at += 1
        elif line.text.endswith(":") and at + 1 < len(lines):
            block, at = _list(lines, at, heading)
            blocks.extend(block)
        else:
            blocks.append(Block("prose", _labelled(line.text), line.start, heading))
            at += 1
    return blocks


def _paragraphs(text: str) -> Iterator[list[re.Match[str]]]:
    """The lines of each paragraph that is neither code nor navigation."""
    found: list[re.Match[str]] = []
    end = 0
    for match in re.finditer(r"[^\n]+", text):
        if match.group().isspace():
            continue
        if found and text.count("\n", end, match.start()) > 1:
            yield found
            found = []
        found.append(match)
        end = match.end()
    if found:
        yield found


def _lines(text: str) -> list[_Line]:
    """Lines with hard wraps undone (same length: a break becomes a space)."""
    merged: list[_Line] = []
    for number, matches in enumerate(_paragraphs(text)):
        if is_noise([match.group() for match in matches]):
            continue
        for match in matches:
            raw = match.group()
            if re.fullmatch(r"[-=_*|: ]+", raw.strip()):
                continue
            bullet = _BULLET.match(raw)
            start = match.start() + (bullet.end() if bullet else len(raw) - len(raw.lstrip()))
            body = text[start : match.end()].rstrip()
            first = match is matches[0]
            previous = merged[-1] if merged else None
            if previous and not first and not bullet and _wrapped(previous.text, body):
                previous.text = text[previous.start : match.end()].replace("\n", " ").rstrip()
            else:
                merged.append(_Line(body, start, len(matches) == 1, bool(bullet), number))
    return merged


def _wrapped(previous: str, body: str) -> bool:
    """Whether a line goes on with the sentence of the line before it."""
    open_end = not previous.endswith((".", "!", "?", ":", ";", "|"))
    if not open_end or not 50 < len(previous) < _MOST_WRAPPED or _pairs(body) or _pairs(previous):
        return False
    return not (_TERM.match(previous) and _TERM.match(body))


def _is_heading(line: _Line, more: bool) -> bool:
    words = line.text.split()
    if not more or len(words) > _MAX_HEADING_WORDS or (line.bullet and not line.alone):
        return False
    closed = line.text.endswith((".", "!", "?", ":", ";", ","))
    return line.alone and not closed and not _pairs(line.text)


def _pairs(line: str) -> tuple[tuple[str, str], ...]:
    """Key-value pairs of a line: "Warranty: 24 months" or "Part: A7; Price: 30 EUR"."""
    if _PIPE.match(line):
        return ()
    row = line.count(": ") > 1 and "; " in line
    if not row:
        match = _PAIR.match(line.strip())
        return (_pair(match),) if match and _states(match["key"], match["value"]) else ()
    found: list[tuple[str, str]] = []
    for part in line.split("; "):
        match = _CELL.match(part.strip())
        if found and found[0][0][0].isupper() and (not match or match["key"][0].islower()):
            found[-1] = (found[-1][0], f"{found[-1][1]}; {part.strip()}")  # the cell has a ";"
            continue
        if not match or not _short(match["key"], match["value"]):
            return ()
        found.append(_pair(match))
    keys = {key.lower() for key, _ in found}
    return tuple(found) if len(keys) == len(found) else ()


def _pair(match: re.Match[str]) -> tuple[str, str]:
    return match["key"].strip(), match["value"].strip().rstrip(".;,")


def _states(key: str, value: str) -> bool:
    """Whether a line is a value under its key: not a setting in code, a remark or a link."""
    words = key.lower().split()
    if _CODE_KEY.search(key) or words[0] in _NO_KEYS or _LINK.search(value):
        return False
    return _short(key, value)


def _short(key: str, value: str) -> bool:
    """Whether key and value are phrases, not a label before a whole sentence."""
    sentence = len(value.split()) > 9 and value.endswith(".")
    return len(key.split()) <= 6 and len(value.split()) <= 18 and not sentence


def is_value(text: str) -> bool:
    """Whether a cell says something that can be asked for (no dash, tick or link)."""
    return text.lower() not in _PLACEHOLDERS and not _LINK.search(text)


def _labelled(text: str) -> str:
    """Blank out a label before a sentence ("Note: ..."), keeping the length."""
    match = _PAIR.match(text)
    if match and len(match["key"].split()) <= 4 and match["value"][0].isupper():
        return " " * match.start("value") + match["value"]
    return text


def _terms(lines: list[_Line], at: int, heading: str) -> list[Block]:
    """Items "term - explanation" that stand together, two at least; each stays apart."""
    found: list[Block] = []
    intro = lines[at - 1].text if at and lines[at - 1].text.endswith(":") else ""
    for place in range(at, len(lines)):  # no copy of the rest: documents have many lines
        line = lines[place]
        match = _TERM.match(line.text)
        if line.paragraph != lines[at].paragraph or match is None or not _is_term(match["term"]):
            break
        pair = (match["term"].strip("`*\"'"), match["gloss"].rstrip(".;,"))
        found.append(Block("term", line.text, line.start, heading, (pair,), intro))
    return found if len(found) > 1 else []


def _is_term(text: str) -> bool:
    return len(text.split()) <= _MAX_TERM_WORDS and not re.search(r"[.!?:;,](?:\s|$)", text)


def _list(lines: list[_Line], at: int, heading: str) -> tuple[list[Block], int]:
    """As in "The kit contains:" with short items becomes one sentence; long items stand alone.

    The items of terms that follow an announcement are read by :func:`_terms`.
    """
    intro, end = lines[at], at + 1
    while end < len(lines) and lines[end].bullet:
        end += 1
    items = [line.text.rstrip(".;,") for line in lines[at + 1 : end]]
    short = items and all(len(item.split()) <= _MAX_LIST_WORDS for item in items)
    if not short or len(items) > 7 or _terms(lines, at + 1, heading):
        return [Block("prose", intro.text.rstrip(":"), intro.start, heading)], at + 1
    head, last = items[:-1], items[-1]
    joined = f"{', '.join(head)} and {last}" if head else last
    return [Block("prose", f"{intro.text[:-1]} {joined}.", intro.start, heading)], end
