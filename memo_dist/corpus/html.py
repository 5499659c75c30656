"""HTML to readable plain text; other markup is turned into HTML first, so that one set of rules
holds: headings, list items and table rows stand on lines of their own, blocks are separated by
blank lines, links keep their text, code keeps its lines between fences, navigation is left out.

Every step is linear in the size of the page.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from typing import NamedTuple

from selectolax.lexbor import LexborHTMLParser, LexborNode

from memo_dist.corpus import tables
from memo_dist.corpus.parsed import MARK, Parsed, fence_around
from memo_dist.corpus.text import decode, readable_date
from memo_dist.corpus.types import UnreadableError

HIDDEN = {
    *("head", "script", "style", "nav", "noscript", "template", "svg", "iframe", "object"),
    *("button", "dialog", "select", "textarea", "img", "math"),
}
"""Elements that hold no text of the document."""
_LINES = {"li", "dt", "dd", "figcaption", "option"}
_BLOCKS = {
    *("address", "article", "aside", "blockquote", "body", "caption", "details", "div", "dl"),
    *("fieldset", "figure", "footer", "form", "h1", "h2", "h3", "h4", "h5", "h6", "header"),
    *("hr", "main", "ol", "p", "pre", "section", "summary", "table", "td", "th", "tr", "ul"),
}
_HEADINGS = {f"h{level}": level for level in range(1, 7)}
_DATE_NAMES = {"date", "dc.date", "dcterms.date", "article:published_time"}
_NAVIGATION_CLASSES = {
    *(
        "navheader",
        "navfooter",
        "breadcrumb",
        "breadcrumbs",
        "headerlink",
        "toc",
        "toctree-wrapper",
    ),
    *(
        "admonition-title",
        "sphinxsidebar",
        "related",
        "sidebar",
        "table-of-contents",
        "skip-link",
        "pagination",
    ),
    *("edit-this-page", "editpage", "site-footer", "page-footer", "navbar", "cookie-banner"),
}
_NAVIGATION_ROLES = {"navigation", "search", "banner", "contentinfo", "menu", "menubar"}
_HEADING_ID = re.compile(r"\s*(?:\{:?\s*[#.][^{}]*\}|¶)\s*$")
_DECLARED = re.compile(rb"charset\s*=\s*[\"']?\s*([A-Za-z0-9_.:-]+)", re.IGNORECASE)
_LANGUAGE = re.compile(r"(?:language|lang|highlight-source|highlight)-([\w+#-]{1,30})")
_DECLARED_WITHIN = 2048
# Names of encodings as browsers take them (https://encoding.spec.whatwg.org/#names-and-labels).
_LATIN = {"iso8859-1", "ascii", "cp1252"}
_WINDOWS = {
    byte: bytes([byte]).decode("cp1252")
    for byte in range(0x80, 0xA0)
    if byte not in (0x81, 0x8D, 0x8F, 0x90, 0x9D)
}
_BROWSERS = {
    **{"iso8859-9": "cp1254", "iso8859-11": "cp874", "tis-620": "cp874"},
    **{"gb2312": "gb18030", "gbk": "gb18030", "shift_jis": "cp932", "euc_kr": "cp949"},
}
_RAISED = {"sup": "^", "sub": "_"}
_RAISED_BEGIN = re.compile(r"\s*[-+\u2212\u2013]?\d")


def read_html(data: bytes) -> Parsed:
    """Read a page: its title or first heading, its date, its readable text.

    Raises:
        UnreadableError: ``not_utf8`` or ``binary``.
    """
    return parse_page(_decode_html(data))


def parse_page(page: str) -> Parsed:
    """The same for a page as text."""
    tree = LexborHTMLParser(page)
    if tree.root is None:
        return Parsed("")
    title = _text_of(tree.css_first("title")) or _text_of(tree.css_first("h1"))
    return Parsed(to_text(tree.root), title, _meta_date(tree))


def first_heading(text: str) -> str:
    """The first heading of the highest level in marked text; empty without one."""
    match = re.search(f"^{MARK}(?!{MARK})(.+)$", text, re.MULTILINE)
    return match[1] if match else ""


def to_text(root: LexborNode) -> str:
    """The readable text below ``root``; headings are marked (see ``parsed``)."""
    out = _Lines()
    for kind, node, place in _events(root):
        if kind == "text":
            text = (node.text_content or "").replace(MARK, "")
            out.text(text, keep_lines=place.code)
        elif kind == "table":
            out.gap()
            out.lines.extend(tables.rows(node, one_line))
            out.gap()
        else:
            _mark(out, kind, node, place)
    out.end_line()
    return "\n".join(out.lines).strip("\n")


def one_line(node: LexborNode) -> str:
    """The readable text below ``node`` on one line."""
    return " ".join(to_text(node).replace(MARK, "").split())


class _Place(NamedTuple):
    """Where a node stands.

    Attributes:
        code: inside ``pre``.
        item: inside a list item.
        listed: inside a list.
        number: ``3. `` for the third item of an ordered list: other text may refer to it.
        first: the first element of its parent, which is a list item.
    """

    code: bool = False
    item: bool = False
    listed: bool = False
    number: str = ""
    first: bool = False


class _Lines:
    """Collects lines; one empty line stands between blocks."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._current: list[str] = []
        self._last = ""
        self.prefix = ""
        self.raised = ""
        """``^`` or ``_`` where a number above or below the line begins."""
        self.fence = 0
        """Index of the line that opened the code block."""

    def text(self, text: str, *, keep_lines: bool) -> None:
        if not keep_lines:
            text = re.sub(r"\s+", " ", text)
            self._add(text.lstrip() if self._last in ("", " ") else text)
            return
        first, *rest = text.split("\n")
        self._add(first)
        for line in rest:
            self.lines.append("".join(self._current).rstrip())
            self._current, self._last = [], ""
            self._add(line)

    def _add(self, text: str) -> None:
        """Text on the line; between two numbers of another height a mark, lest they be one."""
        if text:
            if self.raised and _RAISED_BEGIN.match(text) and self._is_number(self.raised):
                text = self.raised + text.lstrip()
            self.raised = ""
            self._current.append(text)
            self._last = text[-1]

    def _is_number(self, raised: str) -> bool:
        return self._last.isdigit() or (self._last == ")" and raised != "_")

    def end_line(self) -> None:
        line = "".join(self._current).rstrip()
        if self.prefix:
            line = _HEADING_ID.sub("", line)
        if line.strip():
            self.lines.append(self.prefix + line)
        self._current, self._last, self.prefix = [], "", ""

    def gap(self) -> None:
        self.end_line()
        if self.lines and self.lines[-1]:
            self.lines.append("")


def _mark(out: _Lines, kind: str, node: LexborNode, place: _Place) -> None:
    """Line and block borders where a tag opens or closes."""
    name = node.tag or ""
    if name in _RAISED:
        out.raised = _raised(node) if kind == "open" else ""
    elif name in _LINES:
        out.end_line()
        if kind == "open":
            out.text(place.number, keep_lines=True)
    elif name == "pre" and not place.code:
        _fence(out, kind, node)
    elif name in _BLOCKS and kind == "open" and place.first:
        return
    elif name == "br" or (name in {"ul", "ol", "p"} and place.item):
        out.end_line()
    elif name in _BLOCKS:
        out.gap()
        if kind == "open" and name in _HEADINGS:
            out.prefix = MARK * _HEADINGS[name]


def _raised(node: LexborNode) -> str:
    """The mark of a number off the line; a space before a fraction."""
    follows = node.next.text_content if node.next is not None and node.next.is_text_node else ""
    if node.tag == "sup" and (follows or "").lstrip()[:1] in {"/", "\u2044"}:
        return " "
    return _RAISED[node.tag or ""]


def _fence(out: _Lines, kind: str, node: LexborNode) -> None:
    """Code between fences."""
    if kind == "open":
        out.gap()
        out.fence = len(out.lines)
        out.lines.append(_language(node))
        return
    out.end_line()
    start = out.fence
    body = out.lines[start + 1 :]
    while body and not body[0].strip():
        body.pop(0)
    while body and not body[-1].strip():
        body.pop()
    fence = fence_around(body)
    out.lines[start:] = [fence + out.lines[start], *body, fence] if body else []
    out.gap()


def _language(node: LexborNode) -> str:
    code = node.css_first("code")
    names = " ".join(str(n.attributes.get("class") or "") for n in (node, code) if n is not None)
    match = _LANGUAGE.search(names)
    return match[1] if match else ""


def _events(root: LexborNode) -> Iterator[tuple[str, LexborNode, _Place]]:
    """Walk the tree without recursion (pages nest thousands deep): open, text, close, table."""
    stack: list[tuple[str, LexborNode, _Place]] = [("visit", root, _Place())]
    while stack:
        kind, node, place = stack.pop()
        if kind == "close":
            yield kind, node, place
        elif node.is_text_node:
            yield "text", node, place
        elif node.is_element_node and not _is_left_out(node, place):
            if tables.is_data_table(node):
                if not tables.is_navigation(node, one_line):
                    yield "table", node, place
                continue
            yield "open", node, place
            stack.append(("close", node, place))
            stack.extend(reversed(list(_children(node, place))))


def _children(node: LexborNode, place: _Place) -> Iterator[tuple[str, LexborNode, _Place]]:
    name = node.tag or ""
    inner = _Place(
        code=place.code or name == "pre",
        item=place.item or name == "li",
        listed=place.listed or name in {"ul", "ol"},
    )
    number, opens = _first_number(node), name == "li"
    child = node.first_child
    while child is not None:
        if child.is_element_node:
            item = name == "ol" and child.tag == "li"
            yield "visit", child, inner._replace(number=f"{number}. " if item else "", first=opens)
            number += item
            opens = False
        else:
            yield "visit", child, inner
        child = child.next


def _first_number(node: LexborNode) -> int:
    text = str(node.attributes.get("start") or "1") if node.tag == "ol" else "1"
    return int(text) if re.fullmatch(r"-?\d{1,9}", text) else 1


def _is_left_out(node: LexborNode, place: _Place) -> bool:
    """Navigation, tables of contents and what a browser does not show."""
    if node.tag in HIDDEN:
        return True
    attributes = node.attributes
    if not attributes:
        return node.tag in {"ul", "ol"} and not place.listed and _is_contents(node)
    classes = set(str(attributes.get("class") or "").lower().split())
    return (
        "hidden" in attributes
        or str(attributes.get("role") or "").lower() in _NAVIGATION_ROLES
        or "breadcrumb" in str(attributes.get("aria-label") or "").lower()
        or bool(classes & _NAVIGATION_CLASSES and node.tag not in {"body", "html", "main"})
        or (node.tag in {"ul", "ol"} and not place.listed and _is_contents(node))
    )


def _is_contents(node: LexborNode) -> bool:
    """Whether all text of a list are links to places of the same page."""
    links = 0
    stack = [node.first_child]
    while stack:
        child = stack.pop()
        if child is None:
            continue
        stack.append(child.next)
        if child.is_text_node:
            if (child.text_content or "").strip():
                return False
        elif child.tag == "a":
            if not str(child.attributes.get("href") or "").startswith("#"):
                return False
            links += 1
        else:
            stack.append(child.first_child)
    return links > 1


def _text_of(node: LexborNode | None) -> str:
    if node is None:
        return ""
    if node.tag == "title":
        return " ".join((node.text() or "").split())
    return _HEADING_ID.sub("", one_line(node))


def _meta_date(tree: LexborHTMLParser) -> str | None:
    for meta in tree.css("meta"):
        name = str(meta.attributes.get("name") or meta.attributes.get("property") or "").lower()
        if name in _DATE_NAMES:
            return readable_date(meta.attributes.get("content"))
    return None


def _decode_html(data: bytes) -> str:
    try:
        return decode(data)
    except UnreadableError as error:
        match = _DECLARED.search(data[:_DECLARED_WITHIN])
        declared = match[1].decode("ascii").lower() if match else ""
        if error.reason != "not_utf8" or declared in {"", "utf-8", "utf8"}:
            raise
        try:
            return _decode_as(data, codecs.lookup(declared).name)
        except (UnicodeDecodeError, LookupError):
            raise error from None


def _decode_as(data: bytes, codec: str) -> str:
    """As browsers do: pages that declare Latin-1 hold the characters of Windows-1252."""
    if codec in _LATIN:
        return data.decode("latin-1").translate(_WINDOWS)
    return data.decode(_BROWSERS.get(codec, codec))
