"""The ledger: the final weights' lineage holds every position of the data order once."""

import pytest

from memo_dist.errors import RunError
from memo_dist.training.ledger import FILE, Ledger, lineage


def test_a_resume_continues_the_lineage_and_replays_are_told(tmp_path):
    first = Ledger(tmp_path, "j")
    first.start(0, 0, 0, ranks=1)
    first.commit(10, 100)
    second = Ledger(tmp_path, "j")
    second.start(10, 100, 130, ranks=2)  # three more steps of the first launch are lost
    second.commit(20, 200)
    assert lineage(tmp_path, "j").commits == (10, 20)
    assert lineage(tmp_path, "j").positions == 200
    assert lineage(tmp_path, "j").replayed == 30


def test_a_commit_whose_checkpoint_is_lost_leaves_the_lineage(tmp_path):
    first = Ledger(tmp_path, "j")
    first.start(0, 0, 0)
    first.commit(10, 100)
    first.commit(20, 200)  # its checkpoint never became complete
    second = Ledger(tmp_path, "j")
    second.start(10, 100, 200)
    second.commit(15, 150)
    second.commit(30, 300)
    assert lineage(tmp_path, "j").commits == (10, 15, 30)


def test_a_gap_is_found(tmp_path):
    ledger = Ledger(tmp_path, "j")
    ledger.start(0, 0, 0)
    ledger.commit(10, 100)
    lines = (tmp_path / FILE).read_text()
    (tmp_path / FILE).write_text(lines.replace("[0, 100]", "[7, 100]"))
    with pytest.raises(RunError, match="begins at 7, not at 0"):
        lineage(tmp_path, "j")


def test_starts_are_counted_until_a_commit_and_a_torn_line_is_cut(tmp_path):
    for _ in range(3):
        Ledger(tmp_path, "j").start(0, 0, 0)
    with (tmp_path / FILE).open("a") as stream:
        stream.write('{"event": "comm')
    ledger = Ledger(tmp_path, "j")
    assert ledger.stalled_starts() == 3
    assert Ledger(tmp_path, "other").stalled_starts() == 0
    ledger.start(0, 0, 0)
    ledger.commit(5, 50)
    assert Ledger(tmp_path, "j").stalled_starts() == 0
    assert lineage(tmp_path, "j").commits == (5,)
