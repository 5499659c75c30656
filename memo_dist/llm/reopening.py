"""A second chance for requests that failed: the next launch sends them again.

The attempts stay in the journal, since they were paid for; the last one of a failed request is made
to be not final.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from memo_dist.io.checked_lines import rewrite

_Row = dict[str, Any]


def reopen_requests(journal: Path) -> bool:
    """Make the failed requests of a journal or a request store open again; whether there were any.

    No one may write into the file meanwhile.

    Raises:
        OSError: the disk is full; the file is as before.
    """
    return journal.exists() and rewrite(journal, _not_final)


def _not_final(row: _Row) -> _Row:
    failed = row.get("final") and row.get("outcome") != "ok"
    return {**row, "final": False} if failed else row
