"""The driver of a training under Ray: what it makes of a process that the kernel has killed."""

from __future__ import annotations

import pytest

from memo_dist.config.schema import TrainConfig
from memo_dist.errors import RunError
from memo_dist.training import ray_driver
from memo_dist.training.job import TrainJob
from memo_dist.training.ray_driver import OOM_SECONDS, ShardTraining


class Watched:
    """A training's driver with a clock, a counter of kills and a status that a test sets."""

    def __init__(self, folder, monkeypatch):
        self.now, self.kills, self.status = 1000.0, 4, {"time": 1.0, "step": 1, "seconds": 1.0}
        monkeypatch.setattr(ray_driver, "oom_kills", lambda: self.kills)
        monkeypatch.setattr(ray_driver, "read_status", lambda path: self.status)
        monkeypatch.setattr(ray_driver.time, "monotonic", lambda: self.now)
        self.driver = object.__new__(ShardTraining)
        self.driver.label = "shard 0"
        self.driver.job = TrainJob(str(folder), "base", "examples", (), TrainConfig(), 0, "job", 1)
        self.driver._oom_kills, self.driver._oom_since = self.kills, None
        self.driver._oom_status = None

    def look(self, seconds, step=False):
        """So many seconds later; with a step made meanwhile."""
        self.now += seconds
        if step:
            self.status = {**self.status, "time": self.now, "step": self.status["step"] + 1}
        self.driver._check_memory()


@pytest.fixture
def watched(tmp_path, monkeypatch):
    return Watched(tmp_path, monkeypatch)


def test_a_training_that_halts_after_a_kill_ends(watched):
    watched.look(10 * OOM_SECONDS)
    watched.kills += 1
    watched.look(1)
    watched.look(OOM_SECONDS - 1)
    with pytest.raises(RunError, match=r"no step for 121 s after a process was killed.*memory"):
        watched.look(2)


def test_the_last_step_before_a_kill_is_no_sign_of_life(watched):
    """Its status may come just after the kill was seen."""
    watched.kills += 1
    watched.look(0)
    watched.look(1, step=True)
    with pytest.raises(RunError, match="after a process was killed"):
        watched.look(OOM_SECONDS)


def test_a_training_that_goes_on_after_a_kill_may_be_slow_later(watched):
    watched.kills += 1
    watched.look(0)
    watched.look(30, step=True)
    watched.look(5 * OOM_SECONDS)
    watched.kills += 1
    watched.look(0)
    with pytest.raises(RunError, match="after a process was killed"):
        watched.look(OOM_SECONDS + 1)


def test_long_steps_are_waited_for(watched):
    watched.status = {"time": 1.0, "step": 2, "seconds": 2 * OOM_SECONDS}
    watched.kills += 1
    watched.look(0)
    watched.look(2.9 * OOM_SECONDS)
    with pytest.raises(RunError, match="after a process was killed"):
        watched.look(0.2 * OOM_SECONDS)
