"""One process at a time: a lock on a file, with a deadline and a message about the holder."""

import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

from memo_dist.errors import RunError
from memo_dist.io.locks import file_lock

_context = multiprocessing.get_context("fork")


def busy(holder):
    return RunError(f"held by {holder or 'unknown'}")


def hold(path: Path, shared: bool, ready, seconds: float) -> None:
    with file_lock(path, 0.0, busy, shared) as stream:
        stream.write("somebody")
        stream.flush()
        ready.set()
        time.sleep(seconds)


@pytest.fixture
def held(tmp_path):
    """A lock's file, and a function that makes another process hold it."""
    path, holders = tmp_path / "lock", []

    def start(seconds: float, shared: bool = False):
        ready = _context.Event()
        holder = _context.Process(target=hold, args=(path, shared, ready, seconds))
        holder.start()
        holders.append(holder)
        assert ready.wait(30)
        return holder

    yield path, start
    for holder in holders:
        holder.kill()
        holder.join()


def test_a_held_lock_is_refused_after_the_deadline_with_what_the_holder_wrote(held):
    path, start = held
    start(60)
    begun = time.monotonic()
    with pytest.raises(RunError, match="held by somebody"), file_lock(path, 0.5, busy):
        pass
    assert time.monotonic() - begun >= 0.5


def test_a_lock_that_becomes_free_in_time_is_taken(held):
    path, start = held
    start(0.5)
    with file_lock(path, 30, busy):
        pass


def test_a_killed_holder_releases_it(held):
    path, start = held
    holder = start(60)
    os.kill(holder.pid, signal.SIGKILL)
    holder.join()
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
