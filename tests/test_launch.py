"""`memo-dist launch`: what it would run, what it refuses, and what it runs here."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
from contextlib import contextmanager, suppress
from http.client import HTTPException
from importlib.util import find_spec
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import psutil
import pytest
from cli import memo_dist, start, wait_until
from ports import free_ports

from memo_dist.cli.main import run as run_cli
from memo_dist.config import load_config
from memo_dist.config.schema import LaunchConfig
from memo_dist.errors import RunError, UsageError
from memo_dist.io.runfolder import RunFolder
from memo_dist.launch.jobs import JobState, follow
from memo_dist.launch.render import job_script, shipped_scripts
from memo_dist.launch.requeue import check_progress
from memo_dist.launch.slurm import SlurmJob
from memo_dist.launch.verbs import parse_verb
from memo_dist.scaling.cells import partition_cells, study_cells
from memo_dist.scaling.folder import StudyFolder

ROOT = Path(__file__).parent.parent
SHIPPED = {script.name: script.text for script in shipped_scripts()}


def dry(capsys, *words):
    code = run_cli(["launch", *words])
    printed = capsys.readouterr()
    assert code == 0, printed.err
    return printed.out


def refused(capsys, *words):
    assert run_cli(["launch", *words]) == 2
    return capsys.readouterr().err


# -- the committed files ---------------------------------------------------------------------------


def test_the_committed_files_are_what_is_rendered():
    found = {file.name for file in (ROOT / "slurm").iterdir()} - {"README.md"}
    assert found == set(SHIPPED)
    for name, text in SHIPPED.items():
        assert (ROOT / "slurm" / name).read_text() == text, name


@pytest.mark.parametrize("name", SHIPPED)
def test_every_script_is_shell_and_names_itself(name):
    subprocess.run(["bash", "-n"], input=SHIPPED[name], text=True, check=True)
    assert f"slurm/{name}" in SHIPPED[name]
    assert "\n\n\n" not in SHIPPED[name]
    assert not re.search(r"^ *sleep \d+$", SHIPPED[name], re.MULTILINE)


def test_each_script_stands_in_the_readme():
    text = (ROOT / "slurm" / "README.md").read_text()
    assert not [name for name in SHIPPED if name not in text]


def test_handlers_stand_before_anything_that_takes_time():
    for name, text in SHIPPED.items():
        if name != "chain.sh":
            body = text.split("set -uo pipefail")[1]
            assert body.index("trap 'on_signal USR1' USR1") < body.index("python")
            assert "#SBATCH --requeue\n#SBATCH --signal=B:USR1@300\n" in text
            assert text.count("scontrol requeue") == 1


# -- what is rendered ------------------------------------------------------------------------------


def test_every_key_of_a_job_reaches_the_script(capsys):
    keys = {
        "nodes": ("3", "#SBATCH --nodes=3"),
        "gpus_per_node": ("8", "#SBATCH --gpus-per-node=8"),
        "cpus": ("12", "#SBATCH --cpus-per-task=12"),
        "memory": ("64G", "#SBATCH --mem=64G"),
        "partition": ("gpu", "#SBATCH --partition=gpu"),
        "account": ("me", "#SBATCH --account=me"),
        "minutes": ("90", "#SBATCH --time=90"),
        "signal_seconds": ("120", "#SBATCH --signal=B:USR1@120"),
        "job_name": ("mine", "#SBATCH --job-name=mine"),
        "log_folder": ("logs", "#SBATCH --output=logs/%x-%j.log"),
        "sbatch": ("[--qos=high]", "#SBATCH --qos=high"),
        "setup": ("[module load cuda]", "\nmodule load cuda\n"),
        "max_stalled": ("4", "--max-stalled 4 --"),
    }
    words = [f"launch.{key}={value}" for key, (value, _) in keys.items()]
    verb = ("train", "RUN", "train.batch_tokens=24576")  # a row for each of the 24 ranks
    text = dry(capsys, "slurm", "--dry-run", *words, "--", *verb)
    for key, (_, line) in keys.items():
        assert line in text, key
    assert "#SBATCH --ntasks-per-node=8" in text
    assert text.endswith("sbatch --parsable multi-node.sbatch train RUN train.batch_tokens=24576\n")
    subprocess.run(["bash", "-n"], input=text.split("# ---- command")[0], text=True, check=True)


@pytest.mark.parametrize(
    ("nodes", "verb", "script"),
    [
        (1, "train RUN", "single-node"),
        (2, "train RUN", "multi-node"),
        (1, "encode C --run RUN", "single-node"),
        (2, "encode C --run RUN", "ray"),
        (2, "synthesize C --run RUN", "ray"),
        (1, "update RUN C", "single-node"),
        (2, "update RUN C", "ray"),
        (2, "forget RUN ID", "ray"),
        (2, "rebalance RUN --shards 4", "ray"),
    ],
)
def test_the_recipe_follows_from_verb_and_nodes(nodes, verb, script, capsys):
    words = ("slurm", "--dry-run", f"launch.nodes={nodes}", "--", *verb.split())
    assert f"sbatch --parsable {script}.sbatch {verb}\n" in dry(capsys, *words)


def test_a_container_wraps_the_verb():
    pyxis = job_script("ray", LaunchConfig(nodes=2, container="a.sqsh", mounts=["/data"])).text
    assert '--container-image="a.sqsh"' in pyxis
    assert '--container-mounts="$PWD:$PWD,/data:/data"' in pyxis
    one = LaunchConfig(container="a.sif", container_runtime="apptainer", mounts=["/data"])
    apptainer = job_script("single-node", one).text
    assert 'apptainer exec --nv --bind "$PWD,/data" --pwd "$PWD" "a.sif"' in apptainer
    assert '"${inside[@]}" bash -c "$guarded"' in apptainer


def test_the_array_has_the_partitions_that_are_left(tmp_path, capsys):
    words = ("slurm", "--dry-run", "launch.recipe=array", "launch.array_at_once=2", "--")
    verb = ("synthesize", "C", "--run", str(tmp_path), "synthesis.partitions=5")
    assert "#SBATCH --array=0-4%2\n" in dry(capsys, *words, *verb)
    last = tmp_path / "synth" / "abstain"
    last.mkdir(parents=True)
    for index in (0, 1, 3):
        (last / f"part-{index}.jsonl").touch()
    assert "#SBATCH --array=2,4%2\n" in dry(capsys, *words, *verb)
    for index in (2, 4):
        (last / f"part-{index}.jsonl").touch()
    assert "all 5 partitions" in refused(capsys, *words, *verb)


def test_the_array_of_a_study_has_the_partitions_that_are_left(tmp_path, capsys):
    file, root = tmp_path / "tiny.yaml", tmp_path / "study"
    file.write_text("scale: {partitions: 3, random: {sizes: [6000], seeds: [1], lr_check: []}}")
    verb = ("scale", "run", str(file), "--run", str(root))
    words = ("slurm", "--dry-run", "launch.recipe=array", "--", *verb)
    text = dry(capsys, *words)
    assert "#SBATCH --array=0-2\n" in text
    assert '[ "$1" = scale ]' in text
    scale = load_config([file]).scale
    for cell in partition_cells(scale, 1):
        folder = StudyFolder(root).cell(cell, scale)
        folder.mkdir(parents=True)
        (folder / "result.json").write_text('{"outcome": "done"}')
    assert "#SBATCH --array=0,2\n" in dry(capsys, *words)
    everything = {cell for part in range(3) for cell in partition_cells(scale, part)}
    assert everything == set(study_cells(scale))


def test_the_chain_passes_configuration_on(tmp_path, capsys):
    file = tmp_path / "c.yaml"
    file.write_text("launch: {nodes: 2, questions: q.jsonl}\nsynthesis: {partitions: 7}\n")
    words = ("slurm", "--dry-run", "launch.recipe=chain", "--", "encode", "C", "--run", "R")
    text = dry(capsys, *words, "--config", str(file), "train.epochs=2")
    assert f"bash chain.sh C R q.jsonl --config={file} train.epochs=2\n" in text
    assert "#SBATCH --array=0-6\n" in text
    assert text.count("# ---- ") == 5


def test_only_the_stages_that_use_gpus_request_them(capsys):
    gpus = ("launch.gpus_per_node=8", "launch.recipe=chain")
    verb = ("--", "encode", "C", "--run", "R")
    scripts = {
        part.partition("\n")[0]: part
        for part in dry(capsys, "slurm", "--dry-run", *gpus, *verb).split("# ---- ")[1:]
    }
    line = "#SBATCH --gpus-per-node=8"
    assert {name for name, text in scripts.items() if line in text} == {"single-node.sbatch"}
    assert "\nsubmit merge merge.sbatch synthesize " in scripts["chain.sh"]
    assert "\nsubmit train single-node.sbatch train " in scripts["chain.sh"]
    text = dry(capsys, "slurm", "--dry-run", *gpus, *verb, "generator.kind=writer")
    array = text.split("# ---- ")[1]
    assert "#SBATCH --array=" in array
    assert line in array
    alone = ("launch.gpus_per_node=8", "launch.recipe=array", "--", "synthesize", "C")
    assert line not in dry(capsys, "slurm", "--dry-run", *alone, "--run", "R")


def test_local_torchrun_and_ray(capsys):
    verb = ("--", "train", "a run", "train.epochs=2")
    for change in (("update", "RUN", "C"), ("forget", "RUN", "ID", "--why", "a reason")):
        words = shlex.split(dry(capsys, "local", "--dry-run", "--", *change))
        assert words == [sys.executable, "-m", "memo_dist", *change]
        job = dry(capsys, "ray", "--dry-run", "launch.ray_address=http://h:8265", "--", *change)
        assert f"memo_dist {change[0]} RUN" in job
    local = shlex.split(dry(capsys, "local", "--dry-run", *verb))
    assert local == [sys.executable, "-m", "memo_dist", "train", "a run", "train.epochs=2"]
    torchrun = dry(capsys, "torchrun", "--dry-run", "launch.tasks_per_node=4", *verb)
    assert "--standalone --nproc-per-node=4" in torchrun
    several = ("torchrun", "--dry-run", "launch.nodes=2", "launch.rendezvous=h:1", *verb)
    assert "--nnodes=2 --meet=h:1 '--secret=a run/train/.meeting'" in dry(capsys, *several)
    ray = dry(capsys, "ray", "--dry-run", "launch.ray_address=http://h:8265", *verb)
    assert 'cluster.address="$RAY_ADDRESS"' in ray
    assert "working_dir" not in ray


# -- what is refused -------------------------------------------------------------------------------


MODEL = "generator.kind=openai generator.model=m generator.urls=[http://h/v1]"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("slurm", "no verb after --"),
        ("slurm -- trian RUN", "did you mean 'train'?"),
        ("slurm -- status RUN", "'status' cannot be launched"),
        ("slurm train.epochs=2 -- train RUN", "only launch.* stands before --"),
        ("slurm launch.node=2 -- train RUN", "did you mean 'launch.nodes'?"),
        ("slurm launch.recipe=multi-node -- export RUN", "is for 'train', not for 'export'"),
        ("slurm launch.recipe=array -- train RUN", "is for 'synthesize'"),
        ("slurm -- scale fit STUDY", "`scale run STUDY` can be launched"),
        ("slurm launch.recipe=chain -- train RUN", "encode CORPUS --run RUN"),
        ("slurm launch.recipe=chain -- encode C --run R --resume must", "cannot pass"),
        ("slurm launch.recipe=chain -- encode C --run R " + MODEL, "kind=openai: run `synthesize`"),
        (
            "slurm launch.recipe=array -- synthesize C --run R " + MODEL,
            "launch.recipe=array divides",
        ),
        ("slurm launch.nodes=4 launch.gpus_per_node=8 -- train RUN", "32 ranks cannot share the 4"),
        ("slurm launch.recipe=chain launch.nodes=3 -- encode C --run R", "3 ranks cannot share"),
        ("torchrun launch.gpus_per_node=3 -- train RUN", "launch.gpus_per_node)"),
        ("slurm -- train RUN train.epoch=2", "did you mean 'train.epochs'?"),
        ("torchrun -- encode C --run R", "torchrun starts training ranks"),
        ("torchrun launch.nodes=2 -- train RUN", "launch.rendezvous=HOST:PORT"),
        ("ray -- train RUN", "launch.ray_address=''"),
        ("ray launch.ray_address=http://h:99999 -- train RUN", "is no URL such as"),
    ],
)
def test_refusals(words, expected, capsys, monkeypatch):
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS", raising=False)
    assert expected in refused(capsys, *words.split())


def test_no_scheduler_here(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert run_cli(["launch", "slurm", "--", "train", "RUN"]) == 1
    assert "no sbatch here" in capsys.readouterr().err


def test_a_secret_never_reaches_a_script(capsys, monkeypatch):
    monkeypatch.setenv("GENERATOR_KEY", "sk-planted-secret")
    for target in ("slurm", "ray", "local"):
        extra = ["launch.ray_address=http://h:8265"] if target == "ray" else []
        verb = ("encode", "C", "--run", "R", "generator.api_key_env=GENERATOR_KEY")
        text = dry(capsys, target, "--dry-run", *extra, "--", *verb)
        assert "GENERATOR_KEY" in text
        assert "sk-planted" not in text


# -- parts -----------------------------------------------------------------------------------------


def test_a_verb_is_taken_apart():
    call = parse_verb(["encode", "docs", "--run=R", "--config", "a.yaml", "train.epochs=3"])
    assert (call.corpus, call.run) == (Path("docs"), Path("R"))
    assert (call.files, call.overrides) == ((Path("a.yaml"),), ("train.epochs=3",))
    assert parse_verb(["train", "R"]).run == Path("R")
    assert parse_verb(["demo", "--full"]).run == Path("runs/demo-full")
    assert parse_verb(["ask", "R", "is a=b?"]).overrides == ()
    with pytest.raises(UsageError, match="--run needs a value"):
        parse_verb(["encode", "C", "--run"])


def test_requeues_without_progress_end(tmp_path):
    run = RunFolder(tmp_path)
    assert "0 without progress" in check_progress(run, "7", 0, 1)
    assert "1 without progress" in check_progress(run, "7", 1, 1)
    with pytest.raises(RunError, match=r"job 7 is not requeued: 2 lives in a row"):
        check_progress(run, "7", 2, 1)
    step = run.train(0) / "checkpoints" / "step-5"
    step.mkdir(parents=True)
    (step / "COMPLETE").touch()
    assert "0 without progress" in check_progress(run, "7", 3, 1)
    assert "0 without progress" in check_progress(run, "8", 0, 1)


class _Waiting:
    """A job that stays in the queue, and what was done to it."""

    def __init__(self):
        self.cancelled = False

    def __str__(self):
        return "job"

    def state(self):
        return JobState("PENDING (Resources)", True, None)

    def missing(self):
        return "want 4 node(s), have 2"

    def cancel(self):
        self.cancelled = True


def test_a_job_that_never_starts_is_cancelled(monkeypatch):
    monkeypatch.setattr("memo_dist.launch.jobs.POLL_SECONDS", 0.01)
    job, lines = _Waiting(), []
    with pytest.raises(RunError, match=r"did not start .*launch.queue_minutes.*want 4 .*have 2"):
        follow(job, 0.05, lines.append)
    assert job.cancelled
    assert lines == ["job: PENDING (Resources)"]


def test_jobs_are_read_as_they_are_printed():
    assert str(SlurmJob.parse("4,5,6")) == "slurm:4,5,6"
    assert SlurmJob.parse("6").before == ()
    with pytest.raises(UsageError, match="slurm:NUMBER"):
        SlurmJob.parse("x")


# -- what runs here --------------------------------------------------------------------------------


def test_the_exit_code_is_the_verbs(tmp_path):
    done = memo_dist("launch", "local", "--", "train", tmp_path / "none", new=True)
    assert done.returncode == 2
    assert "is not a run folder" in done.stderr


def test_torchrun_ends_with_its_ranks_code(tmp_path):
    done = memo_dist("launch", "torchrun", "--", "train", tmp_path / "none")
    assert done.returncode == 2, done.stderr
    assert "is not a run folder" in done.stderr


@contextmanager
def job_server(folder, monkeypatch):
    """A real Ray cluster of one node with its job server and a token; gives the address."""
    token = folder / "token"
    token.write_text("b5" * 32)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
    gcs, dashboard, agent = free_ports(3)
    words = [
        "--head", "--block", "--disable-usage-stats", "--num-cpus=1", f"--port={gcs}",
        "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}", f"--temp-dir={folder / 'r'}",
        f"--dashboard-agent-listen-port={agent}",
    ]  # fmt: skip
    ray = Path(sys.executable).with_name("ray")
    log = folder / "head.log"
    with log.open("w") as out:
        head = subprocess.Popen(
            [ray, "start", *words], stdout=out, stderr=out, stdin=subprocess.DEVNULL
        )
    children = []
    try:
        wait_until(lambda: answers(dashboard), 120, f"the job server; {log.read_text()}", head)
        children = psutil.Process(head.pid).children(recursive=True)
        yield f"http://127.0.0.1:{dashboard}"
    finally:
        head.send_signal(signal.SIGTERM)
        try:
            head.wait(30)
        finally:
            for process in [head, *children]:
                with suppress(psutil.NoSuchProcess, ProcessLookupError):
                    process.kill()
            head.wait()


def answers(port):
    try:
        urlopen(f"http://127.0.0.1:{port}/api/version", timeout=5)
    except HTTPError as error:
        return error.code == 401  # it is there and asks for the token
    except (OSError, HTTPException):
        return False
    return True


@pytest.mark.skipif(
    not all(find_spec(name) for name in ("aiohttp_cors", "opencensus")),
    reason="a job server needs pip install -c constraints.txt 'ray[default]', which the test extra"
    " leaves out: its agents slow every start of Ray",
)
def test_a_ray_job_uploads_nothing_and_ends_with_the_verbs_code(monkeypatch):
    monkeypatch.setenv("GENERATOR_KEY", "sk-planted-secret")
    # Short: Ray's sockets lie inside.
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        folder = Path(name)
        with job_server(folder, monkeypatch) as url:
            address = f"launch.ray_address={url}"
            words = ("launch", "ray", "--wait", address, "--", "train", folder / "no")
            done = memo_dist(*words, seconds=180)
            assert done.returncode == 2, done.stderr
            assert "exit code 2" in done.stderr
            assert "is not a run folder" in done.stderr, "the job's own last lines"
            ident = re.search(r"ray:\S+@" + re.escape(url), done.stdout)[0]
            assert memo_dist("status", ident, "--follow").returncode == 2

            token = {"Authorization": f"Bearer {(folder / 'token').read_text()}"}
            with urlopen(Request(f"{url}/api/jobs/", headers=token), timeout=10) as reply:
                (job,) = (j for j in json.load(reply) if j["submission_id"] in ident)
            assert set(job["runtime_env"]) <= {"env_vars", "_ray_commit"}
            assert "sk-planted" not in json.dumps(job)

            (folder / "wrong").write_text("c6" * 32)
            done = memo_dist(*words, RAY_AUTH_TOKEN_PATH=str(folder / "wrong"))
            assert done.returncode == 1
            assert f"{address} asks for its token" in done.stderr
            assert "c6c6" not in done.stderr + done.stdout


def test_no_job_server(capsys):
    (port,) = free_ports()
    words = ("ray", f"launch.ray_address=http://127.0.0.1:{port}", "--", "train", "RUN")
    assert run_cli(["launch", *words]) == 1
    assert f"launch.ray_address=http://127.0.0.1:{port}" in capsys.readouterr().err


LEAVING = """
import os, signal, sys
from memo_dist.cluster.stop import STOP
class Late:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGUSR1)
late = Late()
STOP.install()
STOP.leave()
sys.exit(75)
"""


def test_a_signal_during_the_teardown_keeps_the_exit_code():
    """Python puts the default action back before it ends; it would turn a 0 or 75 into 138."""
    assert subprocess.run([sys.executable, "-c", LEAVING], timeout=60).returncode == 75


RANK = """
import pathlib, signal, sys, time
signal.signal(signal.SIGUSR1, lambda *_: sys.exit(75))
pathlib.Path(sys.argv[1]).touch()
time.sleep(60)
"""


def test_torchrun_passes_a_stop_request_on(tmp_path):
    script, ready = tmp_path / "rank.py", tmp_path / "ready"
    script.write_text(RANK)
    command = [sys.executable, "-m", "memo_dist.cluster.torchrun", "--standalone"]
    process = subprocess.Popen([*command, str(script), str(ready)], env=os.environ)
    wait_until(ready.exists, 60, "a rank")
    process.send_signal(signal.SIGUSR1)
    assert process.wait(60) == 75


def test_local_passes_a_signal_on(tmp_path):
    log = tmp_path / "log"
    process = start("launch", "local", "--", "demo", "--run", tmp_path / "run", log=log)
    wait_until(lambda: (tmp_path / "run").exists(), 60, "the demo", process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(90) == 75, log.read_text()
