"""What killed launches leave is told, and cleaned by the next start: ours only."""

import os
import subprocess
import sys

import pytest

from memo_dist.cluster import guard, leftovers, resources
from memo_dist.cluster.ray_local import TEMP_PREFIX
from memo_dist.config import Config
from memo_dist.errors import StoppedError
from memo_dist.io import atomic
from memo_dist.runs import open_run


def dead_pid():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait(60)
    return process.pid


def session(parent, pid, **other):
    folder = parent / f"{TEMP_PREFIX}{pid}-{len(other)}"
    folder.mkdir()
    leftovers.claim(folder)
    row = atomic.read_json(folder / leftovers.OWNER)
    atomic.write_json(folder / leftovers.OWNER, {**row, "pid": pid, **other})
    return folder


def test_sessions_of_dead_processes_go_and_others_stay(tmp_path):
    gone = session(tmp_path, dead_pid())
    alive = session(tmp_path, os.getpid())
    elsewhere = session(tmp_path, dead_pid(), place="0badcafe")
    unknown = tmp_path / f"{TEMP_PREFIX}x"
    unknown.mkdir()
    foreign = tmp_path / "ray"
    foreign.mkdir()
    leftovers.clean_sessions(tmp_path, TEMP_PREFIX)
    assert not gone.exists()
    assert all(path.exists() for path in (alive, elsewhere, unknown, foreign))


def test_a_launch_that_looks_at_a_dead_session_is_not_taken_for_a_part_of_it(tmp_path):
    """The guard of a killed launch killed the next one while that read the session's owner."""
    folder = session(tmp_path, dead_pid())
    log = folder / "session_1" / "logs" / "raylet.out"
    log.parent.mkdir(parents=True)
    log.touch()
    code = "import sys; held = open(sys.argv[1]); print(flush=True); sys.stdin.read()"
    processes = {
        path: subprocess.Popen(
            [sys.executable, "-c", code, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        for path in (folder / leftovers.OWNER, log)
    }
    for process in processes.values():
        process.stdout.readline()
    found = set(guard.marked_processes(str(folder)))
    for process in processes.values():
        process.communicate()
    assert {path for path, process in processes.items() if process.pid in found} == {log}


def killed_write(path):
    """A write that is killed before the rename; returns its temporary file."""
    code = f"""
import os, pathlib
from memo_dist.io import atomic
path = pathlib.Path({str(path)!r})
atomic.write_with(path, lambda stream: os.kill(os.getpid(), 9))
"""
    subprocess.run([sys.executable, "-c", code], check=False, timeout=60)
    (left,) = path.parent.glob(".tmp-*")
    return left


def test_a_run_is_cleaned_of_what_killed_writers_left_when_it_is_opened(tmp_path, caplog):
    root = tmp_path / "run"
    with open_run(root, Config(), "auto"):
        pass
    left = killed_write(root / "corpus" / "documents.jsonl")
    mine = root / f"{atomic.temp_prefix()}file"
    foreign = root / ".tmp-somebody"
    mine.touch()
    foreign.touch()
    with open_run(root, Config(), "auto"):
        assert not left.exists()
    assert mine.exists()
    assert foreign.exists()
    assert "was killed" not in caplog.text


@pytest.mark.parametrize("error", [None, StoppedError("later"), KeyboardInterrupt()])
def test_a_launch_that_ends_by_itself_is_not_taken_for_a_killed_one(tmp_path, caplog, error):
    try:
        with open_run(tmp_path / "run", Config(), "auto"):
            if error:
                raise error
    except (StoppedError, KeyboardInterrupt):
        pass
    with open_run(tmp_path / "run", Config(), "auto"):
        pass
    assert "was killed" not in caplog.text


def test_the_launch_after_a_killed_one_says_so(tmp_path, caplog):
    code = f"""
import os, pathlib
from memo_dist.config import Config
from memo_dist.runs import open_run
with open_run(pathlib.Path({str(tmp_path / "run")!r}), Config(), "auto"):
    os.kill(os.getpid(), 9)
"""
    subprocess.run([sys.executable, "-c", code], check=False, timeout=60)
    with open_run(tmp_path / "run", Config(), "auto"):
        pass
    assert "the launch before, process" in caplog.text
    assert os.uname().nodename in caplog.text


# -- memory ----------------------------------------------------------------------------------------


@pytest.fixture
def cgroup(tmp_path, monkeypatch):
    """This process in a nested memory cgroup, of version 1 or 2."""

    def make(line, folder, **values):
        monkeypatch.setattr(resources, "CGROUPS", tmp_path)
        monkeypatch.setattr(resources, "PROC_CGROUP", tmp_path / "cgroup")
        (tmp_path / "cgroup").write_text(f"1:cpu:/x\n{line}\n")
        (tmp_path / folder).mkdir(parents=True)
        for name, text in values.items():
            (tmp_path / folder / name.replace("__", ".")).write_text(text)

    return make


@pytest.mark.parametrize(
    ("line", "folder", "limit", "counter"),
    [
        ("0::/user/job", "user/job", "memory__max", "memory__events"),
        ("4:memory:/job/7", "memory/job/7", "memory__limit_in_bytes", "memory__oom_control"),
    ],
)
def test_limit_and_kills_of_a_nested_cgroup(cgroup, line, folder, limit, counter):
    cgroup(line, folder, **{limit: f"{2**30}\n", counter: "oom_kill_disable 0\noom_kill 3\n"})
    assert resources.usable_memory() == 2**30
    assert resources.memory_limit() == "1.00 GiB, the cgroup's limit"
    assert resources.oom_kills() == 3


def test_kills_of_other_jobs_do_not_count(cgroup, tmp_path):
    """The cgroups above count the kills of everybody below them."""
    cgroup("0::/user/job", "user/job", memory__events="oom_kill 1\n")
    (tmp_path / "user" / "memory.events").write_text("oom_kill 5\n")
    assert resources.oom_counters() == [tmp_path / "user/job/memory.events"]
    assert resources.oom_kills() == 1


def test_a_container_counts_in_the_cgroup_that_it_sees(cgroup, tmp_path):
    """Its own path is the host's, which is not mounted there."""
    cgroup("0::/docker/7", "elsewhere")
    assert resources.oom_kills() == 0
    (tmp_path / "memory.events").write_text("oom_kill 2\n")
    assert resources.oom_kills() == 2


def test_the_guard_says_who_was_killed_by_what_limit(tmp_path):
    counter = tmp_path / "memory.events"
    counter.write_text("oom 0\noom_kill 0\n")
    (tmp_path / "session").mkdir()
    code = f"""
import os, subprocess, sys, time
watcher = subprocess.Popen([sys.executable, "-IS", {guard.__file__!r}, str(os.getpid()),
    {str(tmp_path / "session")!r}, "1.00 GiB, the cgroup's limit", {str(counter)!r}])
time.sleep(1)
open({str(counter)!r}, "w").write("oom 1\\noom_kill 1\\n")
os.kill(os.getpid(), 9)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )
    assert "was killed: out of memory (1.00 GiB, the cgroup's limit)" in done.stderr
    assert "train.micro_batch_tokens" in done.stderr
    assert not (tmp_path / "session").exists()
