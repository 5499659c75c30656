"""Trackers mirror metrics.jsonl with real event files and clients, and never stop a run."""

from __future__ import annotations

import logging
import socket
import time
from pathlib import Path

import pytest

from memo_dist.config.schema import TrackConfig
from memo_dist.io import atomic
from memo_dist.observability import trackers
from memo_dist.observability.trackers import STATE, TRACKERS, WANDB_SETTINGS, MetricsMirror


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(trackers, "POLL_SECONDS", 0.05)


def write_steps(folder: Path, first: int, last: int) -> None:
    with (folder / "metrics.jsonl").open("ab") as stream:
        for step in range(first, last + 1):
            row = {"step": step, "loss": 1 / step, "grad_norm": None, "time": 1.0}
            stream.write(atomic.json_line(row))


def mirror(folder: Path, *names: str, openers=TRACKERS) -> MetricsMirror:
    thread = MetricsMirror(folder, "run shard 0", TrackConfig(to=list(names)), openers)
    thread.start()
    return thread


def events(folder: Path) -> list[tuple[int, float]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    reader = EventAccumulator(str(folder / "tensorboard"))
    reader.Reload()
    return [(event.step, event.value) for event in reader.Scalars("train/loss")]


def test_tensorboard_event_file_holds_every_step_once(tmp_path):
    write_steps(tmp_path, 1, 3)
    first = mirror(tmp_path, "tensorboard")
    write_steps(tmp_path, 4, 5)
    first.finish()
    assert atomic.read_json(tmp_path / STATE)["tensorboard"] == {
        "run_id": "tensorboard",
        "step": 5,
    }
    # A resume from the checkpoint of step 3 writes the steps 4 and 5 again.
    lines = (tmp_path / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    atomic.write_bytes(tmp_path / "metrics.jsonl", b"".join(lines[:3]))
    write_steps(tmp_path, 4, 7)
    mirror(tmp_path, "tensorboard").finish()
    assert events(tmp_path) == [(s, pytest.approx(1 / s)) for s in range(1, 8)]


def test_a_half_written_line_waits_for_its_end(tmp_path):
    write_steps(tmp_path, 1, 1)
    with (tmp_path / "metrics.jsonl").open("ab") as stream:
        stream.write(b'{"step": 2, "lo')
    mirror(tmp_path, "tensorboard").finish()
    assert events(tmp_path) == [(1, 1.0)]


def test_mlflow_keeps_its_run_over_a_resume(tmp_path, monkeypatch):
    client_module = pytest.importorskip("mlflow.tracking")
    store = f"file://{tmp_path / 'mlruns'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    write_steps(tmp_path, 1, 2)
    mirror(tmp_path, "mlflow").finish()
    run_id = atomic.read_json(tmp_path / STATE)["mlflow"]["run_id"]
    write_steps(tmp_path, 3, 4)
    mirror(tmp_path, "mlflow").finish()
    assert atomic.read_json(tmp_path / STATE)["mlflow"] == {"run_id": run_id, "step": 4}
    history = client_module.MlflowClient(tracking_uri=store).get_metric_history(run_id, "loss")
    assert [metric.step for metric in history] == [1, 2, 3, 4]


def test_wandb_without_a_login_is_off_and_asks_nobody(tmp_path, monkeypatch, caplog):
    pytest.importorskip("wandb")
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    write_steps(tmp_path, 1, 2)
    with caplog.at_level(logging.WARNING):
        mirror(tmp_path, "wandb").finish()
    assert "set WANDB_API_KEY" in caplog.text


class Failing:
    """A tracker whose service is gone at the second step."""

    run_id = "there"

    def __init__(self, *_: object) -> None:
        self.sent = 0

    def log(self, step, values):
        self.sent += 1
        if step > 1:
            raise ConnectionError("https://me:pass@tracker.example/api with api_key=abc123 is gone")

    def close(self):
        raise AssertionError("a tracker that is off is not closed")


def test_a_failing_tracker_stops_nothing_and_shows_no_secret(tmp_path, caplog):
    write_steps(tmp_path, 1, 4)
    openers = {**TRACKERS, "wandb": Failing}
    with caplog.at_level(logging.WARNING):
        mirror(tmp_path, "wandb", "tensorboard", openers=openers).finish()
    assert [step for step, _ in events(tmp_path)] == [1, 2, 3, 4]
    assert caplog.text.count("tracker wandb of run shard 0 is off") == 1
    assert "pass@" not in caplog.text
    assert "abc123" not in caplog.text
    assert atomic.read_json(tmp_path / STATE)["wandb"] == {"run_id": "there", "step": 1}


def test_a_missing_library_or_a_broken_start_stops_nothing(tmp_path, caplog):
    def broken(*_: object):
        raise ImportError("No module named 'wandb'")

    write_steps(tmp_path, 1, 2)
    with caplog.at_level(logging.WARNING):
        openers = {**TRACKERS, "wandb": broken}
        mirror(tmp_path, "wandb", "tensorboard", openers=openers).finish()
    assert "No module named 'wandb'" in caplog.text
    assert len(events(tmp_path)) == 2


@pytest.mark.alone
def test_a_hanging_tracker_delays_the_end_by_a_known_time(tmp_path, monkeypatch, caplog):
    class Hanging(Failing):
        def log(self, step, values):
            time.sleep(30)

    monkeypatch.setattr(trackers, "CLOSE_SECONDS", 0.3)
    write_steps(tmp_path, 1, 2)
    thread = mirror(tmp_path, "wandb", openers={"wandb": Hanging})
    started = time.monotonic()
    with caplog.at_level(logging.WARNING):
        thread.finish()
    assert time.monotonic() - started < 5
    assert "did not finish in time" in caplog.text


def test_no_tracker_leaves_no_file(tmp_path):
    write_steps(tmp_path, 1, 2)
    mirror(tmp_path).finish()
    assert not (tmp_path / STATE).exists()


SECRET_ARGUMENT = "executive.urls=[http://internal.example/v1]"


def test_wandb_collects_no_arguments_host_commit_or_packages(tmp_path, monkeypatch):
    """On 1f7257c the offline file held them all."""
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setattr("sys.argv", ["memo-dist", "train", SECRET_ARGUMENT])
    settings = wandb.Settings(**WANDB_SETTINGS)  # every name is one of this version's
    assert settings.x_disable_meta
    monkeypatch.setattr(trackers, "CLOSE_SECONDS", 100.0)
    write_steps(tmp_path, 1, 2)
    mirror(tmp_path, "wandb").finish()
    files = [path.read_bytes() for path in (tmp_path / "wandb").rglob("*") if path.is_file()]
    assert any(b"loss" in content for content in files)
    for content in files:
        assert b"internal.example" not in content
        assert socket.gethostname().encode() not in content
        assert b"safetensors==" not in content
