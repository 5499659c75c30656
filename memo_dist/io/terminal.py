"""Text on its way to a terminal or a log: what documents, names and models say cannot act there.

A terminal obeys control characters: they move the cursor, hide text, set the clipboard or the
window's title, and some terminals answer as if the user had typed. Documents, file names, models
and servers may contain them; here each becomes visible text such as ``\\x1b``.
"""

from __future__ import annotations

import io
import re
import sys
from typing import TextIO

_ACTING = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # C0 without tab and newline, DEL, C1
    "\u202a-\u202e\u2066-\u2069"  # marks that turn the reading direction around
    "\ud800-\udfff"  # bytes of a name that are no text
    "\u2028\u2029\ufff9-\ufffb]"  # separators of lines, interlinear notes
)


def visible(text: str) -> str:
    """``text`` with every character that acts on a terminal written out; tabs and newlines stay."""
    return _ACTING.sub(_escape, text)


def _escape(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


class VisibleText(io.TextIOWrapper):
    """A text stream that writes :func:`visible` text only; ``raw_text`` is the one below it."""

    def __init__(self, below: TextIO) -> None:
        """Stand above ``below``, whose buffer, encoding and errors are used."""
        super().__init__(
            below.buffer,
            encoding=below.encoding,
            errors=below.errors,
            line_buffering=below.isatty() or below is sys.__stderr__,
            write_through=True,
        )
        self.raw_text = below

    def write(self, text: str, /) -> int:
        """Write the visible form; the length is the caller's text's."""
        super().write(visible(text))
        return len(text)


def guard_streams() -> None:
    """Let standard output and standard error write visible text from here on.

    The bars of :mod:`memo_dist.observability.progress` draw below it: what they show is a label
    and numbers of the program's own.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper) and not isinstance(stream, VisibleText):
            stream.flush()
            setattr(sys, name, VisibleText(stream))


def drawing(stream: TextIO) -> TextIO:
    """The stream to draw on, below a :class:`VisibleText`."""
    return stream.raw_text if isinstance(stream, VisibleText) else stream
