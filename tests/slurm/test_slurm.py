"""Jobs on a real Slurm cluster of two nodes, through the real command line.

The order matters: later tests go on from the reflections that the chain has left, and the job
that waits for its time limit runs beside the others.
"""

from __future__ import annotations

import re
import shutil
import signal
import threading
import time
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import psutil
import pytest
from cli import TINY, tiny_questions, wait_until
from slurm_cluster import find

from memo_dist.io import atomic
from memo_dist.io.hashing import hash_file
from memo_dist.training.job import TrainJob
from memo_dist.training.ledger import lineage

JOB = ("launch.minutes=50", "launch.memory=1500M")
PATIENT = "cluster.start_timeout=900"  # the tests may share the machine with other work
TINY4 = (*(word for word in TINY if "partitions" not in word), "synthesis.partitions=4")
SECONDS = 1500
WEIGHTS = Path("train/shard-0/final/model.safetensors")

# -- all stages as dependent jobs ------------------------------------------------------------------


@pytest.fixture(scope="module")
def chain(cluster, corpus):
    """The whole chain; one array task fails in its first life: its Python does not start."""
    run, questions = cluster.work / "chain", tiny_questions(cluster.work / "questions.jsonl")
    fail = '[ "${SLURM_ARRAY_TASK_ID:-}$life" != 20 ] || export PYTHONHASHSEED=broken'
    code, said = cluster.memo_dist(
        "launch", "slurm", "--wait", "launch.recipe=chain", "launch.nodes=2", *JOB,
        f"launch.questions={questions}", f"launch.setup=['{fail}']",
        "--", "encode", corpus, "--run", run, *TINY4, "evaluate.baselines=[]", seconds=2 * SECONDS,
    )  # fmt: skip
    assert code == 0, f"{said}\n{cluster.logs()}"
    ids = re.findall(r"\d+", re.search(r"^slurm:([\d,]+)$", said, re.MULTILINE)[1])
    return run, ids


def test_the_chain_ends_in_scores(chain, cluster):
    run, ids = chain
    assert len(ids) == 5
    scores = atomic.read_json(next((run / "eval").glob("*/scores.json")))
    assert scores["direct"]["n"] > 0
    times = [cluster.job(ident) for ident in ids]
    assert all(row["ExitCode"] == "0:0" for row in times)
    for before, after in pairwise(times):
        assert before["EndTime"] <= after["StartTime"]


def test_only_the_failed_array_task_was_started_again(chain, cluster):
    _, ids = chain
    for task in range(4):
        log = cluster.log(f"{ids[0]}_{task}")
        assert f"partition {task} of 4:" in log
        assert ("retry 1 of 2 of this partition alone" in log) == (task == 2)
        assert log.count(": starts on") == (2 if task == 2 else 1)


def test_training_ran_on_slurms_ranks_of_two_nodes(chain, cluster):
    run, ids = chain
    assert cluster.job(ids[2])["NodeList"] == "node[1-2]"
    assert atomic.read_json(run / "train/shard-0/final/state.json")["world_size"] == 2
    for ident in ids[1:]:
        cluster.assert_nothing_left(ident)


# -- a job that is signalled before its time limit -------------------------------------------------


@pytest.fixture(scope="module")
def signalled(chain, cluster):
    """A training under `--time=3 --signal=B:USR1@90`, made slow: frozen until Slurm signals it."""
    run = untrained(chain[0], cluster.work / "signalled")
    ident = cluster.submit(
        "launch.minutes=3", "launch.signal_seconds=90", "launch.memory=1500M",
        "launch.max_stalled=4",
        "--", "train", run, "cluster.launcher=process", "train.checkpoint_steps=0",
    )  # fmt: skip
    thread = threading.Thread(target=freeze_until_signal, args=(cluster, ident, run), daemon=True)
    thread.start()
    return run, ident, thread


def freeze_until_signal(cluster, ident, run):
    process = wait_until(
        lambda: step_of(run) >= 3 and find(cluster.processes(ident), "memo_dist", "train"),
        SECONDS, "three steps",
    )  # fmt: skip
    process.send_signal(signal.SIGSTOP)
    try:
        cluster.wait_log(ident, "USR1 after", SECONDS)
    finally:
        process.send_signal(signal.SIGCONT)


def test_a_plain_process_trains_the_same_run(chain, cluster, signalled):
    """The unbroken run that the signalled one is compared with; started by `launch local`."""
    run = untrained(chain[0], cluster.work / "unbroken")
    words = ("train", run, "cluster.launcher=process", "train.checkpoint_steps=0")
    code, said = cluster.memo_dist("launch", "local", "--", *words, seconds=SECONDS)
    assert code == 0, said


# -- Ray over the nodes of a job -------------------------------------------------------------------


def test_ray_over_two_nodes_synthesizes_and_trains(chain, cluster, corpus, signalled):
    run = cluster.work / "ray"
    ident = cluster.submit(
        "launch.nodes=2", "launch.cpus=1", *JOB,
        "--", "encode", corpus, "--run", run, *TINY4, "cluster.workers=2", PATIENT,
    )  # fmt: skip
    wait_until(lambda: step_of(run) >= 1 or ended(cluster, ident), SECONDS, "training under Ray")
    nodes = {
        node
        for node in ("node1", "node2")
        if find(cluster.processes(ident, node), "RayTrainWorker")
    }
    words = [" ".join(cmdline(p)) for p in cluster.processes(ident)]
    token = next((cluster.work / ".memo-dist").glob("*/token"))
    assert token.stat().st_mode & 0o777 == 0o600
    secret = token.read_text()
    row = cluster.wait_job(ident, SECONDS)
    log = cluster.log(ident)
    assert row["ExitCode"] == "0:0", log
    assert nodes == {"node1", "node2"}
    assert secret not in log
    assert not [word for word in words if secret in word]
    assert hash_file(run / "reflections.jsonl") == hash_file(chain[0] / "reflections.jsonl")
    assert (run / "memory" / "bank.json").exists()
    cluster.assert_nothing_left(ident)


@pytest.mark.long
def test_ray_started_by_symmetric_run(cluster, corpus):
    run = cluster.work / "symmetric"
    ident = cluster.submit(
        "launch.nodes=2", "launch.cpus=1", "launch.ray_start=symmetric", *JOB,
        "--", "encode", corpus, "--run", run, *TINY4, "cluster.workers=2", PATIENT,
    )  # fmt: skip
    row = cluster.wait_job(ident, SECONDS)
    assert row["ExitCode"] == "0:0", cluster.log(ident)
    assert (run / "memory" / "bank.json").exists()
    cluster.assert_nothing_left(ident)


def test_two_jobs_on_one_node_and_a_run_that_changes_its_launcher(chain, cluster):
    """One is cancelled; the other one finishes what a plain process began."""
    run = untrained(chain[0], cluster.work / "moved")
    words = ("train", run, "cluster.launcher=process", "train.checkpoint_steps=0")
    process = cluster.start_command("launch", "local", "--", *words)
    wait_until(lambda: step_of(run) >= 3, SECONDS, "three steps", process)
    process.send_signal(signal.SIGUSR1)
    assert process.wait(SECONDS) == 75, process.stdout.read()
    process.stdout.close()

    other = untrained(chain[0], cluster.work / "cancelled")
    here = ("launch.recipe=ray", "launch.cpus=1", "launch.sbatch=[--nodelist=node1]", *JOB)
    steps = ("train.checkpoint_steps=0", PATIENT)
    first = cluster.submit(*here, "--", "train", run, "cluster.launcher=ray", *steps)
    second = cluster.submit(*here, "--", "train", other, "cluster.launcher=ray", *steps)
    for ident in (first, second):
        raylet = wait_until(
            lambda ident=ident: find(cluster.processes(ident), "raylet/raylet"), SECONDS, "a raylet"
        )
        assert raylet.environ()["SLURMD_NODENAME"] == "node1"
    cluster.slurm("scancel", second)
    assert cluster.wait_job(second, 60)["JobState"] == "CANCELLED"
    wait_until(lambda: not cluster.processes(second), 30, "the end of the cancelled job's Ray")
    assert cluster.wait_job(first, SECONDS)["ExitCode"] == "0:0", cluster.log(first)
    cluster.assert_nothing_left(first)
    shard = "train/shard-0"
    job = TrainJob.from_json(atomic.read_json(run / shard / "job.json"))
    found, wanted = (lineage(r / shard, job.identity) for r in (run, cluster.work / "unbroken"))
    assert found.positions == wanted.positions
    assert len(found.commits) == 2


# -- failures: each ends within its deadline, says have and want, and leaves nothing ---------------


def test_a_wrong_partition_is_refused_with_those_that_exist(cluster):
    words = ("launch.partition=nope", "--", "train", "RUN")
    code, said = cluster.memo_dist("launch", "slurm", *words)
    assert code == 2
    assert "invalid partition" in said
    assert "launch.partition; partitions here: debug" in said
    code, said = cluster.memo_dist("launch", "slurm", "launch.nodes=4", "--", "train", "RUN")
    assert code == 2
    assert "have 2 node(s) of 4 CPUs, 8000 MB" in said


def test_a_node_that_never_comes_is_not_waited_for(cluster):
    drain = "scontrol update nodename=node2 state=drain reason=test"
    cluster.slurm(*drain.split())
    try:
        code, said = cluster.memo_dist(
            "launch", "slurm", "--wait", "launch.queue_minutes=0.05", "launch.nodes=2", *JOB,
            "--", "train", "RUN",
        )  # fmt: skip
    finally:
        cluster.slurm("scontrol", "update", "nodename=node2", "state=resume")
    assert code == 1
    assert re.search(
        r"launch.queue_minutes\) and was cancelled: .*want 2.* have \d idle of 2", said
    )
    assert cluster.job(re.search(r"slurm:(\d+)", said)[1])["JobState"] == "CANCELLED"


def test_a_rank_that_never_comes_is_named(chain, cluster):
    """The second rank is frozen as soon as it is there."""
    run = untrained(chain[0], cluster.work / "lonely")
    ident = cluster.submit(
        "launch.nodes=2", "launch.sbatch=[--begin=now+15]", *JOB,  # so that nothing is missed
        "--", "train", run, "cluster.start_timeout=10",
    )  # fmt: skip
    rank = wait_until(
        lambda: find(cluster.processes(ident, "node2"), "memo_dist", "train"), SECONDS, "a rank"
    )
    rank.send_signal(signal.SIGSTOP)
    row = cluster.wait_job(ident, SECONDS)
    assert row["ExitCode"] != "0:0"
    assert "1/2 ranks are there after 10 s (cluster.start_timeout), rank(s) 1" in cluster.log(ident)
    cluster.assert_nothing_left(ident)


STUDY = """
scale: {partitions: 2, bootstrap: 20, measurements: 2, random: {vocabulary: 16, length: 16,
  least_layers: 1, sizes: [4000, 8000], loads: [0.5, 2.0], exposures: [20], seeds: [1],
  lr_check: []}}
"""


def test_a_study_as_an_array_and_its_fit(cluster):
    file, root = cluster.work / "tiny.yaml", cluster.work / "study"
    file.write_text(STUDY)
    words = ("scale", "run", file, "--run", root, PATIENT)
    code, said = cluster.memo_dist(
        "launch", "slurm", "--wait", "launch.recipe=array", *JOB, "--", *words, seconds=SECONDS
    )
    assert code == 0, f"{said}\n{cluster.logs()}"
    done = {path: path.stat().st_mtime_ns for path in root.glob("cells/*/result.json")}
    assert len(done) == 4
    assert not (root / "fit.json").exists()
    code, said = cluster.memo_dist(*words, seconds=SECONDS)
    assert code == 0, said
    assert {path: path.stat().st_mtime_ns for path in done} == done
    assert (root / "fit.json").exists()


def test_a_full_disk_ends_the_job_with_a_message(cluster, corpus):
    run = cluster.work / "small-disk" / "run"
    words = ("synthesize", corpus, "--run", run, *TINY4)
    ident = cluster.submit("launch.recipe=array", "launch.retries=0", *JOB, "--", *words)
    # Partitions of few documents may be empty: theirs is nothing to write.
    codes = {k: cluster.wait_job(f"{ident}_{k}", SECONDS)["ExitCode"] for k in range(4)}
    partitions = atomic.read_json(run / "synth" / "direct" / "manifest.json")["partitions"]
    full = [k for k, units in enumerate(partitions) if units]
    assert full
    for k, code in codes.items():
        assert code == "1:0" or (code == "0:0" and k not in full), cluster.logs()
        assert code == "0:0" or "no space left to write" in cluster.log(f"{ident}_{k}")
    cluster.slurm("scancel", ident)


def test_a_head_that_dies_ends_the_job(cluster, corpus):
    ident = cluster.submit(
        "launch.nodes=2", "launch.cpus=1", *JOB,
        "--", "synthesize", corpus, "--run", cluster.work / "headless", *TINY4, PATIENT,
    )  # fmt: skip
    head = wait_until(
        lambda: find(cluster.processes(ident, "node2"), "raylet/raylet")
        and find(cluster.processes(ident, "node1"), "gcs_server"),
        SECONDS, "Ray on both nodes",
    )  # fmt: skip
    head.kill()
    killed = time.monotonic()
    row = cluster.wait_job(ident, 150)
    assert row["ExitCode"] != "0:0"
    assert "Ray's head on node1 ended: want 1, have 0" in cluster.log(ident)
    assert time.monotonic() - killed < 90
    cluster.assert_nothing_left(ident)


# -- the end of the signalled job ------------------------------------------------------------------


def test_the_signalled_job_saved_requeued_itself_and_ended_equal(signalled, cluster):
    run, ident, thread = signalled
    row = cluster.wait_job(ident, SECONDS)
    thread.join(10)
    log = cluster.log(ident)
    assert row["JobState"] == "COMPLETED", log
    lives = int(row["Restarts"])  # 1; on a busy machine the second life may run out of time too
    assert lives >= 1
    assert log.count("back into the queue") == lives
    assert "life 0: ended with code 75" in log
    assert f"life {lives}: ended with code 0" in log
    assert hash_file(run / WEIGHTS) == hash_file(cluster.work / "unbroken" / WEIGHTS)
    requeues = atomic.read_json(run / "logs/requeues.json")["requeues"]
    assert [row["life"] for row in requeues] == list(range(lives))
    assert "COMPLETED" in cluster.memo_dist("status", f"slurm:{ident}")[1]
    cluster.assert_nothing_left(ident)


def untrained(source: Path, target: Path) -> Path:
    """A copy of a run up to its reflections."""
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("shard-0", "memory", "eval"))
    return target


def step_of(run: Path) -> int:
    status = run / "train" / "shard-0" / "STATUS.json"
    return atomic.read_json(status)["step"] if status.exists() else 0


def ended(cluster, ident: str) -> bool:
    return cluster.job(ident)["JobState"] not in ("PENDING", "RUNNING", "CONFIGURING")


def cmdline(process: psutil.Process) -> list[str]:
    with suppress(psutil.Error):
        return process.cmdline()
    return []
