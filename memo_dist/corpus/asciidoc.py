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
_UNDERLINE = re.compile(r"={3,}|-{3,}|~{3,}|\^{3,}|\+{3,}")
_UNDERLINES = "=-~^+"
"""Marks of two-line titles, the highest level first."""
_UNEVEN = 2
"""Characters by which a two-line title may be longer or shorter than its underline."""
_BLOCK_LINE = re.compile(r"\[(?!\[)(?P<style>[^\]\n]*)\]|\[\[[^\]\n]+\]\]|<<<|'''|toc::\[\]")
_MACRO = re.compile(r"(?:image|include|video|audio|ifdef|ifndef|endif|ifeval)::?[^\s\[]*\[[^\]]*\]")
_UNSHOWN = re.compile(r"(?:image|icon|indexterm\d?|anchor):[^\s\[]{0,300}\[[^\]]{0,300}\]")
_FOOTNOTE = re.compile(r"\s?footnote(?:ref)?:[\w-]{0,60}\[(?P<text>(?:[^\]\\\n]|\\.){0,2000})\]")
_LINK = re.compile(
    r"(?<!\w)(?:(?:link|xref|mailto|kbd|btn|pass|stem|latexmath|asciimath):"
    r"|(?=(?:https?|ftp|irc)://))"
    r"(?P<target>[^\s\[\]<>]{0,300})\[(?P<text>[^\]\n]{0,300})\]"
)
_LINK_ATTRIBUTES = re.compile(r"(?:\A|,)\s*(?:role|window|opts|options|id|rel|title|subject)=")
_MENU = re.compile(r"(?<!\w)menu:([^\s\[\]][^\n\[\]]{0,60})\[([^\]\n]{0,200})\]")
_MANUAL = re.compile(r"(?<!\w)(?:linkgit|man):([\w.:-]{1,60})\[(\w{1,3})\]")
_CROSS = re.compile(r"<<[^,>\n]{1,200}(?:,\s*([^>\n]{1,200}))?>>")
_PASSED = re.compile(r"\+{3}([^+\n]{0,300})\+{3}")
_MENTIONED = re.compile(r"<(?!https?://)")
_LESS = "\ufdd1"
"""Stands for ``<``, which is text in AsciiDoc and in code too, until Markdown is read."""
_MARKS = re.compile(r"(?<!\w)([*_#`+]{1,2})(?=\S)([^\n]{1,200}?)(?<=\S)\1(?!\w)")
_BULLET = re.compile(r"\s*([*-]{1,5})\s+(.*)")
_NUMBERED = re.compile(r"\s*(\.{1,5})\s+(.*)")
_TERM = re.compile(r"(\S.{0,200}?)(?:::|;;)(?:\s+(.*))?")
_CALLOUT = re.compile(r"\s*(?:#|//|;|--)?\s*<(?:\d{1,3}|\.)>\s*$")
_CALLOUT_ITEM = re.compile(r"\A<(?:\d{1,3}|\.)>\s+")
_ANCHOR = re.compile(r"\[\[[^\]\n]{1,200}\]\]")
_AUTHOR = re.compile(r"[^<>]{1,100}<[^<>\s]+@[^<>\s]+>.*")


def read_asciidoc(data: bytes) -> Parsed:
    """Read an AsciiDoc file.

    Raises:
        UnreadableError: ``not_utf8`` or ``binary``.
    """
    reader = _AsciiDoc()
    for line in decode(data).replace("\r\n", "\n").replace(_LESS, "").split("\n"):
        reader.feed(line)
    parsed = parse_markdown("\n".join(reader.lines))
    text, title = (found.replace(_LESS, "<") for found in (parsed.text, parsed.title))
    return Parsed(text, title, readable_date(reader.attributes.get("revdate")))


class _AsciiDoc:
    """Markdown lines so far, attributes, and what is open."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.attributes: dict[str, str] = {}
        self._code = ""
        self._comment = False
        self._table: list[list[str]] | None = None
        self._language = ""
        self._begins = True
        self._title = ""
        self._below_title = False

    def feed(self, line: str) -> None:
        stripped = line.rstrip()
        title, self._title = self._title, ""
        if self._is_underline(title, stripped):
            self.lines.pop()
            self._section(_UNDERLINES.index(stripped[0]) + 1, title)
        elif self._code:
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

    def _is_underline(self, title: str, line: str) -> bool:
        return bool(title and _UNDERLINE.fullmatch(line) and abs(len(title) - len(line)) <= _UNEVEN)

    def _section(self, level: int, title: str) -> None:
        self.lines += ["", f"{'#' * level} {self._inline(title)}", ""]
        self._begins, self._below_title = True, level == 1

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
        begins, self._begins = self._begins, True
        below_title, self._below_title = self._below_title, False
        if block := _BLOCK_LINE.fullmatch(line):
            style = (block["style"] or "").split(",")
            if style[0].strip() in {"source", "listing"} and len(style) > 1:
                self._language = re.sub(r"\W", "", style[1])
        elif section := _SECTION.fullmatch(line):
            self._section(len(section[1]), section[2])
        elif _MACRO.fullmatch(line) or line == "+" or (below_title and _AUTHOR.fullmatch(line)):
            self.lines.append("")
        elif re.fullmatch(r"\.[^\s.].*", line):  # a block's title
            self.lines += ["", self._inline(line[1:]), ""]
        else:
            self.lines.append(self._item(line))
            self._begins = not line
            self._title = line if begins and line[:1].isalnum() else ""

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
        text = _UNSHOWN.sub("", _ANCHOR.sub("", _CALLOUT_ITEM.sub("", text)))
        text = _PASSED.sub(lambda match: re.sub(r"<[^<>]*>", "", match[1]), text)
        text = _MENU.sub(lambda match: " > ".join(filter(None, match.groups())), text)
        text = _FOOTNOTE.sub(_footnote, _LINK.sub(_label, _MANUAL.sub(r"\1(\2)", text)))
        text = _CROSS.sub(lambda match: match[1] or "", text)
        return _MARKS.sub(lambda match: match[2], _MENTIONED.sub(_LESS, text))


def _label(match: re.Match[str]) -> str:
    """What a reader sees of a link: its text before the attributes, else its target."""
    text = _LINK_ATTRIBUTES.split(match["text"], maxsplit=1)[0]
    return text.rstrip("^").strip('"') or match["target"]


def _footnote(match: re.Match[str]) -> str:
    """The text of a footnote in brackets; a further mark of one that was shown is nothing."""
    text = match["text"].replace("\\]", "]")
    if "footnoteref" in match[0]:
        text = text.partition(",")[2]
    return f" ({text.strip()})" if text.strip() else ""


def _table_lines(rows: list[list[str]]) -> list[str]:
    """List items, so that each row keeps a line; cells on lines of their own are grouped."""
    header = rows[0] if len(rows) > 1 and not rows[1] else []
    body = [row for row in (rows[2:] if header else rows) if row]
    width = len(header) or max((len(row) for row in body), default=1)
    cells = [cell for row in body for cell in row]
    body = [cells[at : at + width] for at in range(0, len(cells), width)]
    return [f"- {row_line([(cell, False) for cell in row], header)}" for row in body]
