"""Words of a forgotten document in texts that stay are no residue; anywhere else they are."""

from __future__ import annotations

import sqlite3
from dataclasses import replace

import pytest

from memo_dist.change.fingerprint import Fingerprint
from memo_dist.change.staying import BUFFER, residue
from memo_dist.corpus.manifest import DOCUMENTS
from memo_dist.corpus.types import Document
from memo_dist.errors import RunError
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
