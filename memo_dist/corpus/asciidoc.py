"""AsciiDoc to readable plain text: its line syntax is turned into Markdown.

No maintained Python library reads AsciiDoc. The subset is what manuals use: sections, lists,
listings, admonitions, tables, links and attributes (https://docs.asciidoctor.org/asciidoc/).
"""

from __future__ import annotations

import re

from memo_dist.corpus.markdown import parse_markdown
from memo_dist.corpus.parsed import Parsed
from memo_dist.corpus.tables import row_line
from memo_dist.corpus.text import decode, readable_date

_SECTION = re.compile(r"(={1,6})\s+(.+?)(?:\s+=+)?")
_ATTRIBUTE = re.compile(r":(!?[\w-]+!?):\s*(.*)")
_REFERENCE = re.compile(r"\{([\w-]{1,60})\}")
_DELIMITER = re.compile(r"(-{4,}|\.{4,}|\+{4,}|={4,}|\*{4,}|_{4,}|/{4,}|--|```)\s*")
_CODE = {"-", ".", "+", "`"}
_ADMONITION = re.compile(r"(?:NOTE|TIP|IMPORTANT|WARNING|CAUTION):\s+(.*)")
_BLOCK_LINE = re.compile(r"\[(?!\[)(?P<style>[^\]\n]*)\]|\[\[[^\]\n]+\]\]|<<<|'''|toc::\[\]")
_MACRO = re.compile(r"(?:image|include|video|audio|ifdef|ifndef|endif|ifeval)::?\S*\[[^\]]*\]")
_INLINE_IMAGE = re.compile(r"(?:image|icon|footnote|indexterm\d?|anchor):[^\s\[]*\[[^\]]*\]")
_LINK = re.compile(r"(?:link:|xref:|mailto:)?(?:https?://)?[^\s\[\]<>(]{1,300}\[([^\]\n]{1,300})\]")
_CROSS = re.compile(r"<<[^,>\n]{1,200}(?:,\s*([^>\n]{1,200}))?>>")
_MARKS = re.compile(r"(?<!\w)([*_#`+]{1,2})(?=\S)([^\n]{1,200}?)(?<=\S)\1(?!\w)")
_BULLET = re.compile(r"\s*([*-]{1,5})\s+(.*)")
_NUMBERED = re.compile(r"\s*(\.{1,5})\s+(.*)")
_TERM = re.compile(r"(\S.{0,200}?)(?:::|;;)(?:\s+(.*))?")
_CALLOUT = re.compile(r"\s*(?:#|//|;|--)?\s*<(?:\d{1,3}|\.)>\s*$")
_CALLOUT_ITEM = re.compile(r"<(?:\d{1,3}|\.)>\s+")
_ANCHOR = re.compile(r"\[\[[^\]\n]{1,200}\]\]")
_AUTHOR = re.compile(r"[^<>]{1,100}<[^<>\s]+@[^<>\s]+>.*")


def read_asciidoc(data: bytes) -> Parsed:
    """Read an AsciiDoc file.

    Raises:
        UnreadableError: ``not_utf8`` or ``binary``.
    """
    reader = _AsciiDoc()
    for line in decode(data).replace("\r\n", "\n").split("\n"):
        reader.feed(line)
    parsed = parse_markdown("\n".join(reader.lines))
    return Parsed(parsed.text, parsed.title, readable_date(reader.attributes.get("revdate")))


class _AsciiDoc:
    """Markdown lines so far, attributes, and what is open."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.attributes: dict[str, str] = {}
        self._code = ""
        self._comment = False
        self._table: list[list[str]] | None = None
        self._language = ""

    def feed(self, line: str) -> None:
        stripped = line.rstrip()
        if self._code:
            self._in_code(stripped)
        elif self._comment:
            self._comment = not re.fullmatch(r"/{4,}", stripped)
        elif stripped.startswith("|===") or self._table is not None:
            self._in_table(stripped)
        elif delimiter := _DELIMITER.fullmatch(stripped):
            self._open(delimiter[1])
        elif stripped.startswith("//"):
            return
        elif attribute := _ATTRIBUTE.fullmatch(stripped):
            self.attributes[attribute[1]] = attribute[2]
        else:
            self._text(stripped)

    def _in_code(self, line: str) -> None:
        if line == self._code:
            self.lines += ["~~~~~~~~", ""]
            self._code = ""
        else:
            self.lines.append(_CALLOUT.sub("", line))

    def _open(self, mark: str) -> None:
        if mark[0] == "/":
            self._comment = True
        elif mark[0] in _CODE and mark != "--":
            self._code = mark
            self.lines += ["", f"~~~~~~~~{self._language}"]
        else:
            self.lines.append("")
        self._language = ""

    def _in_table(self, line: str) -> None:
        """Rows of cells; a first row with an empty line below it is the header."""
        if self._table is None:
            self._table = []
        elif line.startswith("|==="):
            self.lines += ["", *_table_lines(self._table), ""]
            self._table = None
        elif line.lstrip().startswith("|"):
            cells = [self._inline(cell.strip()) for cell in line.lstrip()[1:].split("|")]
            self._table.append(cells)
        elif not line and len(self._table) == 1:
            self._table.append([])
        elif line and self._table and self._table[-1]:
            self._table[-1][-1] += f" {self._inline(line.strip())}"

    def _text(self, line: str) -> None:
        if block := _BLOCK_LINE.fullmatch(line):
            style = (block["style"] or "").split(",")
            if style[0].strip() in {"source", "listing"} and len(style) > 1:
                self._language = re.sub(r"\W", "", style[1])
        elif section := _SECTION.fullmatch(line):
            self.lines += ["", f"{'#' * len(section[1])} {self._inline(section[2])}", ""]
        elif _MACRO.fullmatch(line) or _AUTHOR.fullmatch(line) or line == "+":
            self.lines.append("")
        elif re.fullmatch(r"\.[^\s.].*", line):  # a block's title
            self.lines += ["", self._inline(line[1:]), ""]
        else:
            self.lines.append(self._item(line))

    def _item(self, line: str) -> str:
        for pattern, mark in ((_BULLET, "-"), (_NUMBERED, "1.")):
            item = pattern.fullmatch(line)
            if item:
                return f"{'    ' * (len(item[1]) - 1)}{mark} {self._inline(item[2])}"
        term = _TERM.fullmatch(line)
        if term:
            return f"- {self._inline(term[1])}: {self._inline(term[2] or '')}".rstrip()
        admonition = _ADMONITION.fullmatch(line)
        return self._inline(admonition[1] if admonition else line.removesuffix(" +"))

    def _inline(self, text: str) -> str:
        text = _REFERENCE.sub(lambda match: self.attributes.get(match[1], match[0]), text)
        text = _INLINE_IMAGE.sub("", _ANCHOR.sub("", _CALLOUT_ITEM.sub("", text, count=1)))
        text = _LINK.sub(lambda match: match[1].split(",")[0].rstrip("^"), text)
        text = _CROSS.sub(lambda match: match[1] or "", text)
        return _MARKS.sub(lambda match: match[2], text)


def _table_lines(rows: list[list[str]]) -> list[str]:
    """List items, so that each row keeps a line; cells on lines of their own are grouped."""
    header = rows[0] if len(rows) > 1 and not rows[1] else []
    body = [row for row in (rows[2:] if header else rows) if row]
    width = len(header) or max((len(row) for row in body), default=1)
    cells = [cell for row in body for cell in row]
    body = [cells[at : at + width] for at in range(0, len(cells), width)]
    return [f"- {row_line([(cell, False) for cell in row], header)}" for row in body]
