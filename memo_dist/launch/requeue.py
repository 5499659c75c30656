"""Whether a job that ran out of time may go back into the queue: only if its run moves forward.

Run by the batch script, before ``scontrol requeue``:

    python -m memo_dist.launch.requeue --job ID --life N --max-stalled M -- VERB ARGS

Exit code 0 allows it. What a life has reached is compared with what the life before had reached
(``RUN/logs/requeues.json``): a job that is requeued without getting anywhere burns its GPUs for
nothing. A later job with another id begins to count anew.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import time

from memo_dist.errors import EXIT_FAILED, EXIT_USAGE, MemoDistError, RunError, UsageError
from memo_dist.io import atomic
from memo_dist.io.runfolder import RunFolder
from memo_dist.launch.verbs import parse_verb
from memo_dist.scaling.cells import CHECKPOINT, RESULT
from memo_dist.stages.state import progress_files

KEPT = 200
"""Requeues that the file remembers."""
_HEADER_BYTES = 1024


def progress_mark(run: RunFolder) -> str:
    """A hash over what counts as progress; equal marks mean that nothing was gained.

    Complete checkpoints, final weights, journals and markers of stages count; logs, STATUS files
    and half-written things do not.
    """
    digest = hashlib.sha256()
    for path in [*progress_files(run), *sorted((run.root / "cells").glob(f"*/{RESULT}"))]:
        digest.update(f"{path.relative_to(run.root)} {path.stat().st_size}\n".encode())
    for path in sorted((run.root / "cells").glob(f"*/{CHECKPOINT}")):
        with path.open("rb") as stream:  # its size stays the same; its header counts the steps
            digest.update(stream.read(_HEADER_BYTES))
    return digest.hexdigest()


def check_progress(run: RunFolder, job: str, life: int, max_stalled: int) -> str:
    """Record this life and allow the next one.

    Args:
        run: the run folder.
        job: the job's id, the same in all its lives.
        life: how many times it was requeued so far.
        max_stalled: lives in a row that may end without progress.

    Returns:
        A line for the log.

    Raises:
        RunError: too many lives in a row got nowhere.
    """
    path = run.logs / "requeues.json"
    rows = atomic.read_json(path)["requeues"] if path.exists() else []
    mine = [row for row in rows if row["job"] == job]
    mark = progress_mark(run)
    stalled = mine[-1]["stalled"] + 1 if mine and mine[-1]["mark"] == mark else 0
    row = {"job": job, "life": life, "time": time.time(), "mark": mark, "stalled": stalled}
    run.logs.mkdir(parents=True, exist_ok=True)
    atomic.write_json(path, {"schema_version": 1, "requeues": [*rows, row][-KEPT:]})
    if stalled > max_stalled:
        raise RunError(
            f"job {job} is not requeued: {stalled} lives in a row ended without progress of"
            f" {run.root} (launch.max_stalled={max_stalled}). Give it more time (launch.minutes),"
            " save more often (train.checkpoint_minutes), or see the log for what ends it"
        )
    return f"job {job}: life {life} ends, {stalled} without progress"


def main(arguments: list[str]) -> int:
    """Parse, decide, tell; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m memo_dist.launch.requeue")
    parser.add_argument("--job", required=True)
    parser.add_argument("--life", type=int, required=True)
    parser.add_argument("--max-stalled", type=int, required=True)
    parser.add_argument("verb", nargs=argparse.REMAINDER)
    given = parser.parse_args(arguments)
    try:
        call = parse_verb([word for word in given.verb if word != "--"])
        if call.run is None:
            raise UsageError(f"{call.verb} names no run folder: it is not requeued")
        print(check_progress(RunFolder(call.run), given.job, given.life, given.max_stalled))
    except UsageError as error:
        print(f"memo-dist: {error}", file=sys.stderr)
        return EXIT_USAGE
    except (MemoDistError, OSError) as error:
        print(f"memo-dist: {error}", file=sys.stderr)
        return EXIT_FAILED
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
