"""What is no prose and states no fact: code, logs, sample output, navigation, markup remnants.

Readers of the corpus take most of it out or fence it; texts come from elsewhere too (a plain text
file, a row of a data set), so the generator recognises the rest by its form.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from memo_dist.answers.text import word_set
from memo_dist.corpus.parsed import code_lines

_MARKS = re.compile(
    r"\{:?\s{0,9}[#.][\w:.-]{1,80}[^{}\n]{0,200}\}"  # ids and classes of headings: "{ #limits }"
    r"|\{\{[<%][^\n]{0,400}?[%>]\}\}|\{%[^\n]{0,400}?%\}"  # template tags
    r"|^\s*(?:/{3,}|:{3,}|!{3})[^\n]*$|\[![A-Z]+\]",  # marks of admonitions
    re.MULTILINE,
)
_NAVIGATION = word_set(
    "prev previous next up home top back contents index search menu login « » ‹ › ← → < >"
) | {"table of contents", "back to top", "skip to content", "on this page", "edit this page"}
_PARTS = re.compile(r"\s*[;|·•»\t]\s*| {2,}")
_LEADER = re.compile(r"(?:\.{4}|(?: \.){3})\s{0,99}\d{1,9}$")
_LOG = re.compile(
    r"^\W?\d{4}-\d\d-\d\d[T ]\d\d:\d\d|^\[?(?:TRACE|DEBUG|INFO|WARN|WARNING|ERROR|FATAL)\b[\]: ]"
    r"|^[A-Z][a-z]{2} +\d{1,2} \d\d:\d\d:\d\d |\blevel=\w+|^\d\d:\d\d:\d\d[.,]\d|^\s+at [\w.$]+\("
    r"|\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3} - - \[|^(?:HTTP/\d|(?:GET|POST|PUT|DELETE|HEAD) /)"
)
_COMMAND = re.compile(r"^\s*(?:[$%>] \S|(?:sudo|curl|pip|npm|docker|kubectl|git|apt|cd) \S)")
_SOURCE = re.compile(
    r"[{;\\]$|^\s*[\])}]+[;,]?$|^\s*(?://|/\*|\*/|<[/!?a-zA-Z]|#!|#include|@\w+\()"
    r"|^\s*(?:import|from|def|class|func|function|return|const|let|var|package|export) [^.]*[^.]$"
    r"|^\s*[\w.$\[\]\"'-]+\s*(?:=|:=|\+=)\s*\S|[=-]>|&&|\|\||::|\w\(\)?[;{]|\"\s*:\s*[\[{\"\d]"
    r"|(?<!\S)--?[a-z][\w-]+(?:[= ]|$)|^\s*\[[\w.-]+\]$|\w\{[^}\n]{0,200}=\""
)
_SETTING = re.compile(r"^\s*(?:- )?[\"']?[a-z][\w./-]*[\"']?:(?:\s|$)")
_BARE_KEY = re.compile(r"^\s*(?:- )?[\w./-]+:\s*(?:[|>]-?)?$")
_SENTENCE = re.compile(r"^[A-Z“\"'(].*\s\S+[.!?]$")


def without_marks(text: str) -> str:
    """The text with fenced code and the marks of page builders blanked out, length unchanged."""
    lines = text.split("\n")
    inside = code_lines(lines)
    out = [" " * len(line) if code else line for line, code in zip(lines, inside, strict=True)]
    return _MARKS.sub(lambda found: " " * len(found.group()), "\n".join(out))


def clean_title(title: str) -> str:
    """A title without the marks of page builders."""
    return " ".join(_MARKS.sub(" ", title).split())


def is_noise(lines: Sequence[str]) -> bool:
    """Whether a paragraph (its lines, none of them blank) is code, a log or navigation."""
    return _is_navigation(lines) or _is_code(lines)


def _is_code(lines: Sequence[str]) -> bool:
    told = sum(1 for line in lines if _SENTENCE.match(line.strip()) and not _COMMAND.match(line))
    signs = sum(1 for line in lines if _code_line(line))
    if signs * 2 >= len(lines) and told * 2 < len(lines):
        return True
    settings = sum(1 for line in lines if _SETTING.match(line))
    bare = any(_BARE_KEY.match(line) for line in lines[:-1])
    nested = any(
        line[:2] == "  " and not line.lstrip().startswith(("-", "*", "•")) for line in lines
    )
    return len(lines) > 1 and (bare or nested) and settings * 2 >= len(lines) and told == 0


def _code_line(line: str) -> bool:
    if _LOG.search(line) or _COMMAND.match(line):
        return True
    return _SOURCE.search(line) is not None and not _SENTENCE.match(line.strip())


def _is_navigation(lines: Sequence[str]) -> bool:
    """As in "Prev; Up; Next" with what stands beside it; a dotted line of a table of contents."""
    if all(_LEADER.search(line.strip()) for line in lines):
        return True
    told = any(_SENTENCE.match(line.strip()) for line in lines)
    return len(lines) <= 4 and not told and any(_links(line) for line in lines)


def _links(line: str) -> bool:
    parts = [
        part.rpartition(": ")[2].strip().lower() for part in _PARTS.split(line) if part.strip()
    ]
    known = sum(part in _NAVIGATION for part in parts)
    return known >= 2 and known * 2 >= len(parts)
