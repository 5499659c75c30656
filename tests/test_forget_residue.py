"""Words of a forgotten document in texts that stay are no residue; anywhere else they are."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from types import SimpleNamespace

import pytest

from memo_dist.change import refusals, replaced
from memo_dist.change.fingerprint import Fingerprint
from memo_dist.change.staying import BUFFER, residue
from memo_dist.corpus.manifest import DOCUMENTS, LocatedDocument, iter_documents
from memo_dist.corpus.types import Document
from memo_dist.errors import RunError, UsageError
from memo_dist.io import atomic
from memo_dist.io.runfolder import RunFolder
from memo_dist.serve.buffer import PendingBuffer
from memo_dist.serve.records import PENDING, Stored

OLD = "The pumping station at Hestvik was opened in 1958 by the county engineer, closed in 1999."
NEW = OLD.replace("1999", "2001")
GONE = "a"


@pytest.fixture
def run(tmp_path):
    found = RunFolder(tmp_path / "run")
    corpus([("other", "Nothing of that.")], found)
    return found


@pytest.fixture
def buffer(run):
    found = PendingBuffer(run.root / BUFFER, 100)
    yield found
    found.close()


def corpus(texts, run):
    rows = [Document(name, name, text).to_json() for name, text in texts]
    atomic.write_jsonl(run.corpus / DOCUMENTS, rows)


def row(name, text, **more):
    return Stored(name, 0, "", text, more, {}, PENDING, 0.0, 0.0)


def found(run):
    return residue(run, [GONE], [Fingerprint.of(f"a\n{OLD}", ["Nothing of that."])])[0]


def test_a_corrected_text_that_waits_is_no_residue(run, buffer):
    """On 9d1f21f: forget raised for ever, and no update was possible any more."""
    buffer.add(row(GONE, OLD), "me")
    buffer.end_batch(buffer.begin_batch(), {})
    buffer.delete(GONE, "me", known="hash")
    assert found(run) == []
    buffer.add(row("b", NEW), "me")
    buffer.add(row("c", "A note.", quoted=OLD), "me")
    assert found(run) == []
    buffer.replace(row("b", NEW.replace("2001", "2002")), "me")
    buffer.empty_log()
    assert found(run) == []


def test_residue_in_the_buffer_is_found_beside_texts_that_stay(run, buffer):
    buffer.add(row("b", "It was opened in 1958 by the county engineer, closed in spring."), "me")
    buffer.add(row(GONE, OLD), "me")
    assert f"{BUFFER}-wal" in found(run)
    buffer.empty_log()
    assert found(run) == [str(BUFFER)]
    buffer.delete(GONE, "me", known="hash")
    assert found(run) == [], "the row and the log are overwritten"


@pytest.mark.parametrize("place", ["id", "title", "metadata", "scope"])
def test_words_in_what_callers_name_are_no_residue(run, buffer, place):
    words = "The pumping station at Hestvik was opened in 1958 by the county engineer"
    values = {"id": "b", "title": "", "metadata": {}, "scope": {}}
    values[place] = {
        "id": words.replace(" ", "-"),
        "title": words,
        "metadata": {"quoted": words},
        "scope": {"user_id": words},
    }[place]
    buffer.add(replace(row("b", "A text."), **values), "me")
    if place == "scope":  # names of scopes stay beside deleted documents
        buffer.delete("b", "me")
    assert found(run) == []


def test_the_ids_of_forgotten_documents_stay(run):
    """Titles are often the words of an id, and tombstones and receipts name ids."""
    name = "the-county-engineer-opened-the-pumping-station-at-hestvik"
    text = f"{name.replace('-', ' ')}\n{OLD}"
    run.generations.mkdir(parents=True)
    (run.generations / "tombstones.json").write_text(f'{{"id": "{name}"}}')
    assert residue(run, [name], [Fingerprint.of(text)])[0] == []
    assert residue(run, ["a"], [Fingerprint.of(text)])[0] == ["memory/tombstones.json"]


def test_a_document_that_came_into_the_corpus_later_is_no_residue(run):
    """`verify` after a corrected text was trained."""
    corpus([("other", "Nothing of that."), ("b", NEW)], run)
    (run.root / "reflections.jsonl").write_text(f"{NEW}\n")
    assert found(run) == []
    (run.root / "notes.txt").write_text(OLD)
    assert found(run) == ["notes.txt"]


def test_what_a_user_writes_into_a_scope_does_not_hold_up_a_deletion(run):
    theirs = run.root / "serve" / "scopes" / "0123" / "synth" / "direct" / "journal"
    theirs.mkdir(parents=True)
    (theirs / "part-0.jsonl").write_text(OLD)
    assert found(run) == []


def test_a_buffer_that_cannot_be_read_is_named(run):
    path = run.root / BUFFER
    path.parent.mkdir(parents=True)
    path.write_text(OLD)
    with pytest.raises(RunError, match="the pending buffer"):
        found(run)
    path.unlink()
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE documents (id, title, text, metadata, scope)")
    other.close()
    assert found(run) == []


# -- what is refused -------------------------------------------------------------------------------


@pytest.fixture
def bank(run, monkeypatch):
    """{document: content hash} of the memory, and a corpus of the shards 0 (a, b) and 1 (c, d)."""
    found = {name: Document(name, name, f"Text {name}.").content_hash for name in "abcd"}
    corpus([(name, f"Text {name}.") for name in "abcd"], run)
    for module in (refusals, replaced):
        monkeypatch.setattr(module, "load_manifest", lambda folder: None)
        monkeypatch.setattr(module, "bank_documents", lambda manifest: found)
    monkeypatch.setattr(refusals, "load_corpus_manifest", lambda _: SimpleNamespace(left_out=0))
    monkeypatch.setattr(
        refusals,
        "located_documents",
        lambda folder: [LocatedDocument(one, one.id in "cd", 0) for one in iter_documents(folder)],
    )
    return found


def refused(run, ids, begun=()):
    config = SimpleNamespace(corpus=SimpleNamespace(shards=2))
    return set(refusals.refusals(run, config, ids, begun))


def test_one_document_of_a_shard_stays(run, bank):
    assert refused(run, ["a", "c"]) == set()
    assert refused(run, ["a", "b", "c"]) == {"b"}, "the others can be forgotten"
    assert refused(run, ["b"], begun=["a"]) == {"b"}
    assert refused(run, ["a"], begun=["a", "b"]) == set(), "what has begun is ended"
    assert refused(run, ["unknown"]) == set()


def test_another_revision_in_the_corpus_is_refused_unless_its_words_are_kept(run, bank):
    replaced.keep_replaced(run, ["a", "b"])
    corpus([(name, f"Newer {name}.") for name in "abc"] + [("d", "Text d.")], run)
    assert refused(run, ["a"]) == set()
    assert refused(run, ["b", "c"]) == {"c"}
    assert refused(run, ["a", "b"]) == {"b"}, "one of the shard stays"
    replaced.keep_replaced(run, ["a", "b", "c"])
    kept = replaced.load_replaced(run.generations)
    assert set(kept) == {"a", "b"}, "what the corpus has now is not what the memory has"
    assert kept["a"][0] == bank["a"]
    assert kept["a"][1].found_in("a\nText a.")
    assert "Text" not in (run.generations / replaced.FILE).read_text()
    bank["a"] = "newer"
    assert refused(run, ["a"]) == {"a"}, "the memory has a third revision"
    replaced.clear_replaced(run.generations)
    assert replaced.load_replaced(run.generations) == {}
    (run.generations / replaced.FILE).write_text('{"a": 1}')
    with pytest.raises(UsageError, match="is damaged"):
        replaced.load_replaced(run.generations)
