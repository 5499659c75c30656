"""One process at a time: a lock on a file, with a deadline and a message about the holder."""

import errno
import fcntl
import multiprocessing
import os
import platform
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from memo_dist.errors import RunError
from memo_dist.io import leases
from memo_dist.io.locks import file_lock, holder

_context = multiprocessing.get_context("fork")


def busy(holder):
    return RunError(f"held by {holder or 'unknown'}")


def hold(path: Path, shared: bool, ready, seconds: float) -> None:
    with file_lock(path, 0.0, busy, shared) as stream:
        stream.write("somebody")
        stream.flush()
        ready.set()
        time.sleep(seconds)


def no_flock(*_):
    raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))


@pytest.fixture(params=["flock", "leases"])
def held(tmp_path, request, monkeypatch):
    """A lock's file, and a function that makes another process hold it."""
    if request.param == "leases":
        monkeypatch.setattr(fcntl, "flock", no_flock)
    path, holders = tmp_path / "lock", []

    def start(seconds: float, shared: bool = False):
        ready = _context.Event()
        process = _context.Process(target=hold, args=(path, shared, ready, seconds))
        process.start()
        holders.append(process)
        assert ready.wait(30)
        return process

    yield path, start
    for process in holders:
        process.kill()
        process.join()


def test_a_held_lock_is_refused_after_the_deadline_with_what_the_holder_wrote(held):
    path, start = held
    start(60)
    begun = time.monotonic()
    with pytest.raises(RunError, match=r"held by (somebody|\d+ on )"), file_lock(path, 0.5, busy):
        pass
    assert time.monotonic() - begun >= 0.5


def test_a_lock_that_becomes_free_in_time_is_taken(held):
    path, start = held
    start(0.5)
    with file_lock(path, 30, busy):
        pass


def test_a_killed_holder_releases_it(held):
    path, start = held
    process = start(60)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    with file_lock(path, 0.0, busy):
        pass


def test_shared_locks_stand_beside_each_other_and_keep_a_sole_one_out(held):
    path, start = held
    start(60, shared=True)
    with file_lock(path, 0.0, busy, shared=True):
        pass
    with pytest.raises(RunError), file_lock(path, 0.0, busy):
        pass


def test_an_error_inside_the_block_releases_it(tmp_path):
    with pytest.raises(ValueError, match="mine"), file_lock(tmp_path / "lock", 0.0, busy):
        raise ValueError("mine")
    with file_lock(tmp_path / "lock", 0.0, busy):
        pass


# -- file systems without flock --------------------------------------------------------------------


def dead_pid():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait(60)
    return process.pid


def lease_of(path, host, age, pid=1):
    """A lease that another host or container left."""
    folder = Path(f"{path}.leases")
    folder.mkdir()
    (folder / "sole").write_text(f'{{"host": "{host}", "place": "0badcafe", "pid": {pid}}}')
    then = time.time() - age
    os.utime(folder / "sole", (then, then))


def test_a_lease_is_told_and_leaves_nothing(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(fcntl, "flock", no_flock)
    with file_lock(tmp_path / "lock", 0.0, busy):
        assert (tmp_path / "lock.leases" / "sole").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["lock"]
    assert "flock" in caplog.text
    assert "lease file" in caplog.text


def test_another_hosts_lease_holds_while_it_is_touched(tmp_path, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", no_flock)
    lease_of(tmp_path / "lock", "node7", age=1.0)
    with pytest.raises(RunError, match="held by 1 on node7"):
        file_lock(tmp_path / "lock", 0.0, busy).__enter__()


def test_a_container_of_this_hosts_name_has_processes_of_its_own(tmp_path, monkeypatch):
    """Its process 1 is another one, or none here: only the heartbeat tells."""
    monkeypatch.setattr(fcntl, "flock", no_flock)
    lease_of(tmp_path / "lock", platform.node(), age=1.0, pid=dead_pid())
    with pytest.raises(RunError, match="held by"):
        file_lock(tmp_path / "lock", 0.0, busy).__enter__()


def test_another_hosts_lease_that_is_not_touched_any_more_is_over(tmp_path, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", no_flock)
    lease_of(tmp_path / "lock", "node7", age=leases.STALE_SECONDS + 30)
    with file_lock(tmp_path / "lock", 0.0, busy):
        pass


def test_a_holder_touches_its_lease(tmp_path, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", no_flock)
    monkeypatch.setattr(leases, "BEAT_SECONDS", 0.05)
    with file_lock(tmp_path / "lock", 0.0, busy):
        path = tmp_path / "lock.leases" / "sole"
        os.utime(path, (0, 0))
        deadline = time.monotonic() + 20
        while path.stat().st_mtime == 0:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_other_errors_of_a_lock_are_not_taken_for_a_missing_one(tmp_path, monkeypatch):
    def broken(*_):
        raise OSError(errno.EIO, "bad disk")

    monkeypatch.setattr(fcntl, "flock", broken)
    with pytest.raises(OSError, match="bad disk"), file_lock(tmp_path / "lock", 0.0, busy):
        pass


def test_a_lock_names_the_host():
    assert holder() == f"{os.getpid()} on {platform.node()}"
