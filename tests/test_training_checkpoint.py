"""A checkpoint exists only when its marker and every file that it names are there."""

import json

import pytest

from memo_dist.training import checkpoint


def make(folder, step, done=True):
    path = folder / checkpoint.tag(step)
    path.mkdir(parents=True)
    (path / "weights.bin").write_bytes(b"x" * step)
    if done:
        checkpoint.mark_complete(path)
    return path


def test_latest_ignores_what_a_crash_left(tmp_path):
    assert checkpoint.latest(tmp_path) is None
    good = make(tmp_path, 5)
    make(tmp_path, 7, done=False)
    truncated = make(tmp_path, 9)
    (truncated / "weights.bin").write_bytes(b"x")
    missing = make(tmp_path, 11)
    (missing / "weights.bin").unlink()
    assert checkpoint.latest(tmp_path) == good


def test_steps_sort_as_numbers(tmp_path):
    make(tmp_path, 99)
    assert checkpoint.latest(tmp_path).name == checkpoint.tag(99)
    make(tmp_path, 100)
    assert checkpoint.latest(tmp_path).name == checkpoint.tag(100)


@pytest.mark.parametrize(("keep", "left"), [(1, [9]), (2, [7, 9])])
def test_prune_keeps_the_newest_complete_ones(tmp_path, keep, left):
    for step in (5, 7, 9):
        make(tmp_path, step)
    make(tmp_path, 11, done=False)
    checkpoint.prune(tmp_path, keep)
    assert sorted(f.name for f in tmp_path.iterdir()) == [checkpoint.tag(s) for s in left]


def test_publishing_replaces_the_whole_folder(tmp_path):
    old, new = tmp_path / "final", tmp_path / ".final"
    for folder, name in ((old, "old.bin"), (new, "new.bin")):
        folder.mkdir()
        (folder / name).write_bytes(b"abc")
    checkpoint.mark_complete(old)
    checkpoint.publish(new, old)
    assert checkpoint.is_complete(old)
    assert {path.name for path in old.iterdir()} == {"new.bin", checkpoint.COMPLETE}
    assert [path.name for path in tmp_path.iterdir()] == ["final"]


def test_marker_names_every_file(tmp_path):
    path = make(tmp_path, 3)
    (path / "zero").mkdir()
    (path / "zero" / "optim.pt").write_bytes(b"abc")
    checkpoint.mark_complete(path)
    files = json.loads((path / checkpoint.COMPLETE).read_text())["files"]
    assert files == {"weights.bin": 3, "zero/optim.pt": 3}
