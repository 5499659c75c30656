"""Texts of others in a prompt: what a server or a model could take for more than text is broken up.

Servers put messages into a chat template as they are, so that ``<|im_end|>`` inside of one can end
it; and models follow whatever looks like the border of a block.
"""

from __future__ import annotations

import re

_TOKEN = re.compile(
    r"<(?P<tag>[|/\uff5c]?\s{0,2}[A-Za-z_][\w\u2581 \uff5c|.:-]{0,48}[|\uff5c]?)>"
    r"|(?P<left><)(?=[|\uff5c])|(?P<right>(?<=[|\uff5c])>)"
    r"|<<(?P<sys>/?SYS)>>|\[(?P<inst>/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS))\]"
)
_EDGES = "|\uff5c/ "
_BORDER = re.compile(r"([=#~`_*\u2500-\u257f-])\1{2,}")


def disarm(text: str) -> str:
    """The text without control tokens of chat templates and without lines that look like borders.

    Words, numbers and names stay as they are.
    """
    return _BORDER.sub(r"\1", _TOKEN.sub(_inert, text))


def _inert(match: re.Match[str]) -> str:
    inner = match["tag"] or match["sys"] or match["inst"]
    return f"({inner.strip(_EDGES)})" if inner else " "
