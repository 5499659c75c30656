"""What a reader makes of one file, before ids and offsets; headings are marked in the text.

A heading's line starts with one :data:`MARK` per level, so that its level survives the cleaning
of lines. :func:`take_headings` removes the marks at the end and tells the offsets.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

MARK = "\ufdd0"
"""One before a heading's text for each level: a noncharacter, removed from what is read."""
FENCE = "```"
"""Opens and closes code, logs and sample output: text that states no facts in prose. It is longer
where the code has such a line itself."""

_HEADING = re.compile(f"^{MARK}+", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Parsed:
    """What a reader found in one file; ``title`` is empty where the file names none."""

    text: str
    title: str = ""
    date: str | None = None


Heading = tuple[int, int]
"""Character offset of a heading's line in the document's text, and its level (1: the highest)."""


def take_headings(text: str) -> tuple[str, tuple[Heading, ...]]:
    """The text without marks, and where its headings are."""
    headings: list[Heading] = []
    removed = 0
    for match in _HEADING.finditer(text):
        headings.append((match.start() - removed, len(match.group())))
        removed += len(match.group())
    return text.replace(MARK, ""), tuple(headings)


def without_empty_headings(lines: list[str]) -> list[str]:
    """The lines without headings that have no text (left): they have no place in the text."""
    return [line for line in lines if not line.startswith(MARK) or line.lstrip(MARK).strip()]


def fence_around(lines: list[str]) -> str:
    """The fence for some lines of code: longer than those among them."""
    marks = (fence_mark(line) for line in lines)
    longest = max((len(mark) for mark in marks if mark.startswith(FENCE)), default=0)
    return FENCE[0] * max(len(FENCE), longest + 1)


def fence_mark(line: str) -> str:
    """The backticks or tildes that open or close code on this line; empty where it does not."""
    stripped = line.lstrip()
    for character in "`~":
        size = len(stripped) - len(stripped.lstrip(character))
        if size >= len(FENCE) and character not in stripped[size:]:
            return character * size
    return ""


def code_lines(lines: list[str]) -> list[bool]:
    """For each line whether it belongs to a fenced block, its fences included."""
    inside: list[bool] = []
    open_mark = ""
    for line in lines:
        mark = fence_mark(line)
        closes = bool(open_mark) and mark.startswith(open_mark) and line.strip() == mark
        inside.append(bool(open_mark) or bool(mark))
        if not open_mark:
            open_mark = mark
        elif closes:
            open_mark = ""
    return inside
