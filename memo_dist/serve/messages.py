"""What events and logs say of an error: the line that explains it, without paths of the server."""

from __future__ import annotations

import re
from pathlib import Path

_MOST = 500
_PATH = re.compile(r"(?<![\w.:/])/(?:[^\s'\"/:;,()]+/)*([^\s'\"/:;,()]+)")
"""An absolute path; the group is its last name."""


def shown(text: object, root: Path) -> str:
    """The last line of a text that says something, with RUN for the run's folder.

    Args:
        text: an error, or what a verb wrote.
        root: folder of the served run.
    """
    lines = [line.strip() for line in str(text).splitlines() if line.strip()]
    if not lines:
        return "it wrote nothing"
    line = lines[-1]
    for folder in (root.resolve(), root):
        if folder != Path():
            line = re.sub(rf"(?<![\w.-]){re.escape(str(folder))}(?![\w.-])", "RUN", line)
    return _PATH.sub(r"\1", line)[:_MOST]
