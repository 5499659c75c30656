"""Markdown to HTML in which a tag that is only mentioned hides nothing.

Prose such as ``Pass <object> to the call`` is an open tag to a parser of HTML, and all that follows
would be inside of it.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.rules_block import StateBlock, html_block
from markdown_it.token import Token

from memo_dist.corpus.html import HIDDEN

_RAW = {"title", "xmp", "noembed", "noframes", "plaintext", "script", "style", "textarea", "iframe"}
"""Elements whose content is not read as HTML: the first closing tag ends them."""
_SWALLOWS = (HIDDEN - {"img"}) | _RAW | {"pre"}
"""Elements whose content is not shown, is not read as HTML, or is code."""
_TAG = re.compile(r"<(/?)([a-zA-Z][a-zA-Z0-9-]{0,40})")
_TO_THE_END = re.compile(r" {0,3}<(script|pre|style|textarea)(?:\s|>|$)", re.IGNORECASE)
"""Begins a block that CommonMark ends at the closing tag only."""
_LONGEST_TAG = 2000


def render(source: str) -> str:
    """HTML of CommonMark with tables; tags that swallow text are text where they are not closed."""
    parser = MarkdownIt("commonmark").enable(["table", "strikethrough"])
    interrupts = ["paragraph", "reference", "blockquote"]
    parser.block.ruler.at("html_block", _html_block, {"alt": interrupts})
    env: dict[str, Any] = {}
    tokens = parser.parse(source, env)
    _show_mentioned(tokens)
    return str(parser.renderer.render(tokens, parser.options, env))


def _html_block(state: StateBlock, first: int, last: int, silent: bool) -> bool:
    """The rule of markdown-it, but no block to the end of the document."""
    start = state.bMarks[first] + state.tShift[first]
    match = _TO_THE_END.match(state.src[start : state.eMarks[first]])
    if match and _last_closing(state, match[1].lower()) < start:
        return False
    return html_block(state, first, last, silent)


def _last_closing(state: StateBlock, name: str) -> int:
    """Where the last closing tag of a name begins; -1 without one."""
    key = f"last closing {name}"
    if key not in state.env:
        state.env[key] = state.src.lower().rfind(f"</{name}")
    return int(state.env[key])


class _Closings(Counter[str]):
    """Closing tags that have no opening one yet, read from the end to the beginning."""

    def take(self, name: str) -> bool:
        """Whether one of them closes an opening tag."""
        found = self[name] > 0
        if found and name not in _RAW:
            self[name] -= 1
        return found

    def forget_raw(self) -> None:
        """At the border of a block."""
        for name in _RAW:
            del self[name]


def _show_mentioned(tokens: list[Token]) -> None:
    """A block may be closed by any later one, a tag in prose by its own paragraph only."""
    closings = _Closings()
    for token in reversed(tokens):
        if token.type == "html_block":
            token.content = _closed_only(token.content, closings)
        inside = _Closings()
        for child in reversed(token.children or []):
            if child.type == "html_inline":
                child.content = _closed_only(child.content, inside)
        closings.update(inside)
        closings.forget_raw()


def _closed_only(html: str, closings: _Closings) -> str:
    """``html`` with tags that swallow as text where none of ``closings`` (it grows) ends them."""
    parts: list[str] = []
    end = len(html)
    for tag in reversed(list(_TAG.finditer(html))):
        name = tag[2].lower()
        if tag[1]:
            closings[name] += 1
        elif name in _SWALLOWS and not closings.take(name):
            stop = html.find(">", tag.end(), min(end, tag.end() + _LONGEST_TAG))
            empty = stop >= 0 and html[stop - 1] == "/"  # JSX: <Select />
            parts.append(html[stop + 1 : end] if empty else f"&lt;{html[tag.start() + 1 : end]}")
            end = tag.start()
    parts.append(html[:end])
    return "".join(reversed(parts))
