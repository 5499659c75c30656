"""A corpus in an object store: read over HTTP from a real S3 server, equal to a local copy."""

from __future__ import annotations

import gzip
import json
import socket
import threading
import time
from collections import Counter
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import pytest
from changes_here import work_here
from changing_corpus import SETTINGS, site, sites, state, write
from object_store import KEY, SECRET, Bucket, serve

from memo_dist.cli.main import run as run_command
from memo_dist.config import load_config
from memo_dist.config.schema import CorpusConfig
from memo_dist.corpus.build import build_corpus, load_documents
from memo_dist.corpus.listing import list_source
from memo_dist.corpus.manifest import SOURCE, load_quarantine
from memo_dist.errors import RunError, UsageError
from memo_dist.io import atomic, store
from memo_dist.io.relative import below_files, colliding, objection
from memo_dist.io.runfolder import RunFolder
from memo_dist.io.store import Store, StoredObject, StoreUrl, open_store, read_place
from memo_dist.launch.verbs import parse_verb
from memo_dist.runs import open_run

CONFIG = CorpusConfig(max_document_mb=1)
FACT = "The north bridge was opened in 1931. It has four lanes and a toll of two orrins."
_numbers = count()


@pytest.fixture(scope="module", autouse=True)
def endpoint():
    with serve() as url:
        yield url


@pytest.fixture
def bucket():
    return Bucket(f"documents-{next(_numbers)}")


@pytest.fixture
def opened(monkeypatch) -> Counter:
    """How often each object was read."""
    reads: Counter = Counter()
    blocks = Store.blocks

    def counted(self, item):
        reads[item.key] += 1
        return blocks(self, item)

    monkeypatch.setattr(Store, "blocks", counted)
    return reads


def varied(folder: Path) -> Path:
    """Files of several kinds, at several depths; some that are not read."""
    files = {
        "a.md": f"# Bridge\n\n{FACT}\n",
        "deep/er/a.md": "# Ferry\n\nThe ferry to Brimholt leaves at seven.\n",
        "deep/page.html": "<html><title>Mill</title><p>The mill has three wheels.</p></html>",
        "deep/rows.jsonl": "".join(
            json.dumps({"id": f"row-{n}", "title": f"Row {n}", "text": f"Pump {n} has {n} valves."})
            + "\n"
            for n in range(5)
        ),
        "table.csv": "town,filters\nOrlestad,3\nKanderup,5\n",
        "copy.txt": "The mill has three wheels.",
        "broken.docx": "no archive",
        "empty.txt": "",
        "a b/übung & 100%+?.md": "# Odd name\n\nThe weir at Velmora is nine metres wide.\n",
        ".hidden": "x",
        ".git/config": "x",
        ".git/HEAD": "x",
        "picture.png": "x",
    }
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (folder / "packed.md.gz").write_bytes(gzip.compress(b"# Lock\n\nThe lock was built in 1899.\n"))
    return folder


def built(folder: Path) -> dict[str, bytes]:
    names = ("documents.jsonl", "chunks.jsonl", "quarantine.jsonl")
    return {name: (folder / name).read_bytes() for name in names}


def test_a_stored_corpus_is_a_local_one_to_the_byte(bucket, tmp_path):
    local = varied(tmp_path / "docs")
    bucket.put("corpus2/other.md", "beside the prefix")
    url = bucket.upload(local, "corpus")
    bucket.put("corpus/deep/", "")  # as consoles mark a folder
    here = build_corpus(local, tmp_path / "here", CONFIG)
    there = build_corpus(url, tmp_path / "there", CONFIG)
    assert built(tmp_path / "here") == built(tmp_path / "there")
    assert (here.fingerprint, here.source_hash) == (there.fingerprint, there.source_hash)
    assert (here.skipped, here.files) == (there.skipped, there.files)
    ids = {document.id for document in load_documents(tmp_path / "there")}
    assert {"deep/er/a", "row-3", "packed", "übung & 100%+?"} <= ids
    assert {path.name for path in (tmp_path / "there").iterdir()} == {
        path.name for path in (tmp_path / "here").iterdir()
    }


def test_a_corpus_can_move_between_a_disk_and_a_store(bucket, tmp_path, opened):
    local = varied(tmp_path / "docs")
    build_corpus(local, tmp_path / "run", CONFIG)
    url = bucket.upload(local, "corpus")
    moved = build_corpus(url, tmp_path / "run", CONFIG)
    assert moved.revision == 0
    assert set(opened.values()) == {1}
    build_corpus(url, tmp_path / "other", CONFIG)
    assert build_corpus(local, tmp_path / "other", CONFIG).revision == 0


def test_nothing_is_left_where_nothing_can_be_read(bucket, tmp_path):
    bucket.put("corpus/empty.md", "")
    with pytest.raises(UsageError, match="1 of 1 documents cannot be read: empty 1"):
        build_corpus(bucket.url("corpus"), tmp_path / "run", CONFIG)
    assert not list(tmp_path.iterdir())


def test_one_object_is_a_corpus(bucket, tmp_path, monkeypatch):
    """Read in many blocks."""
    monkeypatch.setattr(store, "_BLOCK", 7)
    bucket.put("x/a.md", FACT)
    listing = list_source(bucket.url("x/a.md"))
    assert (listing.single, [file.origin for file in listing.files]) == (True, ["a.md"])
    build_corpus(bucket.url("x/a.md"), tmp_path / "run", CONFIG)
    (document,) = load_documents(tmp_path / "run")
    assert (document.id, document.text) == ("a", FACT)


def test_objects_that_are_the_same_are_not_fetched_again(bucket, tmp_path, opened):
    url = bucket.upload(write(tmp_path / "docs", sites(12)), "corpus")
    build_corpus(url, tmp_path / "run", CONFIG)
    assert len(opened) == opened.total() == 12
    assert build_corpus(url, tmp_path / "run", CONFIG).revision == 0
    assert opened.total() == 12
    bucket.put("corpus/site-3.md", "# Site\n\nThe site was closed in 1990.\n")
    with pytest.raises(UsageError, match=r"1 changed, 0 removed \(the first: site-3.md\)"):
        build_corpus(url, tmp_path / "run", CONFIG)
    assert opened.total() == 13
    assert build_corpus(url, tmp_path / "run", CONFIG, revise=True).revision == 1
    assert opened.total() == 13 + 1 + 12
    assert any("1990" in document.text for document in load_documents(tmp_path / "run"))
    assert build_corpus(url, tmp_path / "run", CONFIG).revision == 1
    assert opened.total() == 26


def test_keys_that_could_leave_a_folder_are_quarantined(bucket, tmp_path):
    bad = (
        "../up.md",
        "a/../../up.md",
        "/etc/abs.md",
        "a//b.md",
        "./c.md",
        "line\nbreak.md",
        "p?versionId=2.md",
    )
    twins = ("e\u0301.md", "\u00e9.md")
    for key in (*bad, *twins, "good.md"):
        bucket.put(f"corpus/{key}", f"{FACT} {key!r}")
    build_corpus(
        bucket.url("corpus"), tmp_path / "in" / "run", CorpusConfig(max_quarantined_fraction=1)
    )
    entries = load_quarantine(tmp_path / "in" / "run")
    assert {entry.origin for entry in entries} == {*bad, *twins}
    assert {entry.reason for entry in entries} == {"bad_name"}
    assert [document.id for document in load_documents(tmp_path / "in" / "run")] == ["good"]
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_rules_for_paths_of_others():
    assert not objection("a/b c/ü.md")
    for path in ("", "/a", "a/", "a//b", "..", "a/../b", ".", "a\x00", "a\u2028b", "\ud800"):
        assert objection(path), path
    assert colliding(["a", "e\u0301", "\u00e9"]) == {"e\u0301", "\u00e9"}
    assert below_files(["a", "a/b", "c/d"]) == {"a"}


def test_a_large_object_is_not_fetched(bucket, tmp_path, opened):
    bucket.put("corpus/a.md", FACT)
    bucket.put("corpus/large.md", b"x" * (2**20 + 1))
    local = tmp_path / "docs"
    local.mkdir()
    (local / "a.md").write_text(FACT)
    (local / "large.md").write_bytes(b"x" * (2**20 + 1))
    config = CorpusConfig(max_document_mb=1, max_quarantined_fraction=1)
    build_corpus(bucket.url("corpus"), tmp_path / "there", config)
    build_corpus(local, tmp_path / "here", config)
    assert built(tmp_path / "here") == built(tmp_path / "there")
    assert set(opened) == {"a.md"}


def test_an_object_that_changes_while_it_is_read_ends_the_command(bucket, tmp_path):
    bucket.put("corpus/a.md", FACT)
    listing = list_source(bucket.url("corpus"))
    bucket.put("corpus/a.md", FACT[::-1])  # of the same size
    with pytest.raises(RunError, match=r"'a\.md' changed while it was read"):
        listing.stored.state(["a.md"])
    bucket.remove("corpus/a.md")
    with pytest.raises(RunError, match=r"'a\.md' changed while it was read"):
        next(listing.stored.fetch(["a.md"], tmp_path))
    assert not list(tmp_path.iterdir())


def test_what_a_kill_left_is_removed(bucket, tmp_path):
    bucket.put("corpus/a.md", FACT)
    left = tmp_path / "run" / f"{atomic.TEMP_PREFIX}0-1-x"
    left.mkdir(parents=True)
    (left / "0").write_text(FACT)
    build_corpus(bucket.url("corpus"), tmp_path / "run", CONFIG)
    assert not list((tmp_path / "run").glob(".*"))


def test_a_stored_corpus_trains_and_updates_as_a_local_one(bucket, tmp_path, monkeypatch, capsys):
    """The real verbs; what they write is equal, and no file holds a login."""
    work_here(monkeypatch)
    local = write(tmp_path / "docs", sites())
    url = str(bucket.upload(local, "corpus"))

    def both(verb, *rest):
        for corpus, run in ((str(local), tmp_path / "here"), (url, tmp_path / "there")):
            words = {"encode": [corpus, "--run", str(run), *SETTINGS], "update": [str(run), corpus]}
            assert run_command([verb, *words[verb], *rest]) == 0
        assert state(RunFolder(tmp_path / "here")) == state(RunFolder(tmp_path / "there"))

    assert run_command(["encode", url, "--run", str(tmp_path / "no"), *SETTINGS, "--dry-run"]) == 0
    both("encode")
    bucket.upload(write(local, {**sites(), "site-3": site(3, opened=1950)}), "corpus")
    both("update")
    found = [path for path in tmp_path.rglob("*") if path.is_file()]
    said = "".join(capsys.readouterr())
    for secret in (KEY, SECRET):
        assert not [path for path in found if secret.encode() in path.read_bytes()]
        assert secret not in said


def test_plan_reads_a_store(bucket, tmp_path, capsys):
    url = bucket.upload(write(tmp_path / "docs", sites()), "corpus")
    assert run_command(["plan", f"{url}/", "--json", "memory.base=scratch"]) == 0
    assert json.loads(capsys.readouterr().out)["corpus"] == str(url)


SECRETIVE = (
    "s3://AKIAKEY:HUSH@bucket/docs",
    "s3://AKIAKEY:HU/SH@bucket/docs",
    "s3://bucket/docs?aws_secret_access_key=HUSH",
    "hdfs://user:HUSH@host:9000/docs",
)


@pytest.mark.parametrize("url", SECRETIVE)
@pytest.mark.parametrize("verb", ["encode", "plan", "synthesize", "update", "push", "pull"])
def test_a_login_in_a_url_is_refused_and_not_repeated(url, verb, tmp_path, capsys):
    run = str(tmp_path / "run")
    with open_run(tmp_path / "run", load_config(), "auto"):
        pass
    words = {"plan": [url], "update": [run, url], "push": [run, url], "pull": [url, run]}
    assert run_command([verb, *words.get(verb, [url, "--run", run])]) == 2
    said = "".join(capsys.readouterr())
    assert "from the environment" in said
    assert not [word for word in ("AKIAKEY", "HUSH", "SH@") if word in said]


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("hdfss://bucket/docs", "did you mean 'hdfs'?"),
        ("https://host/docs", "known are s3://, gs://, hdfs://"),
        ("s3://", "write s3://BUCKET/PREFIX"),
        ("s3:///docs", "write s3://BUCKET/PREFIX"),
        ("s3://bucket/a/../b", "the path is refused"),
        ("s3://bucket//docs", "the path is refused"),
        ("s3://bucket/a::simplecache", "write s3://BUCKET/PREFIX"),
    ],
)
def test_urls_that_name_no_place(url, told):
    with pytest.raises(UsageError, match=told.replace("?", r"\?")):
        read_place(url)


def test_places():
    assert read_place("s3://b/x/y/") == StoreUrl("s3", "b", "x/y")
    assert [str(read_place(url)) for url in ("s3://b", "hdfs:///a", "hdfs://h:9/a")] == [
        "s3://b",
        "hdfs:///a",
        "hdfs://h:9/a",
    ]
    assert read_place("docs") == Path("docs")
    call = parse_verb(["encode", "s3://b/docs", "--run", "R"])
    assert str(call.corpus) == "s3://b/docs"


def test_a_missing_package_is_named_with_its_extra(monkeypatch, capsys):
    monkeypatch.setattr(store, "find_spec", lambda name: None if name == "s3fs" else True)
    assert run_command(["plan", "s3://bucket/docs"]) == 2
    said = capsys.readouterr().err
    assert "the package s3fs is not installed" in said
    assert "-e '.[object-store]'" in said


@pytest.mark.parametrize("url", ["s3://no-such-bucket/docs", "s3://EMPTY/docs"])
def test_a_place_without_objects_is_a_usage_error(bucket, url, capsys):
    assert run_command(["plan", url.replace("EMPTY", bucket.name)]) == 2
    said = capsys.readouterr().err
    assert "does not exist" in said or "cannot list it" in said
    assert "Traceback" not in said


def test_a_store_that_cannot_be_reached_is_a_run_error(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://name:hush@127.0.0.1:9")
    run = tmp_path / "run"
    assert run_command(["encode", "s3://bucket/docs", "--run", str(run), *SETTINGS]) == 1
    said = capsys.readouterr().err
    assert "s3://bucket/docs: cannot list it" in said
    assert "AWS_ENDPOINT_URL" in said
    for secret in ("hush", KEY, SECRET):
        assert secret not in said
    assert "Traceback" not in said


def test_a_store_that_does_not_answer_meets_a_deadline(monkeypatch):
    monkeypatch.setattr(store, "LIST_SECONDS", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(RunError, match="no answer within 1 s to: list it"):
            list_source(read_place("s3://bucket/docs"))


class Failing:
    """A filesystem that fails, or never answers."""

    def __init__(self, error: Exception | None) -> None:
        self._error = error

    def find(self, root, detail):
        return self.open(root)

    def open(self, *_, **__):
        if self._error is None:
            threading.Event().wait(30)
        raise self._error


@pytest.mark.parametrize(
    ("error", "kind", "told"),
    [
        (PermissionError("Forbidden"), UsageError, "AWS_ACCESS_KEY_ID"),
        (type("NoCredentialsError", (Exception,), {})("none"), UsageError, "AWS_PROFILE"),
        (FileNotFoundError("gone"), UsageError, "check the bucket"),
        (OSError("http://a:hush@h: reset"), RunError, r"http://\[hidden\]@h: reset"),
        (OSError("http://a:hu@hush@h: reset"), RunError, r"http://\[hidden\]@h: reset"),
        (OSError("http://a:hu/hush@h: reset"), RunError, r"http://\[hidden\]@h: reset"),
        (ValueError(), RunError, "ValueError"),
    ],
)
def test_errors_of_a_store_say_what_to_check(error, kind, told):
    opened = Store(StoreUrl("s3", "b", "x"), Failing(error), "b/x")
    with pytest.raises(kind, match=told):
        opened.objects()


def test_every_block_has_a_deadline(monkeypatch):
    opened = Store(StoreUrl("s3", "b", "x"), Failing(None), "b/x")
    monkeypatch.setattr(Store._call, "__defaults__", (0.2,))
    with pytest.raises(RunError, match=r"no answer within 0 s to: read 'a\.md'"):
        list(opened.blocks(StoredObject("a.md", 3, "v")))


def test_versions_stand_beside_the_hashes(bucket, tmp_path):
    bucket.put("corpus/a.md", FACT)
    build_corpus(bucket.url("corpus"), tmp_path / "run", CONFIG)
    (row,) = atomic.read_jsonl(tmp_path / "run" / SOURCE)
    assert row.keys() == {"path", "sha256", "version"}
    assert row["version"]


def test_an_error_does_not_wait_for_other_calls(bucket):
    """A stop would otherwise wait for whole objects, or for their deadlines."""
    slow = Store(bucket.url(), SimpleNamespace(rm_file=lambda path: time.sleep(60)), "b")

    def interrupted():
        with slow.parallel() as pool:
            calls.extend(pool.submit(slow.remove, str(number)) for number in range(20))
            time.sleep(0.2)
            raise KeyboardInterrupt

    calls, began = [], time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert time.monotonic() - began < 10
    assert all(call.done() for call in calls)


def test_a_large_file_is_sent_part_by_part(bucket):
    """By default s3fs reads ten parts of 50 MB ahead, of each of eight files."""
    assert open_store(bucket.url())._filesystem.max_concurrency == 1
