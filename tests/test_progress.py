"""Progress as text and as a bar."""

import io

from memo_dist.observability import progress as module
from memo_dist.observability.progress import duration, progress, progress_board
from memo_dist.training.bars import TrainingBars


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_lines_without_a_terminal():
    stream = io.StringIO()
    with progress(10, "work", done=4, stream=stream, interval=0.0) as report:
        report.advance(0, failed=0)
        report.advance(3, loss=0.123456)
    first, *_, last = stream.getvalue().splitlines()
    assert first == "work: 4/10 units, 0/s, ETA ?, failed 0"
    assert last.startswith("work: 7/10 units, ")
    assert last.endswith("failed 0, loss 0.1235")


def test_few_lines_where_the_interval_is_long():
    stream = io.StringIO()
    with progress(100, "work", stream=stream) as report:
        for _ in range(100):
            report.advance()
    assert len(stream.getvalue().splitlines()) == 1


def test_a_bar_on_a_terminal():
    stream = Terminal()
    with progress(2, "work", stream=stream) as report:
        report.advance(2, failed=1)
    assert "2/2" in stream.getvalue()
    assert "failed 1" in stream.getvalue()


def test_durations():
    assert [duration(s) for s in (4.4, 200, 7500)] == ["4 s", "3 min 20 s", "2 h 5 min"]


def test_the_time_of_frozen_layers_is_shown_and_not_counted_as_that_of_steps(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: clock[0])
    stream = io.StringIO()
    with progress_board(stream=stream, interval=0.0) as board:
        bars = TrainingBars(board, "shard 0")
        for seconds, status in (
            (0.0, {"state": "running"}),
            (0.0, {"steps": 10, "step": 0}),
            (30.0, {"steps": 10, "step": 0, "frozen": 0.5}),
            (60.0, {"steps": 10, "step": 0, "frozen": 1.0}),
            (60.0, {"steps": 10, "step": 0}),
            (65.0, {"steps": 10, "step": 5, "loss": 0.5, "tokens_per_second": 7.0}),
        ):
            clock[0] = seconds
            bars.show(status)
        bars.close()
    lines = stream.getvalue().splitlines()
    assert any(line.startswith("shard 0, frozen layers: 50/100 %") for line in lines)
    assert lines[-1] == "shard 0: 5/10 steps, 1/s, ETA 5 s, loss 0.5, tokens/s 7"
