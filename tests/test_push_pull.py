"""A run copied to an object store and back, over HTTP: whole or not at all, verified, private."""

from __future__ import annotations

import json
import shutil
import stat
from collections import namedtuple
from itertools import count
from pathlib import Path

import cli
import pytest
from object_store import Bucket, serve

from memo_dist import runs
from memo_dist.change.pending import PENDING
from memo_dist.cli.main import run as run_command
from memo_dist.config import load_config
from memo_dist.errors import DamagedFileError, RunError, UsageError
from memo_dist.io import atomic
from memo_dist.io.hashing import hash_file, hash_value
from memo_dist.io.runfolder import RunFolder
from memo_dist.io.store import Store, StoreUrl
from memo_dist.runs import existing_run, open_run
from memo_dist.transfer import pull as pulling
from memo_dist.transfer.manifest import MANIFEST, PULLING
from memo_dist.transfer.pull import pull
from memo_dist.transfer.push import push

_numbers = count()


@pytest.fixture(scope="module", autouse=True)
def endpoint():
    with serve() as url:
        yield url


@pytest.fixture
def bucket():
    return Bucket(f"runs-{next(_numbers)}")


@pytest.fixture
def run(tmp_path) -> RunFolder:
    return write_run(tmp_path / "run")


def write_run(root: Path, files: int = 4) -> RunFolder:
    with open_run(root, load_config((), {"memory.base": "scratch"}), "auto") as run:
        for number in range(files):
            atomic.write_bytes(run.train(0) / f"{number}.bin", b"%d" % number * 1000)
        atomic.write_text(run.memory / "gen-1" / "same.bin", "0" * 1000)
        atomic.write_text(run.reflections, "")
    return run


def contents(root: Path) -> dict[str, bytes]:
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


def objects(bucket: Bucket, prefix: str = "copy") -> set[str]:
    return {key for key in bucket.names() if key.startswith(f"{prefix}/objects/")}


def test_a_run_comes_back_as_it_was(bucket, run, tmp_path, capsys):
    url = str(bucket.url("copy"))
    assert run_command(["push", str(run.root), url]) == 0
    before = contents(run.root)
    assert f"pushed {len(before)} files" in capsys.readouterr().out
    assert len(objects(bucket)) == len(set(before.values()))
    assert run_command(["pull", url, str(tmp_path / "new" / "run")]) == 0
    root = tmp_path / "new" / "run"
    assert contents(root) == before == contents(run.root)
    modes = {stat.S_IMODE(path.stat().st_mode) for path in [root, *root.rglob("*")]}
    assert modes == {0o700, 0o600}
    existing_run(root)
    again = push(root, bucket.url("copy"))
    assert (again.sent, again.removed) == (0, 0)
    with open_run(root, load_config(stored=root / "config.yaml"), "must"):
        pass
    assert push(root, bucket.url("copy")).sent == 1  # run.json


def test_what_a_run_lost_leaves_its_copy(bucket, run):
    bucket.put("copy/other.txt", "not ours")
    bucket.put("copy/objects/notes", "not ours")
    push(run.root, bucket.url("copy"))
    gone = run.train(0) / "3.bin"
    key = f"copy/objects/{hash_file(gone)}"
    assert key in bucket.names()
    gone.unlink()
    done = push(run.root, bucket.url("copy"))
    assert (done.sent, done.removed) == (0, 1)
    assert key not in bucket.names()
    assert {"copy/other.txt", "copy/objects/notes"} <= set(bucket.names())


def test_locks_links_temporary_files_and_a_servers_files_stay(bucket, run, tmp_path):
    (tmp_path / "secret").write_text("of this machine")
    (run.root / "link").symlink_to(tmp_path / "secret")
    (run.root / "folder").symlink_to(tmp_path)
    for name in (".tmp-x", "serve/buffer.sqlite", "train/.tmp-y/z"):
        atomic.write_text(run.root / name, name)
    push(run.root, bucket.url("copy"))
    pull(bucket.url("copy"), tmp_path / "new")
    assert contents(tmp_path / "new").keys() == {
        name
        for name in contents(run.root)
        if not name.startswith(("serve", ".tmp", "train/.tmp", "link", "folder"))
    }


def test_a_push_that_fails_leaves_the_copy_before(bucket, run, tmp_path, monkeypatch):
    push(run.root, bucket.url("copy"))
    before = contents(run.root)
    for number in range(20):
        atomic.write_text(run.root / "eval" / f"{number}.txt", f"new {number}")
    put, sent = Store.put, count()

    def fails(self, key, file):
        if next(sent) > 5:
            raise RunError("reset")
        put(self, key, file)

    monkeypatch.setattr(Store, "put", fails)
    with pytest.raises(RunError, match="reset"):
        push(run.root, bucket.url("copy"))
    pull(bucket.url("copy"), tmp_path / "old")
    assert contents(tmp_path / "old") == before
    monkeypatch.setattr(Store, "put", put)
    assert push(run.root, bucket.url("copy")).sent < 20
    pull(bucket.url("copy"), tmp_path / "new")
    assert contents(tmp_path / "new") == contents(run.root)


def test_a_killed_push_continues(bucket, tmp_path):
    run = write_run(tmp_path / "run", files=300)
    url = str(bucket.url("copy"))
    process = cli.start("push", run.root, url, log=tmp_path / "log")
    cli.wait_until(lambda: len(objects(bucket)) > 20, 120, "objects in the store", process)
    cli.kill_driver(process)
    sent = len(objects(bucket))
    assert sent < 300
    with pytest.raises(UsageError, match="holds no complete copy"):
        pull(bucket.url("copy"), tmp_path / "new")
    assert not (tmp_path / "new").exists()
    assert push(run.root, bucket.url("copy")).sent <= 300 + 4 - sent
    assert pull(bucket.url("copy"), tmp_path / "new").fetched == len(contents(run.root))
    assert contents(tmp_path / "new") == contents(run.root)


def test_a_killed_pull_continues(bucket, tmp_path):
    run, new = write_run(tmp_path / "run", files=300), tmp_path / "new"
    push(run.root, bucket.url("copy"))
    process = cli.start("pull", bucket.url("copy"), new, log=tmp_path / "log")
    cli.wait_until(lambda: len(list(new.rglob("*.bin"))) > 20, 120, "files", process)
    cli.kill_driver(process)
    fetched = len(list(new.rglob("*.bin")))
    assert fetched < 300
    assert run_command(["status", str(new)]) == 2  # no run yet
    push(run.root, bucket.url("elsewhere"))
    with pytest.raises(UsageError, match="holds an unfinished pull"):
        pull(bucket.url("elsewhere"), new)
    (run.train(0) / "1.bin").unlink()  # forgotten, and pushed meanwhile
    push(run.root, bucket.url("copy"))
    assert pull(bucket.url("copy"), new).fetched < 300 + 4 - fetched + 20
    assert contents(new) == contents(run.root)


def test_a_file_that_changes_while_it_is_sent_ends_the_push(bucket, run, tmp_path, monkeypatch):
    """An evaluation takes no lock; the copy before stays whole."""
    push(run.root, bucket.url("copy"))
    before = contents(run.root)
    file, put = run.train(0) / "1.bin", Store.put
    file.write_bytes(b"new")

    def late(store, key, path):
        if path == file:
            file.write_bytes(b"newer")
        put(store, key, path)

    monkeypatch.setattr(Store, "put", late)
    with pytest.raises(RunError, match=r"1\.bin changed while it was sent; run the command again"):
        push(run.root, bucket.url("copy"))
    pull(bucket.url("copy"), tmp_path / "new")
    assert contents(tmp_path / "new") == before


def test_a_damaged_manifest_is_named_with_what_to_do(bucket, run):
    push(run.root, bucket.url("copy"))
    bucket.put(f"copy/{MANIFEST}", b"{")
    with pytest.raises(RunError, match=f"to replace that copy remove {MANIFEST} there"):
        push(run.root, bucket.url("copy"))


def test_a_run_is_not_pushed_where_objects_are_written_in_place(run):
    with pytest.raises(UsageError, match="not pushed to hdfs://"):
        push(run.root, StoreUrl("hdfs", "node", "copy"))


def test_a_pull_that_had_only_its_mark_to_remove_ends(bucket, run, tmp_path):
    push(run.root, bucket.url("copy"))
    pull(bucket.url("copy"), tmp_path / "new")
    manifest = json.loads(bucket.read(f"copy/{MANIFEST}"))
    row = {"url": str(bucket.url("copy")), "manifest": manifest}
    atomic.write_json(tmp_path / "new" / PULLING, row)
    (tmp_path / "new" / "reflections.jsonl").write_text("used since")
    assert pull(bucket.url("copy"), tmp_path / "new").fetched == 0
    assert (tmp_path / "new" / "reflections.jsonl").read_text() == "used since"
    assert not (tmp_path / "new" / PULLING).exists()


def test_damaged_and_missing_objects_are_named(bucket, run, tmp_path):
    push(run.root, bucket.url("copy"))
    file = run.train(0) / "2.bin"
    key = f"copy/objects/{hash_file(file)}"
    bucket.put(key, b"3" * 1000)
    with pytest.raises(
        RunError, match=r"object of 'train/shard-0/2.bin' is damaged: .*remove objects/"
    ):
        pull(bucket.url("copy"), tmp_path / "new")
    assert not (tmp_path / "new" / "config.yaml").exists()
    assert not (tmp_path / "new" / "train" / "shard-0" / "2.bin").exists()
    bucket.put(key, b"2")
    with pytest.raises(RunError, match="is of 1 bytes, not 1000"):
        pull(bucket.url("copy"), tmp_path / "new")
    bucket.remove(key)
    with pytest.raises(RunError, match=r"'train/shard-0/2.bin' is missing; push the run again"):
        pull(bucket.url("copy"), tmp_path / "new")
    push(run.root, bucket.url("copy"))
    pull(bucket.url("copy"), tmp_path / "new")
    assert contents(tmp_path / "new") == contents(run.root)


def forge(bucket: Bucket, change) -> None:
    """Rewrite the manifest as who may write into the bucket could, its own hash included."""
    row = json.loads(bucket.read(f"copy/{MANIFEST}"))
    change(row)
    row["check"] = hash_value({name: value for name, value in row.items() if name != "check"})
    bucket.put(f"copy/{MANIFEST}", json.dumps(row))


@pytest.mark.parametrize(
    "path",
    [
        "../x",
        "a/" * 3000 + "a",
        "b" * 300,
        "a/../../x",
        "/tmp/x",
        "a//x",
        "./x",
        "a\nx",
        ".lock",
        ".tmp-x",
        "serve/x",
        PULLING,
    ],
)
def test_paths_that_could_leave_the_run_are_refused(bucket, run, tmp_path, path):
    push(run.root, bucket.url("copy"))
    forge(bucket, lambda row: row["files"].update({path: row["files"]["run.json"]}))
    with pytest.raises(UsageError, match="which is refused"):
        pull(bucket.url("copy"), tmp_path / "new" / "run")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("twins", [("e\u0301", "\u00e9"), ("a", "a/b")])
def test_paths_that_collide_are_refused(bucket, run, tmp_path, twins):
    push(run.root, bucket.url("copy"))
    for path in twins:
        forge(bucket, lambda row, path=path: row["files"].update({path: row["files"]["run.json"]}))
    with pytest.raises(UsageError, match="collides"):
        pull(bucket.url("copy"), tmp_path / "new")


@pytest.mark.parametrize(
    "change",
    [
        lambda row: row.update(files=[]),
        lambda row: row["files"].update(x=3),
        lambda row: row["files"].update(x={"sha256": "0" * 63, "size": 1}),
        lambda row: row["files"].update(x={"sha256": "0" * 64, "size": -1}),
        lambda row: row["files"].update(x={"sha256": "../x", "size": 1}),
        lambda row: row.pop("run"),
    ],
)
def test_manifests_of_another_shape_are_refused(bucket, run, tmp_path, change):
    push(run.root, bucket.url("copy"))
    forge(bucket, change)
    with pytest.raises(DamagedFileError):
        pull(bucket.url("copy"), tmp_path / "new")


def test_a_damaged_manifest_is_refused(bucket, run, tmp_path):
    push(run.root, bucket.url("copy"))
    whole = bucket.read(f"copy/{MANIFEST}")
    for data in (whole[:100], whole.replace(b'"size": 1000', b'"size": 1001'), b""):
        bucket.put(f"copy/{MANIFEST}", data)
        with pytest.raises(DamagedFileError):
            pull(bucket.url("copy"), tmp_path / "new")
    forge_version = json.loads(whole) | {"schema_version": 2}
    bucket.put(f"copy/{MANIFEST}", json.dumps(forge_version))
    with pytest.raises(UsageError, match="schema version 2"):
        pull(bucket.url("copy"), tmp_path / "new")


def test_folders_that_hold_something_are_not_pulled_into(bucket, run, tmp_path):
    push(run.root, bucket.url("copy"))
    with pytest.raises(UsageError, match="holds files already"):
        pull(bucket.url("copy"), run.root)
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="is a file, not a folder"):
        pull(bucket.url("copy"), tmp_path / "file")
    (tmp_path / "open").mkdir(mode=0o755)
    pull(bucket.url("copy"), tmp_path / "open")
    assert stat.S_IMODE((tmp_path / "open").stat().st_mode) == 0o700


def test_a_link_in_a_half_pulled_folder_leads_nowhere(bucket, run, tmp_path):
    push(run.root, bucket.url("copy"))
    new, outside = tmp_path / "new", tmp_path / "outside"
    new.mkdir()
    outside.mkdir()
    manifest = json.loads(bucket.read(f"copy/{MANIFEST}"))
    atomic.write_json(new / PULLING, {"url": str(bucket.url("copy")), "manifest": manifest})
    (new / "train").symlink_to(outside)
    with pytest.raises(UsageError, match="by a link"):
        pull(bucket.url("copy"), new)
    assert not list(outside.iterdir())


def test_a_disk_that_is_too_small_is_refused(bucket, run, tmp_path, monkeypatch):
    push(run.root, bucket.url("copy"))
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(pulling.shutil, "disk_usage", lambda path: usage(9, 9, 100))
    with pytest.raises(RunError, match="are to be fetched"):
        pull(bucket.url("copy"), tmp_path / "new")


def test_runs_that_must_not_be_pushed(bucket, run, tmp_path, monkeypatch):
    monkeypatch.setattr(runs.locked.__wrapped__, "__defaults__", (0.2, False))
    with (
        open_run(run.root, load_config(stored=run.config), "must"),
        pytest.raises(UsageError, match="is in use by process"),
    ):
        push(run.root, bucket.url("copy"))
    with pytest.raises(UsageError, match="is not a run folder"):
        push(tmp_path, bucket.url("copy"))
    shutil.copyfile(run.run_json, run.root / "bad\nname")
    with pytest.raises(UsageError, match="cannot be copied: it has control characters"):
        push(run.root, bucket.url("copy"))
    (run.root / "bad\nname").unlink()
    assert not bucket.names()
    pending = {"time": "", "why": "", "started": 0, "withheld": 0}
    atomic.write_json(
        run.generations / PENDING, {**pending, "documents": [], "fingerprints": [], "weights": {}}
    )
    with pytest.raises(UsageError, match="has not ended"):
        push(run.root, bucket.url("copy"))
    (run.generations / PENDING).unlink()
    push(run.root, bucket.url("copy"))
    other = write_run(tmp_path / "other")
    with pytest.raises(UsageError, match="holds the copy of another run"):
        push(other.root, bucket.url("copy"))


def test_wrong_use_says_what_is_wrong(bucket, run, tmp_path, capsys):
    for words, told in (
        (["push", str(run.root), str(tmp_path)], "is no URL of an object store"),
        (["push", str(tmp_path), str(bucket.url("x"))], "is not a run folder"),
        (["pull", str(bucket.url("x")), str(tmp_path / "new")], "holds no complete copy"),
        (["pull", "s3://no-such-bucket/x", str(tmp_path / "new")], "no-such-bucket"),
        (["push", str(run.root), "s3://no-such-bucket/x"], "no-such-bucket"),
    ):
        assert run_command(words) == 2, words
        assert told in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
