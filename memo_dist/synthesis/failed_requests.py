"""A second chance for what failed: after a launch that ended with an error, the same command asks
the requests again that got no valid answer (the server or its settings may be mended by now).

Attempts stay in the request journals, since they were paid for; the last one of a failed request is
made to be not final. Unit records that rest on a failed request are taken out.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from memo_dist.config.steps import StepName
from memo_dist.io.checked_lines import rewrite
from memo_dist.io.runfolder import RunFolder
from memo_dist.llm.reopening import reopen_requests
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
    units = [rewrite(path, _without_failures) for path in sorted(folder.glob(_UNIT_JOURNALS))]
    requests = [reopen_requests(path) for path in journals]
    return any(units) or any(requests)


def _without_failures(row: _Row) -> _Row | None:
    """A unit's record, unless it failed or rests on a request that failed."""
    reasons = [str(item.get("reason", "")) for item in row.get("rejected", [])]
    lost = row.get("failed") or any(r.startswith(f"{FAILED_REQUEST}:") for r in reasons)
    return None if lost else row
