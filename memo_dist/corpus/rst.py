"""reStructuredText to readable plain text, by docutils; Sphinx' roles and directives included.

Nothing is read beside the file, and nothing in it is executed.
"""

from __future__ import annotations

import itertools
import re
from typing import Any

from docutils import nodes
from docutils.core import publish_doctree, publish_from_doctree
from docutils.parsers.rst import Directive, directives
from docutils.parsers.rst.languages import en
from docutils.utils import SystemMessage

from memo_dist.corpus.html import first_heading, parse_page
from memo_dist.corpus.parsed import Parsed
from memo_dist.corpus.text import decode, readable_date
from memo_dist.corpus.types import UnreadableError

_SETTINGS: dict[str, Any] = {
    "file_insertion_enabled": False,
    "raw_enabled": False,
    "_disable_config": True,
    "report_level": 5,
    "halt_level": 6,
    "line_length_limit": 10**6,
    "syntax_highlight": "none",
    "doctitle_xform": True,
    "docinfo_xform": False,
    "smart_quotes": False,
    "output_encoding": "unicode",
}
_ROLE = re.compile(r"(?<![\w:`]):(?!su[pb]:|su(?:per|b)script:)[\w:+.-]+:`(?P<text>[^`\n]+)`")
_TARGET = re.compile(r"(?P<shown>.+?)\s*<[^<>]*>")
_DIRECTIVE = re.compile(r"^[ \t]*\.\. ([\w:+.-]+)::", re.MULTILINE)
_CODE = {"code-block", "sourcecode", "highlight", "literalinclude", "prompt", "doctest", "testcode"}
_LEFT_OUT = {
    *("toctree", "contents", "sectnum", "index", "meta", "raw", "include", "image"),
    *("automodule", "autoclass", "autofunction", "currentmodule", "module", "default-role", "role"),
    *("highlightlang", "tabularcolumns", "literalinclude", "highlight", "graphviz"),
}
_KEPT = {"figure", "only", "ifconfig"}
_OPTION = re.compile(r":[\w-]+:(?:\s|$)")
_FILE_FIELDS = {"orphan", "tocdepth", "nocomments", "nosearch", "no-search"}
"""Fields at the beginning of a file that Sphinx reads; the date is the document's."""
_LABEL_WORDS = 2
"""Words of an argument that only labels the directive, as a version does."""
_DATE_FIELDS = re.compile(r"^:[Dd]ate:\s*(.+)$", re.MULTILINE)


_UNSHOWN = (nodes.comment, nodes.system_message, nodes.substitution_definition)


class _Content(Directive):  # type: ignore[misc] # docutils has no types
    """A directive that docutils does not know: its content is text like any other."""

    optional_arguments = 1
    final_argument_whitespace = True
    has_content = True

    def run(self) -> list[nodes.Node]:
        """Parse what stands below the directive."""
        box = nodes.container()
        rest = self._text_of(*self.arguments[0].split("\n")) if self.arguments else []
        if rest:  # docutils takes text right below the directive for its argument
            box += nodes.paragraph("", " ".join(" ".join(rest).replace("``", "").split()))
        self._parse_into(box)
        return [box]

    def _parse_into(self, box: nodes.container) -> None:
        """Titles inside are below the section around; docutils takes them at no other level."""
        memo = self.state.memo
        styles, memo.title_styles = memo.title_styles, []
        try:
            self.state.nested_parse(self.content, self.content_offset, box, match_titles=True)
        finally:
            memo.title_styles = styles

    def _text_of(self, first: str, *rest: str) -> list[str]:
        """The lines of the argument that are text."""
        return [first, *rest] if len(first.split()) > _LABEL_WORDS else [*rest]


class _Kept(_Content):
    """A directive whose argument is a file or a condition; its caption or content is text."""

    def _text_of(self, first: str, *rest: str) -> list[str]:
        """What stands right below the directive, up to its options."""
        return list(itertools.takewhile(lambda line: not _OPTION.match(line.strip()), rest))


class _Code(_Content):
    """Code, with or without a language."""

    def run(self) -> list[nodes.Node]:
        """The content as it is; options before it are left out."""
        lines = list(self.content)
        while lines and re.match(r":[\w-]+:", lines[0].strip()):
            lines.pop(0)
        text = "\n".join(lines).strip("\n")
        language = self.arguments[0] if self.arguments else ""
        return [nodes.literal_block(text, text, classes=["code", f"highlight-{language}"])]


class _Nothing(_Content):
    """A directive that holds no text of the document."""

    def run(self) -> list[nodes.Node]:
        """Nothing."""
        return []


def read_rst(data: bytes) -> Parsed:
    """Read a reStructuredText file; its title is its first section's where that is the only one.

    Raises:
        UnreadableError: ``not_utf8``, ``binary`` or ``broken_rst``.
    """
    source = decode(data).replace("\r\n", "\n")
    _register(source)
    try:
        tree = publish_doctree(_ROLE.sub(_shown, source), settings_overrides=_SETTINGS)
        for kind in _UNSHOWN:
            for node in list(tree.findall(kind)):
                node.parent.remove(node)
        _fields_to_lines(tree)
        page = publish_from_doctree(tree, writer="html5", settings_overrides=_SETTINGS)
    except (SystemMessage, ValueError, AttributeError, TypeError, KeyError, IndexError) as error:
        raise UnreadableError("broken_rst", f"{type(error).__name__}: {error}"[:200]) from error
    text = parse_page(_body(str(page))).text
    date = _DATE_FIELDS.search(source)
    return Parsed(text, first_heading(text), readable_date(date[1]) if date else None)


def _fields_to_lines(tree: nodes.document) -> None:
    """``:Capacity: 400 litres`` becomes a line ``Capacity: 400 litres``."""
    for index, fields in enumerate(list(tree.findall(nodes.field_list))):
        lines = nodes.bullet_list()
        for name, body in (field.children for field in fields.findall(nodes.field)):
            if index == 0 and _is_of_the_file(name.astext().lower(), body.astext()):
                continue
            first = body.children[0] if body.children else None
            if isinstance(first, nodes.paragraph):
                first.insert(0, nodes.Text(f"{name.astext()}: "))
            else:
                body.insert(0, nodes.paragraph("", name.astext()))
            lines += nodes.list_item("", *body.children)
        fields.parent.replace(fields, lines)


def _is_of_the_file(name: str, value: str) -> bool:
    return name in _FILE_FIELDS or (name == "date" and readable_date(value) is not None)


def _body(page: str) -> str:
    start = page.find("<body")
    return page[start:] if start >= 0 else page


def _shown(match: re.Match[str]) -> str:
    """What a reader sees of a role: ``text`` of ``text <target>``, ``open`` of ``~os.open``."""
    text = match["text"].lstrip("!")
    target = _TARGET.fullmatch(text)
    if target:
        return target["shown"]
    return text.rsplit(".", 1)[-1] if text.startswith("~") else text


def _register(source: str) -> None:
    """Tell docutils what to do with directives that it does not know, or must not follow."""
    for name in set(_DIRECTIVE.findall(source)):
        if name in _LEFT_OUT:
            directives.register_directive(name, _Nothing)
        elif name in _KEPT:
            directives.register_directive(name, _Kept)
        elif name in _CODE:
            directives.register_directive(name, _Code)
        elif name.lower() not in en.directives and name not in directives._directives:
            directives.register_directive(name, _Content)
