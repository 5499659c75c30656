"""A second chance for what failed: after a launch that ended with an error, the same command asks
the requests again that got no valid answer (the server or its settings may be mended by now).

Attempts stay in the request journals, since they were paid for; the last one of a failed request is
made to be not final. Unit records that rest on a failed request are taken out.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, BinaryIO

from memo_dist.config.steps import StepName
from memo_dist.io.atomic import write_with
from memo_dist.io.checked_lines import from_line, to_line
from memo_dist.io.runfolder import RunFolder
from memo_dist.synthesis.worker import REQUEST_JOURNALS, store_path

FAILED_REQUEST = "request"
"""Reason (before its colon) of a request without a valid answer, in quarantine."""
_UNIT_JOURNALS = "journal/part-*.jsonl"

_Row = dict[str, Any]


def reopen_failed(run: RunFolder, steps: Collection[StepName]) -> list[StepName]:
    """Make the failed requests of these steps open again; returns the steps that have any.

    Raises:
        OSError: the disk is full; each file is as before or as it should be.
    """
    return [name for name in steps if _reopen(run, name)]


def _reopen(run: RunFolder, step: StepName) -> bool:
    folder = run.step(step)
    journals = [*sorted(folder.glob(REQUEST_JOURNALS)), store_path(run, step)]
    # Units first: after a kill in between, the requests are still there to be reopened.
    units = [_rewrite(path, _without_failures) for path in sorted(folder.glob(_UNIT_JOURNALS))]
    requests = [_rewrite(path, _not_final) for path in journals if path.exists()]
    return any(units) or any(requests)


def _without_failures(row: _Row) -> _Row | None:
    """A unit's record, unless it failed or rests on a request that failed."""
    reasons = [str(item.get("reason", "")) for item in row.get("rejected", [])]
    lost = row.get("failed") or any(r.startswith(f"{FAILED_REQUEST}:") for r in reasons)
    return None if lost else row


def _not_final(row: _Row) -> _Row:
    failed = row.get("final") and row.get("outcome") != "ok"
    return {**row, "final": False} if failed else row


def _rewrite(path: Path, change: Callable[[_Row], _Row | None]) -> bool:
    """Rewrite a file of checked lines row by row, where that changes anything; whether it did."""
    with path.open("rb") as stream:
        rows = ((row, change(row)) for line in stream if (row := from_line(line)) is not None)
        if all(new == row for row, new in rows):
            return False

    def write(out: BinaryIO) -> None:
        with path.open("rb") as stream:
            for line in stream:
                row = from_line(line)
                new = None if row is None else change(row)
                if new is not None:
                    out.write(to_line(new))

    write_with(path, write)
    return True
