"""HTML tables as lines of text: ``header: cell; header: cell``."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

from selectolax.lexbor import LexborNode

from memo_dist.corpus.boilerplate import is_navigation_word

_MAX_SPAN = 50
"""Spans beyond this are layout mistakes (``colspan=1000``), not content."""
_MOST_COPIES = 5000
"""Cells that the spans of one table may add; further spans count as one."""
_NAVIGATION_ROWS = 2

Cell = tuple[str, bool]
"""A cell's text, and whether it is a header."""


def is_data_table(node: LexborNode) -> bool:
    """True for a table of cells; tables that lay out a page (nested, with blocks) are not."""
    if node.tag != "table":
        return False
    blocks = {"table", "h1", "h2", "h3", "ul", "ol", "pre"}
    return all(child.tag not in blocks for child in _below(node))


def is_navigation(table: LexborNode, text_of: Callable[[LexborNode], str]) -> bool:
    """Whether a table of one or two rows leads to other pages: ``Prev | Up | Next``.

    The columns of a table of values may have such names too: its header cells do not count, nor
    does a row that begins with another word.
    """
    rows = [node for node in _below(table) if node.tag == "tr"]
    return len(rows) <= _NAVIGATION_ROWS and any(_is_pager(row, text_of) for row in rows)


def _is_pager(row: LexborNode, text_of: Callable[[LexborNode], str]) -> bool:
    texts = [(text_of(cell), cell.tag == "td") for cell in _cells(row)]
    words = [is_data and is_navigation_word(text) for text, is_data in texts if text]
    return sum(words) > 1 and words[0]


def rows(table: LexborNode, text_of: Callable[[LexborNode], str]) -> list[str]:
    """One line a row: each cell behind its column's header where the table has headers.

    Args:
        table: the ``<table>``.
        text_of: a cell's text on one line.
    """
    grid = [row for row in _grid(table, text_of) if any(text for text, _ in row)]
    width = max(map(len, grid), default=0)
    caption = table.css_first("caption")
    lines = [text_of(caption)] if caption is not None and text_of(caption) else []
    headers: list[str] = []
    stacked = False
    for index, row in enumerate(grid):
        if _is_section(row, width, bool(headers)):
            lines.append(next(text for text, _ in row if text))
            stacked = False
        elif all(is_header or not text for text, is_header in row) and index < len(grid) - 1:
            names = [text for text, _ in row]
            headers, stacked = _joined(headers, names) if stacked else names, True
        else:
            lines.append(row_line(row, headers))
            stacked = False
    return lines


def _is_section(row: list[Cell], width: int, has_headers: bool) -> bool:
    """Whether a row names the rows below it: its only text is a header that spans the table."""
    (first, is_header), *others = row
    if width < 2 or not is_header or not first or any(text for text, _ in others):
        return False
    return not others or has_headers or not all(is_header for _, is_header in others)


def _joined(above: list[str], below: list[str]) -> list[str]:
    """The headers of each column of two header rows: ``2031`` above ``Units``."""
    return [
        upper if upper == lower else f"{upper} {lower}".strip()
        for upper, lower in itertools.zip_longest(above, below, fillvalue="")
    ]


def row_line(row: list[Cell], headers: list[str]) -> str:
    """One row as ``header: cell; header: cell``; empty cells are left out."""
    if not headers and len(row) == 2 and row[0][1]:  # a row header and its value
        return f"{row[0][0]}: {row[1][0]}"
    parts = []
    for column, (text, _) in enumerate(row):
        header = headers[column] if column < len(headers) else ""
        if text:
            parts.append(f"{header}: {text}" if header else text)
    return "; ".join(parts)


def _grid(table: LexborNode, text_of: Callable[[LexborNode], str]) -> list[list[Cell]]:
    """The cells by row and column.

    A cell that spans rows is repeated in each; one that spans columns is repeated only if
    it is a header, since a value told once a column would read as several facts. A cell that is
    all of a row is a header of the rows below it, and stands there once.
    """
    grid: list[list[Cell]] = []
    hanging: dict[int, tuple[int, Cell]] = {}  # column -> rows left, cell of an earlier row
    copies = _MOST_COPIES
    for row in (node for node in _below(table) if node.tag == "tr"):
        line: list[Cell] = []
        cells = list(_cells(row))
        for cell in cells:
            _take_hanging(line, hanging)
            value = (text_of(cell), cell.tag == "th")
            wide, high = _span(cell, "colspan"), _span(cell, "rowspan")
            if wide > 1 and len(cells) == 1 and not line:
                wide, value = 1, (value[0], True)
            if wide * high - 1 > copies:
                wide = high = 1
            copies -= wide * high - 1
            for copy in range(wide):
                shown = value if copy == 0 or value[1] else ("", False)
                if high > 1:
                    hanging[len(line)] = (high - 1, shown)
                line.append(shown)
        _take_hanging(line, hanging)
        grid.append(line)
    return grid


def _take_hanging(line: list[Cell], hanging: dict[int, tuple[int, Cell]]) -> None:
    while len(line) in hanging:
        left, value = hanging.pop(len(line))
        if left > 1:
            hanging[len(line)] = (left - 1, value)
        line.append(value)


def _below(node: LexborNode) -> Iterator[LexborNode]:
    """All elements below ``node`` in document order, without recursion."""
    stack = [node.first_child]
    while stack:
        child = stack.pop()
        while child is not None:
            if child.is_element_node:
                yield child
                if child.first_child is not None:
                    stack.append(child.next)
                    child = child.first_child
                    continue
            child = child.next


def _cells(row: LexborNode) -> Iterator[LexborNode]:
    child = row.first_child
    while child is not None:
        if child.tag in {"td", "th"}:
            yield child
        child = child.next


def _span(cell: LexborNode, name: str) -> int:
    text = str(cell.attributes.get(name) or "1").strip()
    return min(max(int(text[:9]), 1), _MAX_SPAN) if text.isascii() and text.isdigit() else 1
