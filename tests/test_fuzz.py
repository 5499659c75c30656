"""500 mutated inputs: no traceback, no hang, no write elsewhere; more in ``benchmarks/fuzz.py``."""

import pytest
from fuzzing import TARGETS, Watch, alarms, cases, run_case

from memo_dist.corpus.language import load_identifier

WATCH = Watch()
COUNTS = {
    "documents": 200,
    "config": 60,
    "questions": 60,
    "bank": 60,
    "journals": 60,
    "replies": 60,
}


@pytest.mark.parametrize("name", TARGETS)
def test_mutated_inputs_end_as_they_should(name):
    load_identifier()  # it unpacks its model, once
    with alarms():
        for _, target, data in cases([name], COUNTS[name], seed=17):
            fault = run_case(target, data, WATCH)
            assert not fault, (fault, target[2], data)


def test_the_watch_sees_a_write_elsewhere(tmp_path):
    def stray(folder, data, suffix):
        (tmp_path / "stray").write_bytes(data)

    assert "outside" in run_case((stray, b"", ""), b"x", WATCH)
