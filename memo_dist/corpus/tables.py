"""HTML tables as lines of text: ``header: cell; header: cell``."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from selectolax.lexbor import LexborNode

from memo_dist.corpus.boilerplate import is_navigation_word

_MAX_SPAN = 50
"""Spans beyond this are layout mistakes (``colspan=1000``), not content."""
_MOST_COPIES = 5000
"""Cells that the spans of one table may add; further spans count as one."""
_NAVIGATION_ROWS = 4

Cell = tuple[str, bool]
"""A cell's text, and whether it is a header."""


def is_data_table(node: LexborNode) -> bool:
    """True for a table of cells; tables that lay out a page (nested, with blocks) are not."""
    if node.tag != "table":
        return False
    blocks = {"table", "h1", "h2", "h3", "ul", "ol", "pre"}
    return all(child.tag not in blocks for child in _below(node))


def is_navigation(table: LexborNode, text_of: Callable[[LexborNode], str]) -> bool:
    """Whether a small table leads to other pages: two cells are Prev, Up, Home or Next."""
    rows = [node for node in _below(table) if node.tag == "tr"]
    if len(rows) > _NAVIGATION_ROWS:
        return False
    cells = [text_of(cell) for row in rows for cell in _cells(row)]
    return sum(map(is_navigation_word, cells)) > 1


def rows(table: LexborNode, text_of: Callable[[LexborNode], str]) -> list[str]:
    """One line a row: each cell behind its column's header where the table has headers.

    Args:
        table: the ``<table>``.
        text_of: a cell's text on one line.
    """
    grid = [row for row in _grid(table, text_of) if any(text for text, _ in row)]
    caption = table.css_first("caption")
    lines = [text_of(caption)] if caption is not None and text_of(caption) else []
    headers: list[str] = []
    for index, row in enumerate(grid):
        if all(is_header or not text for text, is_header in row) and index < len(grid) - 1:
            headers = [text for text, _ in row]
        else:
            lines.append(row_line(row, headers))
    return lines


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
    it is a header, since a value told once a column would read as several facts.
    """
    grid: list[list[Cell]] = []
    hanging: dict[int, tuple[int, Cell]] = {}  # column -> rows left, cell of an earlier row
    copies = _MOST_COPIES
    for row in (node for node in _below(table) if node.tag == "tr"):
        line: list[Cell] = []
        for cell in _cells(row):
            _take_hanging(line, hanging)
            value = (text_of(cell), cell.tag == "th")
            wide, high = _span(cell, "colspan"), _span(cell, "rowspan")
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
