"""Where in a corpus a piece of text stands: folders, title and headings above it."""

from __future__ import annotations

import re
from bisect import bisect_right
from pathlib import PurePosixPath

from memo_dist.corpus.types import Document

SEPARATOR = " > "
_LONGEST_STEP = 100
_ROW = re.compile(r".*\.(?:jsonl|parquet):\d+")


class Sections:
    """The sections of one document.

    Example: ``go > Getting Started > Install`` for a piece of ``go/getting-started.md`` below its
    heading "Install".
    """

    def __init__(self, document: Document) -> None:
        """Find the headings above each place; the work is linear in the document."""
        self._title = document.title
        self._above = folders(document.origin)
        self._starts: list[int] = []
        self._paths: list[tuple[str, ...]] = []
        path: list[tuple[int, str]] = []
        for start, level in document.headings:
            text = _line(document.text, start)
            path = [step for step in path if step[0] < level]
            path.append((level, text))
            self._starts.append(start)
            self._paths.append(tuple(step for _, step in path))

    def of(self, start: int, end: int) -> str:
        """The section that holds for all of ``text[start:end]``.

        Empty where it would tell no more than the document's title.
        """
        first = bisect_right(self._starts, start) - 1
        last = bisect_right(self._starts, max(start, end - 1)) - 1
        paths = [self._paths[at] if at >= 0 else () for at in range(first, last + 1)]
        shared = list(_shared(paths))
        if shared[:1] != [self._title]:
            shared.insert(0, self._title)
        steps = [*self._above, *shared]
        return "" if steps == [self._title] else SEPARATOR.join(steps)


def folders(origin: str) -> list[str]:
    """The folders above a file of documents; rows of one file share it, so they have none."""
    path = PurePosixPath(origin)
    return [] if _ROW.fullmatch(path.name) else list(path.parent.parts)


def _line(text: str, start: int) -> str:
    end = text.find("\n", start)
    return text[start : end if end >= 0 else len(text)].strip()[:_LONGEST_STEP]


def _shared(paths: list[tuple[str, ...]]) -> tuple[str, ...]:
    """The steps at the beginning that all paths share."""
    shared = paths[0]
    for path in paths[1:]:
        same = 0
        while same < min(len(shared), len(path)) and shared[same] == path[same]:
            same += 1
        shared = shared[:same]
    return shared
