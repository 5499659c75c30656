"""Ranks that wait for rank 0 longer than a collective may take."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from datetime import timedelta
from pathlib import Path

import pytest
from cli import environment, run_python
from ports import free_ports
from torch.distributed import HashStore

from memo_dist.cluster import store
from memo_dist.cluster.ranks import Ranks
from memo_dist.cluster.stop import StopFlag
from memo_dist.errors import RunError, StoppedError

COLLECTIVE = 3.0
"""Seconds that a collective of these ranks may take."""
WRITE = 2 * COLLECTIVE


@pytest.fixture
def stop(monkeypatch):
    flag = StopFlag()
    monkeypatch.setattr(store, "STOP", flag)
    return flag


def test_a_long_write_of_rank_0_does_not_end_the_others(tmp_path):
    """They wait twice as long as a collective may take, then meet in one."""
    assert _codes(tmp_path, "writes") == [0, 0]
    assert sorted(path.name for path in tmp_path.glob("met-*")) == ["met-0", "met-1"]


def test_a_rank_0_that_dies_while_it_writes_ends_the_others(tmp_path):
    started = time.monotonic()
    assert _codes(tmp_path, "dies") == [7, 1]
    assert "rank 0 is gone before it said 'the result is there'" in (tmp_path / "1").read_text()
    assert time.monotonic() - started < 60


@pytest.mark.parametrize("grace", [0.0, 0.4])
def test_a_stop_ends_the_wait_after_its_grace(stop, grace):
    stop._signal = signal.SIGTERM
    began = time.monotonic()
    with pytest.raises(StoppedError, match="still writes"):
        store.await_event(HashStore(), "end", "rank 0 still writes", grace)
    assert grace <= time.monotonic() - began < grace + 5


def test_what_is_done_in_time_is_no_stop(stop):
    stop._signal = signal.SIGTERM
    shared = HashStore()
    threading.Timer(0.3, store.announce, (shared, "end")).start()
    store.await_event(shared, "end", grace=30)
    store.await_event(shared, "end", grace=None)


def test_a_rank_alone_waits_for_nobody():
    Ranks(0, 1, 0).barrier_after_first("end")


def _codes(folder: Path, act: str) -> list[int]:
    (port,) = free_ports()
    ranks = []
    for rank in (0, 1):
        variables = {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank),
                     "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1",
                     "MASTER_PORT": str(port)}  # fmt: skip
        with (folder / str(rank)).open("wb") as log:
            ranks.append(run_python([__file__, folder, act], {**environment(), **variables}, log))
    try:
        return [rank.wait(120) for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()


def _main(folder: Path, act: str) -> int:
    import torch

    ranks, limit = Ranks.from_environment(), timedelta(seconds=COLLECTIVE)
    met = store.rank_store(timedelta(seconds=60), 60)
    torch.distributed.init_process_group(
        "gloo", store=met, rank=ranks.rank, world_size=ranks.world, timeout=limit
    )
    if ranks.is_first:
        time.sleep(1.0 if act == "dies" else WRITE)
        if act == "dies":
            os._exit(7)
    try:
        ranks.barrier_after_first("the result is there", 60)
    except RunError as error:
        print(error, flush=True)
        return 1
    (folder / f"met-{ranks.rank}").touch()
    return 0


if __name__ == "__main__":
    sys.exit(_main(Path(sys.argv[1]), sys.argv[2]))
