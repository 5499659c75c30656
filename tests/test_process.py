"""A process that ends early ends as ``sys.exit`` would: threads, exit handlers, output, code."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ENDING = """
import atexit, sys, threading, time
from memo_dist import process

process.begin()
atexit.register(lambda: print("handler"))
threading.Thread(target=lambda: (time.sleep(0.2), print("thread"))).start()
print("said", end=" ")
process.leave(7)
print("never")
"""


def run(source, **pipes):
    """With buffered output, whatever the environment says."""
    env = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
    command = [sys.executable, "-c", source]
    return subprocess.run(command, timeout=60, check=False, env=env, **pipes)


def test_threads_and_handlers_end_first_and_all_output_is_written():
    done = run(ENDING, capture_output=True, text=True)
    assert done.returncode == 7
    assert done.stdout == "said thread\nhandler\n"
    assert done.stderr == ""


@pytest.mark.parametrize("code", [0, 3])
def test_output_that_cannot_be_written_is_no_success(code):
    ending = f"from memo_dist import process\nprint('x')\nprocess.leave({code})"
    with Path("/dev/full").open("w") as full:
        assert run(ending, stdout=full).returncode == (code or 1)
