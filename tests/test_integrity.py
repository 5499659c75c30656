"""Damage is found where a file is read: flipped bits, zeros, torn and empty files."""

import errno
import hashlib
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import xxhash

from memo_dist.cluster.ranks import Ranks
from memo_dist.config import Config, load_config, stored_yaml
from memo_dist.errors import DamagedFileError, RunError, StoppedError, UsageError
from memo_dist.io import atomic, marker
from memo_dist.io.runfolder import RunFolder
from memo_dist.observability.status import StatusWriter, failure_noted, has_died, read_status
from memo_dist.stages.state import damaged_files
from memo_dist.training import checkpoint, reporting, saver
from memo_dist.training.examples import Examples

ALONE = Ranks(0, 1, 0)


def flip(path):
    """One other bit, in a file of the same size."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def zero(path):
    path.write_bytes(bytes(path.stat().st_size))


def whole(folder, size=64):
    folder.mkdir(parents=True)
    (folder / "weights.bin").write_bytes(os.urandom(size))
    (folder / "sub").mkdir()
    (folder / "sub" / "other.bin").write_bytes(b"abc")
    marker.mark_complete(folder)
    return folder


@pytest.mark.parametrize("harm", [flip, zero])
@pytest.mark.parametrize("name", ["weights.bin", "sub/other.bin"])
def test_damage_of_the_same_size_is_found_and_named(tmp_path, harm, name):
    folder = whole(tmp_path / "folder")
    assert marker.damage(folder / marker.COMPLETE) == []
    harm(folder / name)
    assert marker.is_complete(folder)  # sizes tell nothing
    (line,) = marker.damage(folder / marker.COMPLETE)
    assert f"{folder / name} is damaged: XXH3" in line
    (line,) = marker.damage(folder / marker.COMPLETE, kind=marker.HASHES)
    assert f"{folder / name} is damaged: SHA-256" in line
    with pytest.raises(RunError, match=r"is damaged.*; do this"):
        marker.require_whole([folder / marker.COMPLETE], "do this")


def test_ranks_share_the_hashing(tmp_path):
    folder = whole(tmp_path / "folder")
    flip(folder / "weights.bin")
    found = [marker.damage(folder / marker.COMPLETE, part=(rank, 2)) for rank in range(2)]
    assert sorted(map(len, found)) == [0, 1]


def test_both_hashes_are_those_of_the_bytes_and_a_rank_notes_its_own(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    data = os.urandom(3 * 2**20 + 5)
    (folder / "rank-0.safetensors").write_bytes(data)
    marker.note_hashes(folder, 0, ["rank-0.safetensors"])
    (folder / "state.json").write_text("{}")
    marker.mark_complete(folder)
    row = atomic.read_json(folder / marker.COMPLETE)
    assert row[marker.HASHES]["rank-0.safetensors"] == hashlib.sha256(data).hexdigest()
    assert row[marker.FAST]["rank-0.safetensors"] == xxhash.xxh3_128(data).hexdigest()
    assert row[marker.HASHES].keys() == row[marker.FAST].keys() == row["files"].keys()


def test_a_marker_without_fast_hashes_is_compared_by_sha256(tmp_path):
    folder = whole(tmp_path / "folder")
    row = atomic.read_json(folder / marker.COMPLETE)
    atomic.write_json(folder / marker.COMPLETE, {marker.HASHES: row[marker.HASHES]})
    flip(folder / "weights.bin")
    (line,) = marker.damage(folder / marker.COMPLETE)
    assert "is damaged: SHA-256" in line


def test_files_over_the_limit_are_left_alone_and_named(tmp_path, caplog):
    folder = whole(tmp_path / "folder", size=4096)
    flip(folder / "weights.bin")
    assert marker.damage(folder / marker.COMPLETE, limit_gb=2048 / 2**30) == []
    assert "not hashed" in caplog.text
    assert "weights.bin" in caplog.text


def test_an_earlier_versions_marker_proves_nothing(tmp_path):
    folder = whole(tmp_path / "folder")
    sizes = atomic.read_json(folder / marker.COMPLETE)["files"]
    atomic.write_json(folder / marker.COMPLETE, {"files": sizes})
    flip(folder / "weights.bin")
    assert marker.damage(folder / marker.COMPLETE) == []


def test_what_the_check_finds_comes_before_the_error_that_it_explains():
    def check():
        raise RunError("the file is damaged")

    with pytest.raises(RunError, match="the file is damaged"), marker.checked_while(check):
        raise ValueError("header too large")


# -- checkpoints ---------------------------------------------------------------------------------


def checkpoints(tmp_path, *steps):
    """A job with checkpoints of one weights file each."""
    job = SimpleNamespace(
        checkpoints=tmp_path / "checkpoints", resume="auto", identity="j", path=tmp_path
    )
    for step in steps:
        folder = job.checkpoints / checkpoint.tag(step)
        folder.mkdir(parents=True)
        (folder / "rank-0.safetensors").write_bytes(os.urandom(64))
        state = checkpoint.TrainState(step, 0, 0, 0, 0, 0.0, 0, "j", 1, 0, 1, versions={})
        checkpoint.complete(folder, state)
    return job


def test_a_damaged_newest_checkpoint_is_set_aside_and_the_one_before_is_used(tmp_path, caplog):
    job = checkpoints(tmp_path, 10, 20)
    newest = job.checkpoints / checkpoint.tag(20)
    flip(newest / "rank-0.safetensors")
    saver.settle_checkpoint(job, ALONE)
    folder, state = saver.find_checkpoint(job)
    assert (folder.name, state.step) == (checkpoint.tag(10), 10)
    assert not newest.exists()
    assert (job.checkpoints / f"{checkpoint.DAMAGED}{newest.name}").is_dir()
    assert "is set aside" in caplog.text
    assert "rank-0.safetensors is damaged" in caplog.text


@pytest.mark.parametrize("name", [checkpoint.STATE, marker.COMPLETE, "rank-0.safetensors"])
@pytest.mark.parametrize("harm", [flip, zero])
def test_any_damaged_file_of_all_checkpoints_leaves_none(tmp_path, name, harm):
    job = checkpoints(tmp_path, 10, 20)
    for folder in list(job.checkpoints.iterdir()):
        harm(folder / name)
    saver.settle_checkpoint(job, ALONE)
    assert saver.find_checkpoint(job) is None


@pytest.mark.parametrize("harm", [flip, zero])
def test_a_damaged_state_is_set_aside_before_ranks_start(tmp_path, harm):
    job = checkpoints(tmp_path, 10, 20)
    harm(job.checkpoints / checkpoint.tag(20) / checkpoint.STATE)
    saver.with_resume(job, "auto")
    assert saver.find_checkpoint(job)[1].step == 10


def test_a_damaged_checkpoint_that_was_asked_for_is_refused(tmp_path):
    job = checkpoints(tmp_path, 10, 20)
    newest = job.checkpoints / checkpoint.tag(20)
    flip(newest / "rank-0.safetensors")
    job.resume = str(newest)
    with pytest.raises(RunError, match=r"rank-0\.safetensors is damaged"):
        saver.settle_checkpoint(job, ALONE)


def test_two_checkpoints_are_kept_so_that_there_is_one_before():
    assert Config().train.keep_checkpoints == 2


# -- a run ---------------------------------------------------------------------------------------


def test_every_marker_of_a_run_is_looked_at(tmp_path):
    run = RunFolder(tmp_path)
    places = [
        "train/base", "train/shard-0/checkpoints/step-0000010", "train/shard-0/final",
        "memory/shard-0", "memory/gen-1/shard-0", "fusion/b/latent",
    ]  # fmt: skip
    for place in places:
        whole(tmp_path / place)
    gate = tmp_path / "fusion" / "b" / "gate.safetensors"
    gate.write_bytes(b"gate")
    named = marker.hashes(gate.parent, [gate.name])
    atomic.write_json(gate.with_name("gate.json"), {marker.HASHES: named})
    assert list(damaged_files(run)) == []
    for place in places:
        flip(tmp_path / place / "weights.bin")
    flip(gate)
    lines = list(damaged_files(run))
    assert len(lines) == len(places) + 1
    for path in [*(f"{place}/weights.bin" for place in places), "fusion/b/gate.safetensors"]:
        assert any(f"/{path} is damaged" in line for line in lines), path


# -- JSON and YAML -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "it is empty"),
        (b" \n", "it is empty"),
        (b'{"a": 1', "it is not JSON"),
        (b"\0" * 20, "it is not JSON"),
        (b"\xff\xfe\x00", "it is not JSON"),
        (b"[" * 100_000, "it is not JSON"),
        (b"[1, 2]", "not a dict"),
        (b"null", "not a dict"),
        (b"{}", "it has no field 'a'"),
        (b'{"b": {}}', "it has no field 'a'"),
    ],
)
def test_a_damaged_json_file_is_named_with_what_is_wrong_and_what_to_do(tmp_path, data, reason):
    path = tmp_path / "some.json"
    path.write_bytes(data)
    with pytest.raises(DamagedFileError) as caught:
        atomic.read_json(path)["a"]
    text = str(caught.value)
    assert text.startswith(f"{path} is damaged")
    assert reason in text
    assert "bring it back from a copy" in text
    assert isinstance(caught.value, UsageError)


def test_a_damaged_line_is_named(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"a": 1}\n{"a": \n')
    for read in (atomic.read_jsonl, atomic.jsonl_offsets):
        with pytest.raises(DamagedFileError, match=r"rows\.jsonl, line 2, is damaged"):
            list(read(path))


@pytest.mark.parametrize("line", [b'{"step": \n', b"\0\0\0\n", b"[2]\n"])
def test_a_damaged_line_of_a_file_that_grows_is_named_and_a_cut_off_one_is_none(tmp_path, line):
    for name, read in (
        ("metrics.jsonl", reporting.last_metric_step),
        ("metrics.jsonl", lambda path: reporting.drop_metrics_after(path, 3)),
        ("ledger.jsonl", lambda path: list(atomic.whole_rows(path))),
    ):
        path = tmp_path / name
        path.write_bytes(b'{"step": 1}\n' + line + b'{"step": 2}\n{"step": 3')
        with pytest.raises(DamagedFileError, match=rf"{name}, line 2, is damaged"):
            read(path)
        path.write_bytes(b'{"step": 1}\n{"step": 2}\n{"step": 3')
        read(path)


def test_a_damaged_line_that_is_read_at_its_place_is_named(tmp_path):
    path = tmp_path / "part-0.jsonl"
    path.write_bytes(b'{"a": 1}\n{"a": \n')
    with path.open("rb") as stream:
        assert atomic.row_at(stream, 0, path) == {"a": 1}
        with pytest.raises(DamagedFileError, match=r"part-0\.jsonl, byte 9, is damaged"):
            atomic.row_at(stream, 9, path)


@pytest.mark.parametrize("data", [b"", b"\xff" * 40, b"\x10" + bytes(7) + b"x" * 16])
def test_a_damaged_file_of_examples_is_named(tmp_path, data):
    path = tmp_path / "examples.safetensors"
    path.write_bytes(data)
    with pytest.raises(DamagedFileError, match=r"examples\.safetensors is damaged"):
        Examples.load(path)


def test_fields_that_a_record_does_not_have_are_damage(tmp_path):
    path = tmp_path / "state.json"
    atomic.write_json(path, {"step": 1})
    with pytest.raises(DamagedFileError, match=r"state\.json is damaged: .*missing"):
        atomic.read_record(path, checkpoint.TrainState)


@pytest.mark.parametrize("text", ["", "\n", "  \n\n"])
def test_an_empty_configuration_is_not_the_defaults(tmp_path, text):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(DamagedFileError, match=r"config\.yaml is damaged: it is empty"):
        load_config(stored=path)
    with pytest.raises(UsageError, match=r"config\.yaml is empty"):
        load_config([path])


def test_a_stored_configuration_that_changed_is_refused(tmp_path):
    path = tmp_path / "config.yaml"
    text = stored_yaml(Config())
    path.write_text(text)
    assert load_config(stored=path) == Config()
    for harmed in (text[: len(text) // 2], text.replace("epochs: ", "epochs: 1", 1)):
        path.write_text(harmed)
        with pytest.raises(UsageError, match="has changed since memo-dist wrote it"):
            load_config(stored=path)
    path.write_text(text.partition("\n")[2])  # of an earlier version, or meant
    assert load_config(stored=path) == Config()


# -- STATUS.json ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (UsageError("no"), "failed"),
        (MemoryError(), "failed"),
        (OSError(errno.EIO, "bad"), "failed"),
        (SystemExit(1), "failed"),
        (KeyboardInterrupt(), "stopped"),
        (StoppedError("later"), "stopped"),
    ],
)
def test_a_status_says_how_the_work_ended_whatever_ended_it(tmp_path, error, state):
    StatusWriter(tmp_path).status("running", step=3)
    with pytest.raises(type(error)), failure_noted(tmp_path):
        raise error
    status = read_status(tmp_path)
    assert (status["state"], status["step"]) == (state, 3)
    assert type(error).__name__ in status["error"]


def test_a_killed_process_is_not_running(tmp_path):
    code = f"""
import os, pathlib
from memo_dist.observability.status import StatusWriter
StatusWriter(pathlib.Path({str(tmp_path)!r})).status("running")
os.kill(os.getpid(), 9)
"""
    subprocess.run([sys.executable, "-c", code], check=False, timeout=60)
    status = read_status(tmp_path)
    assert status["state"] == "running"
    assert has_died(status)
    assert not has_died({**status, "pid": os.getpid()})
    assert not has_died({**status, "place": "0badcafe"})


def test_a_damaged_status_does_not_hide_the_error(tmp_path):
    (tmp_path / "STATUS.json").write_text("")
    with pytest.raises(RunError, match="the disk"), failure_noted(tmp_path):
        raise RunError("the disk")
