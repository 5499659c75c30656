"""What Slurm knows of jobs: a row for each job and each array task.

slurmctld forgets a job ``MinJobAge`` seconds (300) after its end, and the tasks of an array one by
one. The accounting knows them longer, where there is one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from memo_dist.errors import RunError
from memo_dist.launch.jobs import JobState
from memo_dist.launch.slurm_calls import run_slurm

WAITING = ("PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "SPECIAL_EXIT")
_ENDED = (
    "COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL",
    "DEADLINE", "PREEMPTED",
)  # fmt: skip

Row = dict[str, str]
Rows = dict[str, Row]
"""By ``JOB``, or ``JOB_TASK`` of an array; tasks that wait may share one, ``JOB_4-9``."""


class KnownRows:
    """The last row of each of some jobs and array tasks, over several looks."""

    def __init__(self, ids: Sequence[str]) -> None:
        """Begin to look at jobs, each of which depends on the one before it."""
        self._kept: dict[str, Rows] = {id: {} for id in ids}

    def look(self) -> list[Row]:
        """What is known now, in the order of the jobs.

        A job that nobody knows any more has ended well if a later one is known: it is a condition
        (afterok) of that one.

        Raises:
            RunError: Slurm gives no answer, or does not know a job.
        """
        found = [self._look(id) for id in self._kept]
        return [row for place, _ in enumerate(found) for row in self._settled(found, place)]

    def _settled(self, found: Sequence[Rows | None], place: int) -> list[Row]:
        rows = found[place]
        if rows is not None:
            return list(rows.values())
        id = list(self._kept)[place]
        if any(later is not None for later in found[place + 1 :]):
            return [{"JobId": id, "JobState": "COMPLETED"}]
        raise RunError(
            f"Slurm does not know job {id} any more (ended long ago, and no accounting?): the run"
            " folder says how far it came: memo-dist status RUN"
        )

    def _look(self, id: str) -> Rows | None:
        """Rows of one job; None where what became of it, or of one of its tasks, is not known."""
        kept, listed = self._kept[id], _listed(id)
        lost = [name for name, row in kept.items() if name not in listed and not _has_ended(row)]
        first = not kept and (not listed or any("ArrayJobId" in row for row in listed.values()))
        accounted = _accounted(id) if lost or first else {}
        rows = {**kept, **accounted, **listed}
        self._kept[id] = {name: row for name, row in rows.items() if _stays(name, row)}
        gone = any(name not in accounted for name in lost)
        return None if gone or not rows else rows


def state_of(rows: Sequence[Row]) -> JobState:
    """The state of all jobs together; the exit code is the first that is not 0."""
    states = [row["JobState"] for row in rows]
    ended = all(map(_has_ended, rows))
    running = any(state not in WAITING and state not in _ENDED for state in states)
    return JobState(
        text=", ".join(map(_text, rows)),
        waiting=not running and not ended,
        code=next(filter(None, map(_code, rows)), 0) if ended else None,
    )


def _listed(id: str) -> Rows:
    """What slurmctld lists of a job; nothing where it does not know it."""
    try:
        printed = run_slurm(["scontrol", "show", "job", id, "--oneliner"])
    except RunError as error:
        if "Invalid job id" not in str(error):
            raise
        return {}
    rows = (dict(_fields(line)) for line in printed.splitlines())
    return {_name(row): row for row in rows if "JobState" in row}


def _fields(line: str) -> Iterator[tuple[str, str]]:
    for word in line.split():
        name, border, value = word.partition("=")
        if border:
            yield name, value


def _accounted(id: str) -> Rows:
    """What the accounting knows of a job, a row for each task that has begun or ended."""
    try:
        printed = run_slurm(["sacct", "-X", "-n", "-P", "-j", id, "-o", "JobID,State,ExitCode"])
    except RunError:  # no accounting here
        return {}
    rows = {}
    for line in printed.splitlines():
        name, state, code = [*line.split("|"), "", ""][:3]
        job, _, task = name.partition("_")
        array = {"ArrayJobId": job, "ArrayTaskId": task.strip("[]")} if task else {}
        row = {"JobId": job, "JobState": state.partition(" ")[0], "ExitCode": code, **array}
        if state and _stays(name, row):  # tasks that wait are slurmctld's: it lists them
            rows[_name(row)] = row
    return rows


def _name(row: Mapping[str, str]) -> str:
    if "ArrayTaskId" not in row:
        return row["JobId"]
    return f"{row.get('ArrayJobId', row['JobId'])}_{row['ArrayTaskId']}"


def _stays(name: str, row: Mapping[str, str]) -> bool:
    """Whether a row stands for the same jobs later on: several tasks that wait have one row until
    each one begins, and has its own."""
    return name.replace("_", "", 1).isdigit() or _has_ended(row)


def _has_ended(row: Mapping[str, str]) -> bool:
    return row["JobState"] in _ENDED


def _text(row: Mapping[str, str]) -> str:
    state = row["JobState"]
    name = _name(row)
    why = f" ({row['Reason']})" if state in WAITING and row.get("Reason") else ""
    nodes = f" on {row['NodeList']}" if state == "RUNNING" and "NodeList" in row else ""
    lives = f", life {row['Restarts']}" if row.get("Restarts", "0") != "0" else ""
    code = f", exit code {_code(row)}" if _has_ended(row) and _code(row) else ""
    return f"{name} {state}{why}{nodes}{lives}{code}"


def _code(row: Mapping[str, str]) -> int:
    """The exit code of an ended job as a shell would say it; 1 where Slurm ended it."""
    code, _, number = row.get("ExitCode", "0:0").partition(":")
    if int(code or 0):
        return int(code)
    if number and int(number):
        return 128 + int(number)
    return 0 if row["JobState"] == "COMPLETED" else 1
