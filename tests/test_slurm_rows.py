"""Slurm jobs as they are followed: fake commands print what slurmctld and the accounting would."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from memo_dist.errors import RunError
from memo_dist.launch import slurm_calls
from memo_dist.launch.render import shipped_scripts
from memo_dist.launch.slurm import SlurmJob, SlurmPlan

SCONTROL = """#!/bin/bash
[ -s {folder}/job-$3 ] || {{ echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1; }}
cat {folder}/job-$3
"""
SACCT = """#!/bin/bash
[ -e {folder}/accounted ] || {{ echo 'Slurm accounting storage is disabled' >&2; exit 1; }}
echo >>{folder}/asked
while [ $# -gt 0 ]; do [ "$1" != -j ] || job=$2; shift; done
grep -E "^$job(_|\\|)" {folder}/accounted
"""


class Cluster:
    """What the commands print."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def command(self, name: str, text: str) -> None:
        path = self.folder / name
        path.write_text(
            text.replace("{folder}", str(self.folder)).replace("{{", "{").replace("}}", "}")
        )
        path.chmod(0o755)

    def show(self, job: str, *rows: str) -> None:
        """What slurmctld lists of a job; nothing: it has forgotten it."""
        (self.folder / f"job-{job}").write_text("".join(f"{row}\n" for row in rows))

    def account(self, *rows: str) -> None:
        (self.folder / "accounted").write_text("".join(f"{row}\n" for row in rows))

    @property
    def asked(self) -> int:
        """How often the accounting was read."""
        path = self.folder / "asked"
        return len(path.read_text()) if path.exists() else 0


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    found = Cluster(tmp_path)
    found.command("scontrol", SCONTROL)
    found.command("sacct", SACCT)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr("memo_dist.launch.jobs.POLL_SECONDS", 0.01)
    monkeypatch.setattr("memo_dist.launch.jobs.UNREACHABLE_SECONDS", 0.1)
    return found


def one(job, state, code="0:0"):
    return f"JobId={job} JobName=x JobState={state} ExitCode={code} Restarts=0"


def task(job, index, state, code="0:0", own=None):
    return (
        f"JobId={own or job} ArrayJobId={job} ArrayTaskId={index} JobState={state} ExitCode={code}"
    )


def test_the_accounting_tells_the_tasks_that_slurmctld_has_forgotten(cluster):
    cluster.show("100", task(100, 2, "COMPLETED", own=103))
    cluster.account(
        "100_0|FAILED|3:0", "100_1|CANCELLED by 7|0:15", "100_2|RUNNING|0:0",
        "100_[3-4%2]|PENDING|0:0", "1000|FAILED|9:0",
    )  # fmt: skip
    state = SlurmJob("100").state()
    assert state.code == 3
    assert "100_0 FAILED, exit code 3" in state.text
    assert "100_1 CANCELLED, exit code 143" in state.text
    assert "100_2 COMPLETED" in state.text
    cluster.show("100")
    cluster.account("100_0|COMPLETED|0:0", "100_1|FAILED|4:0", "100_2|COMPLETED|0:0")
    assert SlurmJob("100").state().code == 4
    cluster.account("100_0|COMPLETED|0:0", "100_[1-2]|CANCELLED by 7|0:0")
    assert SlurmJob("100").state().code == 1, "tasks that were cancelled before they began"


def test_a_job_alone_is_not_looked_up_in_the_accounting(cluster):
    cluster.account("7|COMPLETED|0:0")
    cluster.show("7", one(7, "RUNNING"))
    assert SlurmJob("7").state().code is None
    assert cluster.asked == 0
    cluster.show("7")
    assert SlurmJob("7").state().code == 0


@pytest.mark.parametrize("accounting", [False, True])
def test_a_followed_array_keeps_the_failure_of_a_task_that_is_purged(cluster, accounting):
    """slurmctld forgets a failed task while another one of the array still runs."""
    looks = [
        [task(100, 0, "RUNNING", own=101), task(100, "1-2%1", "PENDING")],
        [task(100, 0, "FAILED", "3:0", own=101), task(100, 1, "RUNNING", own=102),
         task(100, 2, "PENDING")],
        [task(100, 1, "RUNNING", own=102), task(100, 2, "RUNNING")],
        [task(100, 2, "COMPLETED")],
    ]  # fmt: skip
    if not accounting:  # then a task may not vanish before its end was seen
        looks.insert(3, [task(100, 1, "COMPLETED", own=102), task(100, 2, "RUNNING")])
    else:
        cluster.account("100_0|FAILED|3:0", "100_1|COMPLETED|0:0", "100_2|COMPLETED|0:0")
    told = []

    def tell(line):
        told.append(line)
        if looks:
            cluster.show("100", *looks.pop(0))

    cluster.show("100", task(100, "0-2%1", "PENDING"))
    assert SlurmJob("100").follow(60, tell) == 3
    assert "100_0 FAILED, exit code 3" in told[-1]
    assert cluster.asked <= 2, "not at every look"


def test_a_chain_without_accounting_is_followed(cluster):
    """The first jobs have ended and are forgotten: the later one began, so they ended well."""
    cluster.show("12", one(12, "RUNNING"))
    job = SlurmJob.parse("10,11,12")
    assert job.state().code is None
    assert job.state().text.startswith("10 COMPLETED, 11 COMPLETED, 12 RUNNING")
    cluster.show("12", one(12, "FAILED", "2:0"))
    assert job.state().code == 2
    cluster.show("12")
    with pytest.raises(RunError, match="does not know job 10 any more"):
        job.state()
    cluster.show("10", one(10, "COMPLETED"))
    cluster.show("11", one(11, "RUNNING"))
    with pytest.raises(RunError, match="does not know job 12 any more"):
        job.state()


def test_a_followed_chain_keeps_what_it_saw(cluster):
    looks = [
        {"10": [one(10, "COMPLETED")], "11": [one(11, "RUNNING")]},
        {"10": [], "11": [one(11, "RUNNING")]},
        {"11": [one(11, "CANCELLED", "0:15")]},
    ]

    def tell(line):
        for job, rows in (looks.pop(0) if looks else {}).items():
            cluster.show(job, *rows)
        if "11 RUNNING" in line and looks:
            tell("")

    cluster.show("10", one(10, "RUNNING"))
    cluster.show("11", one(11, "PENDING"))
    assert SlurmJob.parse("10,11").follow(60, tell) == 143


# -- the submission of a chain ---------------------------------------------------------------------

SBATCH = """#!/bin/bash
n=$(cat {folder}/count); echo $((n + 1)) >{folder}/count
[ $n -lt {slow} ] || exec sleep 30
echo $((100 + n))
"""


@pytest.fixture
def chain(cluster, monkeypatch):
    """Submits the chain where sbatch answers only so often; gives error and what was cancelled."""
    (script,) = (one for one in shipped_scripts() if one.name == "chain.sh")
    limit = f"timeout {slurm_calls.COMMAND_SECONDS} "
    assert len(re.findall(f"{limit}sbatch", script.text)) == 1

    def submit(answers: int):
        (cluster.folder / "count").write_text("0")
        cluster.command("sbatch", SBATCH.replace("{slow}", str(answers)))
        cluster.command("scancel", '#!/bin/bash\necho "$@" >>{folder}/cancelled\n')
        path = cluster.folder / "chain.sh"
        path.write_text(script.text.replace(limit, "timeout 0.5 "))
        words = ["bash", str(path), "CORPUS", "RUN", "-"]
        return slurm_calls.run_slurm(words, refused=lambda said: pytest.fail(said), seconds=20)

    return submit


def test_a_submission_without_an_answer_leaves_no_job(chain, cluster):
    with pytest.raises(RunError, match=r"sbatch gave no answer .*scontrol ping"):
        chain(2)
    assert (cluster.folder / "cancelled").read_text() == "100 101\n"


def test_a_chain_that_is_answered_is_submitted(chain):
    assert re.findall(r"\d+", chain(9)) == ["100", "101", "102", "103"]


def test_the_chain_has_the_time_of_all_its_submissions(monkeypatch):
    from memo_dist.launch import slurm

    limits = []

    def run(words, refused=None, seconds=0):
        limits.append(seconds)
        return "1\n2\n"

    monkeypatch.setattr(slurm, "run_slurm", run)
    from memo_dist.config import Config

    scripts = [one for one in shipped_scripts() if one.name == "chain.sh"]
    SlurmPlan(scripts, ["bash", "chain.sh"], Config()).submit()
    calls = scripts[0].text.count("\nsubmit ") + scripts[0].text.count("] || submit ")
    assert calls == 5
    assert limits == [slurm.CHAIN_SECONDS]
    assert (calls + 1) * slurm_calls.COMMAND_SECONDS < slurm.CHAIN_SECONDS
    assert subprocess.run(["bash", "-n"], input=scripts[0].text, text=True).returncode == 0
