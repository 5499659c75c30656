"""A synthesis that asks a model, killed in the middle: nothing lost, nothing asked twice."""

from pathlib import Path

import pytest
from request_kills import Setting, killed_run
from test_requests_engine import results

pytestmark = pytest.mark.alone


def test_kills_of_driver_worker_and_server_change_nothing(tmp_path: Path):
    same = {"documents": 24, "seed": 5, "in_flight": 4, "latency": 0.2}
    unbroken = killed_run(Setting(tmp_path / "unbroken", kills=0, **same))
    killed = killed_run(Setting(tmp_path / "killed", kills=3, **same))
    assert unbroken["code"] == killed["code"] == 0
    assert len(killed["kills"]) == 3
    assert unbroken["resends"] == 0
    assert killed["resends"] <= killed["in_flight_at_kills"]
    assert killed["answered_and_sent_again"] == 0
    assert killed["failed"] == unbroken["failed"]
    assert killed["failed_not_in_quarantine"] == 0
    assert results(killed["run"]) == results(unbroken["run"])
