"""The loop that memories and connectors share: what it refuses, and what it reports."""

import pytest

from memo_dist.cluster.ranks import Ranks
from memo_dist.config.fusion_schema import LatentConfig
from memo_dist.config.schema import TrainConfig
from memo_dist.errors import RunError
from memo_dist.fusion.latent.job import ConnectorJob
from memo_dist.io import atomic
from memo_dist.training.job import TrainJob
from memo_dist.training.ledger import Ledger
from memo_dist.training.loop import TrainingLoop
from memo_dist.training.progress import Progress
from memo_dist.training.reporting import Reporter

ALONE = Ranks(0, 1, 0)
TRAIN = TrainConfig(max_stalled_starts=2)


def memory_job(folder):
    return TrainJob(str(folder), "base", "examples", (), TRAIN, 0, "job", 1)


def connector_job(folder):
    return ConnectorJob(str(folder), "backbone", "bank", TRAIN, LatentConfig(), {}, 0, "job", 1)


def load(ranks):
    raise AssertionError("a model was loaded")


@pytest.mark.parametrize("make", [memory_job, connector_job])
def test_starts_without_a_checkpoint_are_refused_before_a_model_is_loaded(make, tmp_path):
    job = make(tmp_path)
    for _ in range(2):
        with pytest.raises(AssertionError, match="a model was loaded"):
            TrainingLoop(job, ALONE, load)
        Ledger(tmp_path, "job").start(0, 0, 0, ranks=1, zero_stage=0)
    with pytest.raises(RunError, match="2 starts in a row ended before a new checkpoint"):
        TrainingLoop(job, ALONE, load)


@pytest.mark.parametrize("work", ["_measure", "_end"])
def test_a_status_is_written_before_what_may_take_minutes(work, tmp_path):
    """The driver of a training under Ray takes a status that stays the same for a halt."""
    loop = object.__new__(TrainingLoop)
    loop._job, loop._ranks, loop._progress = memory_job(tmp_path), ALONE, Progress(step=1)
    loop._reporter = Reporter(tmp_path, steps=1, seconds=0.0, flops=None, peak=None)

    class Began(Exception):
        """What takes long has begun."""

    class Slow:
        def __getattr__(self, name):
            raise Began

    loop._meter = loop._engine = loop._saver = loop._trainee = Slow()
    with pytest.raises(Began):
        getattr(loop, work)()
    assert atomic.read_json(tmp_path / "STATUS.json")["step"] == 1


@pytest.mark.parametrize("flops", [None, 6.0])
def test_tokens_are_reported_where_they_are_counted(flops, tmp_path):
    reporter = Reporter(tmp_path, steps=1, seconds=0.0, flops=flops, peak=None)
    progress = Progress(step=1, consumed_tokens=40, trained_tokens=30, seconds=2.0)
    reporter.step(progress, {"loss": 1.5})
    (row,) = atomic.read_jsonl(tmp_path / "metrics.jsonl")
    status = atomic.read_json(tmp_path / "STATUS.json")
    assert (row["step"], row["loss"], row["seconds"]) == (1, 1.5, 2.0)
    assert (status["state"], status["step"], status["loss"]) == ("running", 1, 1.5)
    if flops is None:
        assert not [key for key in (*row, *status) if "tokens" in key]
        assert reporter.speed(progress) == {}
    else:
        assert (row["tokens"], row["trained_tokens"], row["flops_per_second"]) == (40, 30, 120.0)
        assert status["tokens_per_second"] == 20.0
        assert reporter.speed(progress) == {"tokens/s": 20.0}
