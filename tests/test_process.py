"""A process that ends early ends as ``sys.exit`` would: threads, exit handlers, output, code."""

import gc
import os
import subprocess
import sys
from pathlib import Path

import pytest

from memo_dist import process

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
        done = run(ending, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == (code or 1)
    assert done.stderr == "memo-dist: output could not be written: No space left on device\n"


@pytest.mark.parametrize("code", [0, 75])
@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_streams_that_are_not_there_change_no_code(closed, code):
    ending = f"from memo_dist import process; print('x'); process.leave({code})"
    done = subprocess.run(
        ["sh", "-c", f'"{sys.executable}" -c "{ending}" {closed}'],
        timeout=60, check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == code
    assert done.stderr == ""


def test_imports_leave_the_collector_as_it_was():
    before, frozen = gc.get_threshold(), gc.get_freeze_count()
    try:
        with process.imports():
            assert gc.get_threshold()[0] > before[0]
        assert gc.get_threshold() == before
        assert gc.get_freeze_count() > frozen
    finally:
        gc.unfreeze()


def test_synthesis_needs_no_torch():
    """Whose import takes longer than reading a small corpus."""
    code = "import sys, memo_dist.pipeline, memo_dist.cli.synthesize\n"
    code += "print({'torch', 'transformers', 'deepspeed'} & {*sys.modules})"
    assert run(code, capture_output=True, text=True).stdout == "set()\n"


def test_a_current_folder_that_is_gone_is_told(tmp_path):
    """torch's libraries end the process there, with a message of their own."""
    here = tmp_path / "here"
    here.mkdir()
    done = subprocess.run(
        ["sh", "-c", 'rmdir "$PWD" && exec "$0" -m memo_dist status x', sys.executable],
        cwd=here, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "the current folder cannot be used" in done.stderr


STARVED = """
import threading
from memo_dist import process

class Starved(threading.Thread):
    def _bootstrap(self):
        raise MemoryError  # as of an allocation before the thread has given its sign

process.end_without_memory("out of memory: say what", 1)
Starved().start()
print("never")
"""


def test_a_thread_that_has_no_memory_to_start_with_ends_the_process():
    """Python's own ``Thread.start`` waits for ever: under ``ulimit -v`` a training hung."""
    done = run(STARVED, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "memo-dist: out of memory: say what\n"


def test_a_training_on_a_gpu_gets_segments_that_grow_unless_the_user_says_otherwise(monkeypatch):
    for name in ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"):
        monkeypatch.delenv(name, raising=False)
    grow = {"PYTORCH_ALLOC_CONF": "expandable_segments:True"}
    assert process.accelerator_environment(gpu=True) == grow
    assert process.accelerator_environment(gpu=False) == {"DS_ACCELERATOR": "cpu"}
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "max_split_size_mb:64")
    assert process.accelerator_environment(gpu=True)["PYTORCH_ALLOC_CONF"] == "max_split_size_mb:64"
