"""Markdown, with what site generators add to it, to readable plain text."""

from __future__ import annotations

import re
import tomllib
from datetime import date
from typing import Any

from memo_dist.corpus.html import first_heading, parse_page
from memo_dist.corpus.markdown_tags import render
from memo_dist.corpus.parsed import Parsed, fence_mark
from memo_dist.corpus.text import decode, readable_date
from memo_dist.io.yaml_text import parse_yaml

_FRONT_MATTER = re.compile(r"---[ \t]*\n(.*?\n)?---[ \t]*(?:\n|\Z)", re.DOTALL)
_TOML_MATTER = re.compile(r"\+\+\+[ \t]*\n(.*?\n)?\+\+\+[ \t]*(?:\n|\Z)", re.DOTALL)
_DATE_KEYS = ("date", "last_updated", "lastmod", "updated", "published")

_BLOCK_MARK = re.compile(r"(?:!!!|\?\?\?\+?)\s*[\w-][\w -]*?(?:\s+\"(?P<title>[^\"]*)\")?\s*")
_TAB_MARK = re.compile(r"===[!+]?\s+\"(?P<title>[^\"]*)\"\s*")
_COLON_MARK = re.compile(
    r"(?::{3,}|/{3,})\s*(?:\{?\.?[\w-]*\}?)?(?:[ |\[]\s*(?P<title>[^\]]*?)\]?)?\s*"
)
_ALERT = re.compile(r"(?P<quote>\s*(?:>\s*)+)\[!\w+\][+-]?\s*(?P<title>.*)")
_OWN_LINE = re.compile(
    r"\s*(?:\{:.*\}|\[\[?_?TOC_?\]\]?|[-*]\s+TOC|\{\{\s*toc\s*\}\}|<!--\s*/?toc\s*-->)\s*",
    re.IGNORECASE,
)
_DIRECTIVE = re.compile(r"(?:`{3,}|~{3,})\{(?P<name>[\w-]+)\}")
_PROSE_DIRECTIVES = {
    *("note", "tip", "hint", "important", "warning", "caution", "danger", "attention", "error"),
    *("seealso", "admonition", "versionadded", "versionchanged", "deprecated", "dropdown"),
}
_TAGS = re.compile(
    r"(?P<code>(?<!`)(?P<ticks>`{1,8})(?!`).{1,400}?(?<!`)(?P=ticks)(?!`))"
    r"|\{%.{0,400}?%\}|\{\{[<%].{0,400}?[>%]\}\}|\{#.{0,400}?#\}"
    r"|\{:[^{}\n]{0,200}\}|\{\s*[#.][\w-][^{}\n]{0,200}\}"
    r"|\[\^[\w-]{1,40}\]:?|:(?:material|octicons|fontawesome|simple)-[\w-]{1,80}:"
)
_HIGHLIGHT = re.compile(
    r"\{(?:%-?|\{[<%])\s*(?:(?P<close>end|/\s*)?highlight)\b\s*(?P<language>[\w+#-]*)"
    r"[^}\n]{0,200}\}{0,2}"
)
_INDENT = 4
"""Columns by which MkDocs indents what belongs to an admonition."""
_MDX_LINE = re.compile(r"(?:import|export)\s.*(?:\sfrom\s|=|\bdefault\b).*|import\s+[\"'].*")
_MDX_COMMENT = re.compile(r"\{/\*.{0,2000}?\*/\}", re.DOTALL)


def read_markdown(data: bytes) -> Parsed:
    """Read a Markdown file (CommonMark and tables) with optional YAML or TOML front matter.

    Raises:
        UnreadableError: ``not_utf8`` or ``binary``.
    """
    return parse_markdown(decode(data).replace("\r\n", "\n"))


def read_mdx(data: bytes) -> Parsed:
    """Read Markdown with JSX: imports, exports and JSX comments are left out, tags vanish."""
    source = _MDX_COMMENT.sub("", decode(data).replace("\r\n", "\n"))
    lines = [line for line in source.split("\n") if not _MDX_LINE.fullmatch(line)]
    return parse_markdown("\n".join(lines))


def parse_markdown(source: str) -> Parsed:
    """The same for Markdown as text with ``\\n`` line ends."""
    values, body = split_front_matter(source)
    text = parse_page(render(plain_markdown(body))).text
    title = front_title(values) or first_heading(text)
    return Parsed(text, title, front_date(values))


def split_front_matter(text: str) -> tuple[dict[str, Any], str]:
    """Split a leading ``---`` (YAML) or ``+++`` (TOML) block off; ``{}`` where there is none.

    A block that is not a mapping (two rulers around prose) is left in the text.
    """
    text = text.lstrip("\ufeff")
    for pattern, load in ((_FRONT_MATTER, _yaml), (_TOML_MATTER, _toml)):
        match = pattern.match(text)
        values = load(match[1] or "") if match else None
        if match and isinstance(values, dict):
            return values, text[match.end() :]
    return {}, text


def _yaml(block: str) -> Any:
    try:
        return parse_yaml(block)
    except ValueError:
        return None


def _toml(block: str) -> Any:
    try:
        return tomllib.loads(block)
    except (tomllib.TOMLDecodeError, RecursionError):
        return None


def front_title(values: dict[str, Any]) -> str:
    """The title in front matter; empty where there is none or it is no plain value."""
    title = values.get("title")
    return str(title).strip() if isinstance(title, str | int | float | date) else ""


def front_date(values: dict[str, Any]) -> str | None:
    """The first date in front matter that can be read; None without one."""
    dates = (readable_date(values.get(key)) for key in _DATE_KEYS)
    return next((found for found in dates if found), None)


def plain_markdown(source: str) -> str:
    """CommonMark without admonition marks, template tags, attribute lists and contents marks.

    Admonitions of MkDocs (``!!! note``), Docusaurus and MyST (``:::note``), GitHub and Obsidian
    (``> [!NOTE]``) keep their titles and content. Code is left as it is.
    """
    plain = _PlainMarkdown()
    for line in source.split("\n"):
        plain.feed(line)
    return "\n".join(plain.lines)


class _PlainMarkdown:
    """The lines so far, and what is open: code, directives, indented admonitions."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._fence = ""
        self._highlight = False
        self._directives: list[str] = []
        self._indents: list[int] = []

    def feed(self, raw: str) -> None:
        line = self._dedented(raw)
        mark = fence_mark(line)
        if self._highlight:
            self._code(line)
        elif self._fence:
            if mark.startswith(self._fence) and line.strip() == mark:
                self._fence = ""
            self.lines.append(line)
        elif mark:
            self._fenced(line, mark)
        else:
            self._text(line)

    def _dedented(self, raw: str) -> str:
        """The line without the indent of the admonitions that it stands in."""
        if not raw.strip():
            return raw
        indent = len(raw) - len(raw.lstrip(" "))
        while self._indents and indent < self._indents[-1] + _INDENT:
            self._indents.pop()
        return raw[self._indents[-1] + _INDENT :] if self._indents else raw

    def _code(self, line: str) -> None:
        match = _HIGHLIGHT.search(line)
        if match and match["close"]:
            self._highlight = False
            self.lines += [before] if (before := line[: match.start()]).strip() else []
            self.lines += ["```", ""]
        else:
            self.lines.append(line)

    def _fenced(self, line: str, mark: str) -> None:
        directive = _DIRECTIVE.match(line.strip())
        if directive and directive["name"] in _PROSE_DIRECTIVES:
            self._directives.append(mark)
            self.lines.append("")
        elif self._directives and line.strip() == self._directives[-1]:
            self._directives.pop()
            self.lines.append("")
        else:
            self._fence = mark
            self.lines.append(line)

    def _text(self, line: str) -> None:
        highlight = _HIGHLIGHT.match(line.lstrip())
        if highlight and not highlight["close"]:
            self._highlight = True
            self.lines += ["", f"```{highlight['language']}"]
            if rest := line.lstrip()[highlight.end() :].strip():
                self._code(rest)
        elif _OWN_LINE.fullmatch(line):
            self.lines.append("")
        elif alert := _ALERT.fullmatch(line):
            title = alert["title"]
            self.lines.append(alert["quote"] + (f"{title}\n{alert['quote']}" if title else ""))
        elif title := self._opened(line):
            self.lines += ["", title["title"] or "", ""]
        else:
            self.lines.append(_TAGS.sub(lambda match: match["code"] or "", line))

    def _opened(self, line: str) -> re.Match[str] | None:
        """The match of a line that opens or closes an admonition or a tab."""
        stripped = line.strip()
        match = _BLOCK_MARK.fullmatch(stripped) or _TAB_MARK.fullmatch(stripped)
        if match:
            outer = self._indents[-1] + _INDENT if self._indents else 0
            self._indents.append(outer + len(line) - len(line.lstrip(" ")))
        return match or _COLON_MARK.fullmatch(stripped)
