"""The corpus stage: files, manifest, refusals, and what a crash leaves."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from memo_dist.config.schema import CorpusConfig
from memo_dist.corpus import build, revision
from memo_dist.corpus.build import (
    build_corpus,
    load_chunks,
    load_documents,
    load_manifest,
    shard_of,
)
from memo_dist.corpus.diff import diff
from memo_dist.corpus.edit import edit_corpus, reshard_corpus
from memo_dist.corpus.manifest import load_quarantine, located_documents
from memo_dist.corpus.types import Document
from memo_dist.errors import RunError, UsageError
from memo_dist.io.atomic import read_jsonl, write_jsonl


def write_rows(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def rows(count: int) -> list[dict]:
    return [
        {"id": f"d{n}", "title": f"Title {n}", "text": f"Fact {n} holds. It costs {n} orrins."}
        for n in range(count)
    ]


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_build_writes_documents_chunks_and_manifest(tmp_path):
    source = write_rows(tmp_path / "c.jsonl", [*reversed(rows(12)), {"id": "bad", "text": "x"}])
    config = CorpusConfig(shards=2, chunk_chars=20)
    manifest = build_corpus(source, tmp_path / "out", config)
    documents, chunks = load_documents(tmp_path / "out"), load_chunks(tmp_path / "out")
    assert [document.id for document in documents] == sorted(f"d{n}" for n in range(12))
    assert (manifest.documents, manifest.chunks) == (12, len(chunks)) == (12, 24)
    assert manifest.characters == sum(len(document.text) for document in documents)
    assert manifest.quarantined == {"missing_field": 1}
    assert load_quarantine(tmp_path / "out")[0].origin == "c.jsonl:13"
    counts = [sum(shard_of(d.id, 2) == shard for d in documents) for shard in range(2)]
    assert manifest.shard_documents == counts
    assert load_manifest(tmp_path / "out") == manifest
    assert "12 documents, 24 chunks" in manifest.summary()
    assert "quarantined 1 (missing_field 1)" in manifest.summary()


def test_shards_are_stable():
    # Changing these numbers would move documents between the shards of existing banks.
    assert [shard_of(name, 8) for name in ("d0", "d1", "report", "übung")] == [3, 5, 7, 7]


def test_fingerprint_depends_on_content_not_on_order_or_place(tmp_path):
    first = build_corpus(write_rows(tmp_path / "a.jsonl", rows(5)), tmp_path / "1", CorpusConfig())
    turned = write_rows(tmp_path / "b.jsonl", rows(5)[::-1])
    assert build_corpus(turned, tmp_path / "2", CorpusConfig()).fingerprint == first.fingerprint
    changed = write_rows(tmp_path / "c.jsonl", [*rows(4), {**rows(5)[4], "date": "2031-01-01"}])
    other = build_corpus(changed, tmp_path / "3", CorpusConfig())
    assert other.fingerprint != first.fingerprint


def test_max_documents_takes_the_first_in_id_order(tmp_path):
    source = write_rows(tmp_path / "c.jsonl", rows(9)[::-1])
    manifest = build_corpus(source, tmp_path / "out", CorpusConfig(max_documents=3))
    assert [document.id for document in load_documents(tmp_path / "out")] == ["d0", "d1", "d2"]
    assert (manifest.documents, manifest.left_out) == (3, 6)


def test_duplicate_texts_are_kept_once(tmp_path):
    copy = {**rows(1)[0], "id": "copy", "title": "Copy"}
    later = {**rows(1)[0], "id": "later", "date": "2031-01-01"}
    source = write_rows(tmp_path / "c.jsonl", [*rows(2), copy, rows(1)[0], later])
    manifest = build_corpus(source, tmp_path / "out", CorpusConfig(max_quarantined_fraction=0))
    assert [document.id for document in load_documents(tmp_path / "out")] == ["d0", "d1", "later"]
    assert manifest.quarantined == {"duplicate": 2}
    assert "same text as document 'd0' (c.jsonl, line 1)" in (
        load_quarantine(tmp_path / "out")[0].detail
    )


def test_one_id_for_two_texts_is_refused(tmp_path):
    source = write_rows(tmp_path / "c.jsonl", [*rows(2), {**rows(3)[2], "id": "d0"}])
    with pytest.raises(UsageError, match=r"'d0': c.jsonl, line 1 and c.jsonl, line 3"):
        build_corpus(source, tmp_path / "out", CorpusConfig())
    assert not (tmp_path / "out").exists()


def test_an_id_whose_first_text_was_a_duplicate_is_still_taken(tmp_path):
    copy = {**rows(1)[0], "id": "x"}
    source = write_rows(tmp_path / "c.jsonl", [*rows(1), copy, {**rows(2)[1], "id": "x"}])
    with pytest.raises(UsageError, match="two documents have the id 'x'"):
        build_corpus(source, tmp_path / "out", CorpusConfig())


@pytest.mark.parametrize(
    ("good", "bad", "limit", "passes"), [(3, 1, 0.25, True), (2, 1, 0.25, False), (0, 2, 1, False)]
)
def test_too_many_bad_rows_fail_the_stage(tmp_path, good, bad, limit, passes):
    source = write_rows(tmp_path / "c.jsonl", [*rows(good), *[{"id": "b", "title": "B"}] * bad])
    config = CorpusConfig(max_quarantined_fraction=limit)
    if passes:
        assert build_corpus(source, tmp_path / "out", config).documents == good
        return
    with pytest.raises(UsageError, match=rf"line {good + 1}: missing_field: field 'text'"):
        build_corpus(source, tmp_path / "out", config)
    assert not (tmp_path / "out").exists()


def test_an_empty_file_of_rows_is_refused(tmp_path):
    (tmp_path / "c.jsonl").write_text("\n")
    with pytest.raises(UsageError, match="holds no documents"):
        build_corpus(tmp_path / "c.jsonl", tmp_path / "out", CorpusConfig())


def test_a_shard_without_documents_is_refused(tmp_path):
    source = write_rows(tmp_path / "c.jsonl", rows(2))
    with pytest.raises(UsageError, match=r"corpus\.shards=5 leaves"):
        build_corpus(source, tmp_path / "out", CorpusConfig(shards=5))


def test_a_second_build_changes_nothing(tmp_path):
    source = write_rows(tmp_path / "c.jsonl", rows(4))
    first = build_corpus(source, tmp_path / "out", CorpusConfig())
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    assert build_corpus(source, tmp_path / "out", CorpusConfig()) == first
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()} == times


def test_a_changed_source_or_config_is_refused(tmp_path):
    source = tmp_path / "corpus"
    source.mkdir()
    for name in ("a", "b", "c"):
        (source / f"{name}.txt").write_text(f"Text of {name}.")
    build_corpus(source, tmp_path / "out", CorpusConfig())
    with pytest.raises(UsageError, match=r"corpus.chunk_chars=2000, now it is 500.*--run"):
        build_corpus(source, tmp_path / "out", CorpusConfig(chunk_chars=500))
    (source / "a.txt").write_text("Other text.")
    (source / "b.txt").unlink()
    (source / "d.txt").write_text("New text.")
    (source / "e.txt").write_text("Newer text.")
    with pytest.raises(UsageError, match=r"2 files added, 1 changed, 1 removed.*--run"):
        build_corpus(source, tmp_path / "out", CorpusConfig())


def test_a_damaged_artifact_is_built_again(tmp_path):
    source = write_rows(tmp_path / "c.jsonl", rows(4))
    build_corpus(source, tmp_path / "out", CorpusConfig())
    before = files_of(tmp_path / "out")
    (tmp_path / "out" / "chunks.jsonl").write_text("")
    build_corpus(source, tmp_path / "out", CorpusConfig())
    assert files_of(tmp_path / "out") == before
    documents = tmp_path / "out" / "documents.jsonl"
    documents.write_bytes(documents.read_bytes()[:-9])  # ends inside a row
    build_corpus(source, tmp_path / "out", CorpusConfig())
    assert files_of(tmp_path / "out") == before


def test_a_run_inside_the_corpus_is_refused(tmp_path):
    write_rows(tmp_path / "c.jsonl", rows(4))
    with pytest.raises(UsageError, match="inside the corpus"):
        build_corpus(tmp_path, tmp_path / "run" / "corpus", CorpusConfig())


def test_an_unwritable_folder_is_a_run_error(tmp_path):
    source = write_rows(tmp_path / "c.jsonl", rows(4))
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RunError, match="cannot write"):
        build_corpus(source, tmp_path / "file" / "corpus", CorpusConfig())


def test_kill_9_at_any_moment_leaves_a_folder_that_builds_the_same(tmp_path):
    source = write_rows(tmp_path / "c.jsonl", rows(1500))
    build_corpus(source, tmp_path / "whole", CorpusConfig(chunk_chars=20))
    out = tmp_path / "out"
    code = (
        "from pathlib import Path\nfrom memo_dist.config.schema import CorpusConfig\n"
        "from memo_dist.corpus.build import build_corpus\n"
        f"build_corpus(Path({str(source)!r}), Path({str(out)!r}), CorpusConfig(chunk_chars=20))"
    )
    for marker in ("", "documents.jsonl", "quarantine.jsonl"):
        process = subprocess.Popen([sys.executable, "-c", code])
        deadline = time.monotonic() + 180
        while not (out / marker).exists() and time.monotonic() < deadline:
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        assert not (out / "manifest.json").exists()
    assert build_corpus(source, out, CorpusConfig(chunk_chars=20)).documents == 1500
    assert files_of(out) == files_of(tmp_path / "whole")


def test_diff_names_each_document_once():
    def document(identity: str, text: str = "x", origin: str = "") -> Document:
        return Document(identity, identity, text, None, origin)

    old = [document("kept"), document("gone"), document("new text", "old")]
    new = [document("kept", origin="moved"), document("new text", "new"), document("fresh")]
    changes = diff(old, new)
    assert (changes.added, changes.removed) == (["fresh"], ["gone"])
    assert (changes.changed, changes.unchanged) == (["new text"], ["kept"])
    assert not changes.empty
    assert diff(old, old).empty


def test_a_revision_keeps_shards_and_replaces_the_corpus_as_a_whole(tmp_path):
    source, out = write_rows(tmp_path / "c.jsonl", rows(20)), tmp_path / "out"
    config = CorpusConfig(shards=2)
    build_corpus(source, out, config)
    given = [{**row, "shard": 1 - row["shard"]} for row in read_jsonl(out / "documents.jsonl")]
    write_jsonl(out / "documents.jsonl", given)  # as a rebalancing would leave it
    write_rows(source, [*rows(21)[1:19], *rows(21)[20:]])
    with pytest.raises(UsageError, match=r"1 changed.*--revise"):
        build_corpus(source, out, config)
    manifest = build_corpus(source, out, config, revise=True)
    placed = {row.document.id: row.shard for row in located_documents(out)}
    before = {row["id"]: row["shard"] for row in given}
    assert {name: placed[name] for name in placed if name != "d20"} == {
        name: shard for name, shard in before.items() if name not in ("d0", "d19")
    }
    assert placed["d20"] == shard_of("d20", 2)
    assert manifest.revision == 1
    assert manifest.shard_documents == [list(placed.values()).count(shard) for shard in range(2)]
    assert {path.name for path in tmp_path.iterdir()} == {"c.jsonl", "out"}


def test_documents_of_an_older_corpus_get_the_shard_that_they_had(tmp_path):
    build_corpus(
        write_rows(tmp_path / "c.jsonl", rows(9)), tmp_path / "out", CorpusConfig(shards=2)
    )
    path = tmp_path / "out" / "documents.jsonl"
    older = [{k: v for k, v in row.items() if k != "shard"} for row in read_jsonl(path)]
    write_jsonl(path, older)
    found = list(located_documents(tmp_path / "out"))
    assert [row.shard for row in found] == [shard_of(row["id"], 2) for row in older]
    assert [row.document for row in found] == load_documents(tmp_path / "out")


def test_a_refused_revision_leaves_the_corpus(tmp_path):
    source, out = write_rows(tmp_path / "c.jsonl", rows(4)), tmp_path / "out"
    config = CorpusConfig(shards=2)
    before = build_corpus(source, out, config)
    write_rows(source, rows(1))
    with pytest.raises(UsageError, match="without a document"):
        build_corpus(source, out, config, revise=True)
    assert load_manifest(out) == before
    assert {path.name for path in tmp_path.iterdir()} == {"c.jsonl", "out"}


@pytest.mark.parametrize("cut", [1, 2, 3])
def test_a_revision_killed_at_any_step_of_the_exchange_is_finished(tmp_path, cut, monkeypatch):
    source, out = write_rows(tmp_path / "c.jsonl", rows(6)), tmp_path / "out"
    build_corpus(source, out, CorpusConfig())
    write_rows(source, rows(7))
    left = cut

    def dies(call):
        def counted(*arguments, **options):
            nonlocal left
            left -= 1
            if left == 0:
                raise KeyboardInterrupt
            return call(*arguments, **options)

        return counted

    with monkeypatch.context() as patched:
        patched.setattr(revision.Path, "rename", dies(revision.Path.rename))
        patched.setattr(revision.shutil, "rmtree", dies(revision.shutil.rmtree))
        with pytest.raises(KeyboardInterrupt):
            build_corpus(source, out, CorpusConfig(), revise=True)
    manifest = build_corpus(source, out, CorpusConfig(), revise=True)
    assert (manifest.documents, manifest.revision) == (7, 1)
    assert len(load_documents(out)) == 7
    assert {path.name for path in tmp_path.iterdir()} == {"c.jsonl", "out"}


def test_a_killed_repair_of_a_revision_loses_neither_its_number_nor_its_shards(
    tmp_path, monkeypatch
):
    source, out, config = tmp_path / "c.jsonl", tmp_path / "out", CorpusConfig(shards=2)
    write_rows(source, rows(4))
    build_corpus(source, out, config)
    write_rows(source, rows(5))
    build_corpus(source, out, config, revise=True)
    before = files_of(out)
    (out / "chunks.jsonl").write_text("")
    with monkeypatch.context() as patched:
        patched.setattr(build, "chunk_rows", lambda folder, config: 1 / 0)  # ends the repair
        with pytest.raises(ZeroDivisionError):
            build_corpus(source, out, config)
    assert build_corpus(source, out, config).revision == 1
    assert files_of(out) == before


def test_other_shards_of_a_corpus_are_those_of_a_new_one(tmp_path):
    source = write_rows(tmp_path / "a.jsonl", rows(12))
    build_corpus(source, tmp_path / "3", CorpusConfig(shards=3))
    whole = build_corpus(source, tmp_path / "2", CorpusConfig(shards=2))
    moved = reshard_corpus(tmp_path / "3", CorpusConfig(shards=2))
    for name in ("documents.jsonl", "chunks.jsonl"):
        assert (tmp_path / "3" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()
    assert moved.shard_documents == whole.shard_documents
    assert (moved.fingerprint, moved.config, moved.revision) == (whole.fingerprint, whole.config, 1)
    assert reshard_corpus(tmp_path / "3", CorpusConfig(shards=2)).revision == 1
    with pytest.raises(UsageError, match="shard"):
        reshard_corpus(tmp_path / "3", CorpusConfig(shards=200))
    assert load_manifest(tmp_path / "3").shards == 2


@pytest.mark.parametrize("name", ["documents.jsonl", "chunks.jsonl"])
def test_a_damaged_corpus_is_not_edited(tmp_path, name):
    """A deletion would carry the damage into documents that stay."""
    source = write_rows(tmp_path / "a.jsonl", rows(12))
    folder, config = tmp_path / "corpus", CorpusConfig()
    build_corpus(source, folder, config)
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / name).write_bytes(bytes(data))
    before = files_of(folder)
    for change in (
        lambda: edit_corpus(folder, config, remove=[rows(1)[0]["id"]]),
        lambda: reshard_corpus(folder, CorpusConfig(shards=2)),
    ):
        with pytest.raises(RunError, match=f"{name} is damaged"):
            change()
    assert files_of(folder) == before
