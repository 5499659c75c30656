"""The structure of a document's plain text: headings, key-value lines, list items, prose."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

BlockKind = Literal["pairs", "prose"]

_BULLET = re.compile(r"^\s*(?:[-*•–]\s+|\(?(?:\d{1,2}|[a-z])[.)]\s+|#+\s+)")
_PAIR = re.compile(r"^(?P<key>[^\W_][^:;|.?!]{0,48}?)\s*:\s+(?P<value>\S.*)$")
_PIPE = re.compile(r"^\|.*\|$")
_MAX_HEADING_WORDS = 12
_MAX_LIST_WORDS = 8


@dataclass(frozen=True, slots=True)
class Block:
    """One readable piece of a document.

    Attributes:
        kind: ``pairs`` for key-value and table lines, else ``prose``.
        text: prose (line breaks made spaces, so that offsets stay valid), or the line.
        start: character offset into the document's text.
        heading: the nearest heading above, empty without one.
        pairs: (key, value) of a ``pairs`` block.
    """

    kind: BlockKind
    text: str
    start: int
    heading: str = ""
    pairs: tuple[tuple[str, str], ...] = ()


@dataclass(slots=True)
class _Line:
    text: str
    start: int
    alone: bool
    bullet: bool


def read_blocks(text: str) -> list[Block]:
    """Split a document's text into blocks, in order."""
    blocks: list[Block] = []
    heading = ""
    lines = _lines(text)
    at = 0
    while at < len(lines):
        line = lines[at]
        if _is_heading(line, at + 1 < len(lines)):
            heading = line.text.strip("# ")
            at += 1
            continue
        pairs = _pairs(line.text)
        if pairs:
            blocks.append(Block("pairs", line.text, line.start, heading, pairs))
            at += 1
        elif line.text.endswith(":") and at + 1 < len(lines):
            block, at = _list(lines, at, heading)
            blocks.extend(block)
        else:
            blocks.append(Block("prose", _labelled(line.text), line.start, heading))
            at += 1
    return blocks


def _lines(text: str) -> list[_Line]:
    """Lines with hard wraps undone (same length: a break becomes a space)."""
    merged: list[_Line] = []
    for match in re.finditer(r"[^\n]+", text):
        raw = match.group()
        if not raw.strip() or re.fullmatch(r"[-=_*|: ]+", raw.strip()):
            continue
        bullet = _BULLET.match(raw)
        start = match.start() + (bullet.end() if bullet else len(raw) - len(raw.lstrip()))
        body = text[start : match.end()].rstrip()
        above = text[: match.start()].endswith("\n\n") or match.start() == 0
        below = text[match.end() :].startswith("\n\n") or match.end() == len(text)
        previous = merged[-1] if merged else None
        if previous and not above and not bullet and _wrapped(previous.text, body):
            previous.text = text[previous.start : match.end()].replace("\n", " ").rstrip()
        else:
            merged.append(_Line(body, start, above and below, bool(bullet)))
    return merged


def _wrapped(previous: str, body: str) -> bool:
    """Whether a line goes on with the sentence of the line before it."""
    open_end = not previous.endswith((".", "!", "?", ":", ";", "|"))
    return open_end and len(previous) > 50 and not _pairs(body) and not _pairs(previous)


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
    found = []
    parts = line.split("; ") if line.count(": ") > 1 else [line]
    for part in parts:
        match = _PAIR.match(part.strip())
        if not match or not _short(match["key"], match["value"]):
            return ()
        found.append((match["key"].strip(), match["value"].strip().rstrip(".;,")))
    return tuple(found)


def _short(key: str, value: str) -> bool:
    """Whether key and value are phrases, not a label before a whole sentence."""
    sentence = len(value.split()) > 9 and value.endswith(".")
    return len(key.split()) <= 6 and len(value.split()) <= 18 and not sentence


def _labelled(text: str) -> str:
    """Blank out a label before a sentence ("Note: ..."), keeping the length."""
    match = _PAIR.match(text)
    if match and len(match["key"].split()) <= 4 and match["value"][0].isupper():
        return " " * match.start("value") + match["value"]
    return text


def _list(lines: list[_Line], at: int, heading: str) -> tuple[list[Block], int]:
    """As in "The kit contains:" with short items becomes one sentence; long items stand alone."""
    intro, end = lines[at], at + 1
    while end < len(lines) and lines[end].bullet:
        end += 1
    items = [line.text.rstrip(".;,") for line in lines[at + 1 : end]]
    short = items and all(len(item.split()) <= _MAX_LIST_WORDS for item in items)
    if not short or len(items) > 7:
        return [Block("prose", intro.text.rstrip(":"), intro.start, heading)], at + 1
    head, last = items[:-1], items[-1]
    joined = f"{', '.join(head)} and {last}" if head else last
    return [Block("prose", f"{intro.text[:-1]} {joined}.", intro.start, heading)], end
