"""The pending buffer, batches of questions, and what a consolidation leaves."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import shutil
import time
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
from changing_corpus import encode, site, sites, write
from cli import ENCODE_SECONDS
from served import begin, end, eventually, serving

from memo_dist.answering import Answered
from memo_dist.answers.answer import Answer
from memo_dist.config import load_config
from memo_dist.errors import RunError, StoppedError, UsageError
from memo_dist.io import atomic
from memo_dist.io.locks import file_lock
from memo_dist.io.runfolder import RunFolder
from memo_dist.serve import consolidate, scopes
from memo_dist.serve.batching import Batcher
from memo_dist.serve.buffer import PendingBuffer
from memo_dist.serve.consolidate import Consolidator
from memo_dist.serve.errors import ApiError
from memo_dist.serve.limits import RateLimit
from memo_dist.serve.merging import merge, passages
from memo_dist.serve.messages import shown
from memo_dist.serve.records import CONSOLIDATING, PENDING, TRAINED, Stored
from memo_dist.serve.scopes import ScopeMemories

ZINC = "The zincworks of Falkenau melt ore."
ANN, BOB = {"user_id": "ann"}, {"user_id": "bob"}


def document(name="a", text=ZINC, scope=None):
    return Stored(name, 0, "", text, {}, scope or {}, PENDING, 0.0, 0.0)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "serve" / "buffer.sqlite"


@pytest.fixture
def buffer(path):
    found = PendingBuffer(path, most=3)
    yield found
    found.close()


def content(path):
    return b"".join(file.read_bytes() for file in path.parent.iterdir()).lower()


def test_a_trained_text_leaves_the_buffer_and_its_file(buffer, path):
    buffer.add(document(), "me")
    assert b"zincworks" in content(path)
    event = buffer.request_consolidation("me")
    assert buffer.request_consolidation("me").id == event.id, "one waits already"
    assert buffer.begin_consolidation(scopes=True) == [{}]
    batch = buffer.begin_batch()
    assert buffer.get("a").state == CONSOLIDATING
    assert buffer.search("zincworks", {}, True, 5), "until it is trained it answers"
    buffer.end_batch(batch, {})
    buffer.end_consolidation()
    assert (buffer.get("a").state, buffer.get("a").text) == (TRAINED, "")
    assert not buffer.search("zincworks", {}, True, 5)
    assert buffer.event(event.id).state == "SUCCEEDED"
    assert not buffer.consolidation_requested()
    assert b"zincworks" not in content(path)
    assert b"falkenau" not in content(path)


def test_a_batch_that_a_crash_interrupted_is_begun_again(buffer, path):
    buffer.add(document(), "me")
    batch = buffer.begin_batch()
    buffer.add(document("b", "Another text."), "me")
    with PendingBufferOf(path) as again:
        assert again.consolidation_requested()
        assert again.begin_batch() == [again.get("a")]
        assert [row.id for row in batch] == ["a"]


class PendingBufferOf:
    """The same file, as another process opens it."""

    def __init__(self, path):
        self._buffer = PendingBuffer(path, most=3)

    def __enter__(self):
        return self._buffer

    def __exit__(self, *_):
        self._buffer.close()


def test_a_failed_batch_waits_again_and_says_why(buffer):
    _, event = buffer.add(document(), "me")
    buffer.end_batch(buffer.begin_batch(), {}, "the disk is full")
    assert (buffer.get("a").state, buffer.get("a").text) == (PENDING, ZINC)
    assert buffer.event(event.id).state == "FAILED"
    assert buffer.event(event.id).message == "the disk is full"
    buffer.end_batch(buffer.begin_batch(), {"a": "not English"})
    assert buffer.event(event.id).message == "not English"
    buffer.end_batch(buffer.begin_batch(), {})
    assert buffer.event(event.id).state == "SUCCEEDED"


def test_what_is_written_during_a_batch_waits_for_the_next(buffer):
    buffer.add(document(), "me")
    batch = buffer.begin_batch()
    buffer.replace(document(text="The zincworks closed."), "me")
    buffer.end_batch(batch, {})
    assert (buffer.get("a").state, buffer.get("a").version) == (PENDING, 2)
    assert buffer.hidden() == {"a": ""}, "the trained version is outdated"


def test_what_is_deleted_during_a_batch_is_forgotten_after_it(buffer, path):
    buffer.add(document(), "me")
    batch = buffer.begin_batch()
    event = buffer.delete("a", "me")
    assert event.state == "PENDING"
    assert b"zincworks" not in content(path)
    buffer.end_batch(batch, {})
    assert [row.id for row in buffer.to_forget()] == ["a"]
    assert buffer.hidden() == {"a": ""}
    buffer.fail_forget({"a": "no document would be left"})
    assert (buffer.event(event.id).state, buffer.event(event.id).message) == (
        "FAILED",
        "no document would be left",
    )
    assert [row.id for row in buffer.to_forget()] == ["a"]
    buffer.end_forget(["a"])
    assert not buffer.to_forget()
    assert not buffer.hidden()
    assert buffer.event(event.id).state == "SUCCEEDED"
    with pytest.raises(ApiError, match="was deleted"):
        buffer.add(document(), "me")


def test_a_replaced_document_of_the_memory_is_hidden_until_the_new_one_is_trained(buffer):
    with pytest.raises(ApiError, match="no such document"):
        buffer.replace(document(), "me")
    buffer.replace(document(), "me", known="old-hash")
    assert buffer.hidden() == {"a": ""}
    batch = buffer.begin_batch(known={"a": "old-hash"})
    assert buffer.hidden() == {"a": "old-hash"}, "of the next generation the new one is answered"
    buffer.end_batch(batch, {})
    assert buffer.hidden() == {}


def test_a_document_replaced_while_its_first_text_trains_stays_hidden_in_the_next_batch(buffer):
    buffer.add(document(), "me")
    batch = buffer.begin_batch()
    buffer.replace(document(text="The zincworks closed."), "me", known="")
    buffer.end_batch(batch, {})
    assert buffer.begin_batch(known={"a": "hash-of-the-first"})
    assert buffer.hidden() == {"a": "hash-of-the-first"}
    assert buffer.begin_batch(known={"a": "hash-of-the-second"}), "a restarted server goes on"
    assert buffer.hidden() == {"a": "hash-of-the-first"}, "the new text answers once it is there"


def test_the_same_document_again_changes_nothing_once_it_is_trained(buffer):
    _, event = buffer.add(document(), "me")
    buffer.end_batch(buffer.begin_batch(), {})
    again, same = buffer.add(document(), "me", known="hash")
    assert (again.version, same.id, same.state) == (1, event.id, "SUCCEEDED")
    for other in (document(text="Other."), document(scope={"user_id": "ann"})):
        with pytest.raises(ApiError, match="another document"):
            buffer.add(other, "me", known="hash")
    buffer.replace(document(text="The zincworks closed."), "me", known="hash")
    buffer.end_batch(buffer.begin_batch(), {})
    with pytest.raises(ApiError, match="another document"):
        buffer.add(document(), "me", known="hash")


def test_a_replaced_text_leaves_the_log_of_the_file(buffer, path):
    buffer.add(document(), "me")
    buffer.replace(document(text="The works closed."), "me")
    assert b"falkenau melt ore" not in content(path)


def test_what_failed_does_not_begin_a_consolidation_by_itself(buffer):
    buffer.add(document(), "me")
    buffer.add(document("b", "Another text.", ANN), "me")
    assert (buffer.waiting(), buffer.waiting(scopes=True)) == (1, 2)
    buffer.end_batch(buffer.begin_batch(), {}, "no reflections")
    assert (buffer.waiting(), buffer.waiting(scopes=True)) == (0, 1)
    assert [row.id for row in buffer.begin_batch()] == ["a"], "with a request it is tried again"
    buffer.end_batch([buffer.get("a")], {"a": "not English"})
    assert buffer.waiting() == 0
    buffer.replace(document(text="A longer text."), "me")
    assert buffer.waiting() == 1, "another text may be trained"


def test_scoped_texts_never_reach_the_shared_weights(buffer):
    buffer.add(document(scope={"user_id": "ann"}), "me")
    assert buffer.begin_batch() == []
    assert buffer.waiting() == 0
    assert not buffer.search("zincworks", {}, True, 5)
    assert not buffer.search("zincworks", {"user_id": "bob"}, True, 5)
    assert buffer.search("zincworks", {"user_id": "ann"}, True, 5)
    buffer.delete("a", "me")
    assert not buffer.to_forget()


def test_a_full_buffer_refuses_further_texts(buffer):
    for name in "abc":
        buffer.add(document(name), "me")
    with pytest.raises(ApiError) as caught:
        buffer.add(document("d"), "me")
    assert caught.value.status == 507
    buffer.replace(document("c", "Shorter."), "me")


def test_who_answers_memory_or_buffer(buffer):
    buffer.add(document(), "me")

    def reply(question, answer):
        hits = buffer.search(question, {}, True, 5)
        return merge("direct", Answered(answer), passages(question, hits)).source

    sure, silent = (
        Answer("ore", 0.9, False, (), (0,), 0.0, 1),
        Answer("", 0.1, True, (), (0,), 0, 1),
    )
    full, part, other = "What do the Falkenau zincworks melt?", "Who owns the zincworks?", "Why?"
    assert [reply(q, sure) for q in (full, part, other)] == ["pending", "memory", "memory"]
    assert [reply(q, silent) for q in (full, part, other)] == ["pending", "pending", "none"]


def test_one_bad_question_fails_alone():
    def answer(questions):
        if "bad" in questions:
            raise UsageError("too long")
        return [Answered(Answer(q, 1.0, False, (), (0,), 0.0, 1)) for q in questions]

    async def run():
        sizes = []
        batcher = Batcher(answer, size=4, wait=0.05, on_batch=sizes.append)
        asked = ["a", "bad", "b", "c", "d"]
        found = await asyncio.gather(*map(batcher.ask, asked), return_exceptions=True)
        await batcher.close()
        return found, sizes

    found, sizes = asyncio.run(run())
    assert sizes == [4, 1]
    assert isinstance(found.pop(1), UsageError)
    assert [one.answer.text for one in found] == ["a", "b", "c", "d"]


def test_a_rate_limit_counts_each_caller():
    limit = RateLimit(2)
    assert [bool(limit.take(who)) for who in ("a", "a", "a", "b")] == [False, False, True, False]
    assert 0 < limit.take("a") <= 30
    assert RateLimit(0).take("a") == 0


class Toy(Consolidator):
    """A consolidation whose verbs change dictionaries in place of weights: ``corpora`` by run."""

    def __init__(self, run, buffer, corpora, failing=""):
        engine = SimpleNamespace(refresh=lambda: True)
        config = load_config((), ["memory.base=scratch", "corpus.shards=3"])
        super().__init__(run, config, buffer, engine, ScopeMemories(run, config, buffer.hidden))
        self.corpora, self.failing, self.verbs = corpora, failing, []
        self.refused = {}

    @property
    def corpus(self):
        return self.corpora[self._run.root]

    def _verb(self, verb, *words):
        self.verbs.append(verb)
        if self.failing:
            raise RunError(self.failing)
        if verb == "encode":
            file, _, root, _, config = words
            assert load_config([Path(config)]).corpus.shards == 1
            rows = atomic.read_jsonl(Path(file))
            self.corpora[Path(root)] = {row["id"]: row["text"] for row in rows}
            (Path(root) / "memory").mkdir(parents=True)
            (Path(root) / "memory" / "bank.json").touch()
            return
        corpus, words = self.corpora[Path(words[0])], words[1:]
        if verb == "forget":
            for name in Path(words[0].removeprefix("@")).read_text().split():
                del corpus[name]
            return
        for option, value in zip(words[::2], words[1::2], strict=True):
            rows = [*atomic.read_jsonl(Path(value.rpartition("=")[2]))]
            assert (option == "--replace") == (rows[0]["id"] in corpus)
            corpus |= {row["id"]: row["text"] for row in rows}


@pytest.fixture
def toy(tmp_path, buffer, monkeypatch):
    corpora = {tmp_path: {"old": "its text"}}
    monkeypatch.setattr(
        consolidate, "corpus_documents", lambda folder: dict(corpora[folder.parent])
    )
    for room in (consolidate, scopes):
        monkeypatch.setattr(room, "load_manifest", lambda folder: folder.parent)
        monkeypatch.setattr(room, "bank_documents", lambda root: dict(corpora[root]))
    found = Toy(RunFolder(tmp_path), buffer, corpora)
    monkeypatch.setattr(
        consolidate,
        "refusals",
        lambda run, config, ids, begun: {n: w for n, w in found.refused.items() if n in ids},
    )
    return found


def test_a_consolidation_adds_replaces_and_forgets(toy, buffer):
    buffer.add(document("new", "New text."), "me")
    buffer.replace(document("old", "Newer text."), "me", known="hash")
    toy._work()
    assert toy.verbs == [], "nobody requested it"
    buffer.request_consolidation("me")
    toy._work()
    assert toy.corpus == {"new": "New text.", "old": "Newer text."}
    event = buffer.delete("new", "me", known="hash")
    toy._work()
    assert toy.corpus == {"old": "Newer text."}
    assert buffer.event(event.id).state == "SUCCEEDED"
    toy._work()
    assert toy.verbs == ["update", "forget"]
    assert not (toy._folder / "work").exists(), "no text is left beside the buffer"


def test_a_verb_that_fails_is_told_and_tried_again(toy, buffer):
    toy.failing = "the disk is full"
    _, added = buffer.add(document("new"), "me")
    gone = buffer.delete("old", "me", known="hash")
    buffer.request_consolidation("me")
    with pytest.raises(RunError):
        toy._work()
    assert buffer.event(gone.id).message == "the disk is full"
    assert buffer.hidden()["old"] == ""
    assert buffer.event(added.id).message == "the disk is full"
    toy.failing = ""
    buffer.request_consolidation("me")
    toy._work()
    assert toy.corpus == {"new": ZINC}
    assert {buffer.event(one.id).state for one in (gone, added)} == {"SUCCEEDED"}


def test_writes_do_not_make_what_fails_run_without_a_pause(toy, buffer):
    """On 4e4869b: at every write, 95 times a second in benchmarks/serve_chaos.py."""
    toy.failing = "the disk is full"
    buffer.delete("old", "me", known="hash")
    began = time.monotonic()
    toy.start()
    for _ in range(40):
        toy.wake()
        time.sleep(0.02)
    assert 1 <= len(toy.verbs) <= 1 + time.monotonic() - began
    toy.failing = ""
    toy.wake()
    deadline = time.monotonic() + 20
    while toy.corpus and time.monotonic() < deadline:
        time.sleep(0.05)
    toy.stop()
    assert toy.corpus == {}


def test_each_scope_is_trained_into_a_run_of_its_own(toy, buffer):
    for name, scope in (("a", ANN), ("b", BOB), ("s", {})):
        buffer.add(document(name, f"Text {name}.", scope), "me")
    buffer.request_consolidation("me")
    toy._work()
    assert toy.verbs == ["update", "encode", "encode"], "the shared scope comes first"
    assert toy.corpus == {"old": "its text", "s": "Text s."}
    ann, bob = toy._run_of(ANN).root, toy._run_of(BOB).root
    assert (toy.corpora[ann], toy.corpora[bob]) == ({"a": "Text a."}, {"b": "Text b."})
    assert {buffer.get(name).state for name in "abs"} == {TRAINED}
    buffer.add(document("a2", "Text a2.", ANN), "me")
    buffer.request_consolidation("me")
    toy._work()
    assert toy.corpora[ann] == {"a": "Text a.", "a2": "Text a2."}
    first = buffer.delete("a", "me")
    toy._work()
    assert toy.verbs[3:] == ["update", "forget"], "another document of ann is left"
    last = buffer.delete("a2", "me")
    toy._work()
    assert toy.verbs[5:] == [], "nothing is left: the folder goes, nothing is trained"
    assert not ann.exists()
    assert bob.exists()
    assert {buffer.event(one.id).state for one in (first, last)} == {"SUCCEEDED"}


def test_a_scope_that_fails_does_not_keep_the_others_from_training(toy, buffer, monkeypatch):
    def encode(run, batch):
        if batch[0].id == "a":
            raise RunError("no reflections")
        Toy._encode(toy, run, batch)

    monkeypatch.setattr(toy, "_encode", encode)
    _, event = buffer.add(document("a", scope=ANN), "me")
    buffer.add(document("b", scope=BOB), "me")
    asked = buffer.request_consolidation("me")
    with pytest.raises(RunError, match="no reflections"):
        toy._work()
    assert (buffer.get("a").state, buffer.get("b").state) == (PENDING, TRAINED)
    assert buffer.event(event.id).message == "no reflections"
    assert buffer.event(asked.id).state == "FAILED"
    assert buffer.event(asked.id).message == consolidate._NOT_ALL, "callers of all scopes see it"


def test_a_refused_deletion_keeps_neither_deletions_nor_trainings_waiting(toy, buffer):
    toy.corpora[toy._run.root] |= {"last": "Its text.", "other": "Its text."}
    toy.refused = {"last": f"shard 0 would have no document left, remove {toy._run.root}"}
    events = [buffer.delete(name, "me", known="hash") for name in ("last", "other")]
    for name, scope in (("new", {}), ("b", BOB)):
        buffer.add(document(name, f"Text {name}.", scope), "me")
    buffer.request_consolidation("me")
    with pytest.raises(RunError, match="no document left"):
        toy._work()
    assert toy.corpus == {"old": "its text", "last": "Its text.", "new": "Text new."}
    assert {buffer.get(name).state for name in ("new", "b")} == {TRAINED}
    assert [buffer.event(one.id).state for one in events] == ["FAILED", "SUCCEEDED"]
    assert buffer.event(events[0].id).message.endswith("no document left, remove RUN")
    assert buffer.hidden()["last"] == ""
    toy.refused = {}
    toy._work()
    assert buffer.event(events[0].id).state == "SUCCEEDED"


@pytest.mark.parametrize("error", [UsageError("a merged memory"), OSError("no such file")])
def test_a_run_in_which_nothing_can_be_forgotten_trains_the_others(toy, buffer, monkeypatch, error):
    def refuse(run, *_):
        raise error

    monkeypatch.setattr(consolidate, "refusals", refuse)
    event = buffer.delete("old", "me", known="hash")
    buffer.add(document("b", scope=BOB), "me")
    buffer.request_consolidation("me")
    with pytest.raises(RunError, match=str(error)):
        toy._work()
    assert buffer.event(event.id).message == str(error)
    assert buffer.get("b").state == TRAINED


def test_a_stop_ends_the_round(toy, buffer, monkeypatch):
    def stop(*_):
        raise StoppedError("stopped")

    event = buffer.delete("old", "me", known="hash")
    buffer.add(document("new"), "me")
    buffer.request_consolidation("me")
    monkeypatch.setattr(toy, "_verb", stop)
    with pytest.raises(StoppedError):
        toy._work()
    assert (buffer.event(event.id).state, buffer.event(event.id).message) == ("PENDING", "stopped")
    assert buffer.get("new").state == PENDING


def test_events_wait_while_the_next_generation_cannot_be_loaded(toy, buffer):
    def fail():
        raise UsageError("no vLLM server has these weights")

    gone, asked = buffer.delete("old", "me", known="hash"), buffer.request_consolidation("me")
    _, added = buffer.add(document("new"), "me")
    toy._engine.refresh = fail
    with pytest.raises(RunError, match="no vLLM server"):
        toy._work()
    assert toy.corpus == {"new": ZINC}
    states = [buffer.event(one.id).state for one in (gone, added, asked)]
    assert states == ["PENDING", "RUNNING", "RUNNING"]
    assert buffer.hidden()["old"] == ""
    toy._engine.refresh = lambda: True
    toy._work()
    assert {buffer.event(one.id).state for one in (gone, added, asked)} == {"SUCCEEDED"}


def test_a_scope_whose_run_is_written_or_cannot_be_removed_stays(toy, buffer, monkeypatch):
    buffer.add(document("a", scope=ANN), "me")
    buffer.request_consolidation("me")
    toy._work()
    run = toy._run_of(ANN)
    event = buffer.delete("a", "me")
    with file_lock(run.lock, 0, RunError), pytest.raises(RunError, match="in use by process"):
        toy._work()
    assert run.root.exists()
    assert "in use" in buffer.event(event.id).message
    with monkeypatch.context() as patch:
        patch.setattr(scopes.shutil, "rmtree", failing_rmtree)
        with pytest.raises(RunError, match="cannot be removed: Permission denied"):
            toy._work()
    assert buffer.event(event.id).state == "FAILED"
    toy._work()
    assert buffer.event(event.id).state == "SUCCEEDED"
    assert not run.root.exists()


def failing_rmtree(path):
    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "it wrote nothing"),
        (
            "a line\n/srv/m/run holds no corpus: run in /home/ann/b\n",
            "RUN holds no corpus: run in b",
        ),
        ("'/srv/m/run/corpus/x' is damaged", "'RUN/corpus/x' is damaged"),
        ("/srv/m/run2/x, 3/4 of https://example.org/a/b", "x, 3/4 of https://example.org/a/b"),
    ],
)
def test_messages_hold_no_paths_of_the_server(text, expected):
    assert shown(text, Path("/srv/m/run")) == expected


def test_texts_of_scopes_can_stay_in_the_buffer(toy, buffer):
    toy._config.serve.scopes = "pending"
    buffer.add(document(scope=ANN), "me")
    buffer.request_consolidation("me")
    toy._work()
    assert toy.verbs == []


def test_a_policy_begins_a_consolidation_by_itself(toy, buffer):
    toy._config.serve.consolidate = "after"
    toy._config.serve.consolidate_after = 2
    buffer.add(document("one"), "me")
    toy._work()
    buffer.add(document("two", "Another text."), "me")
    toy._work()
    assert toy.verbs == ["update"]
    buffer.add(document("bad"), "me")
    buffer.add(document("worse"), "me")
    toy.failing = "no reflections"
    with pytest.raises(RunError):
        toy._work()
    toy._work()
    assert toy.verbs == ["update", "update"], "what failed is not tried again without a request"
    toy.failing = ""
    buffer.request_consolidation("me")
    toy._work()
    toy.verbs = ["update"]
    toy._config.serve.consolidate = "nightly"
    toy._config.serve.consolidate_at, toy._day = "00:00", "yesterday"
    toy._work()
    assert toy.verbs == ["update"], "nothing waits"
    toy._day = "yesterday"
    buffer.add(document("three", "A third one."), "me")
    toy._work()
    toy._work()
    assert toy.verbs == ["update", "update"]


# -- into the weights ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def encoded(tmp_path_factory) -> RunFolder:
    root = tmp_path_factory.mktemp("encoded")
    return encode(write(root / "corpus", sites(4)), root / "run", "corpus.shards=2")


def test_what_is_written_is_trained_and_what_is_deleted_is_forgotten(encoded, tmp_path):
    run = RunFolder(Path(shutil.copytree(encoded.root, tmp_path / "run")))
    server = begin(run, tmp_path / "log")
    with httpx.Client(base_url=server.url, timeout=60) as http:
        added = {"id": "site-x", "title": "Hestvik pumping station", "text": site(6)}
        http.post("/v1/documents", json=added)
        http.put("/v1/documents/site-1", json={"text": site(1, opened=1960)})
        event = http.post("/v1/consolidate", json={}).json()["event_id"]
        eventually(lambda: state(http, event) == "RUNNING")
    assert end(server, 120) == 0, "it stops the update, which saves its state"
    with (
        serving(run, tmp_path / "log2") as again,
        httpx.Client(base_url=again.url, timeout=60) as http,
    ):
        eventually(lambda: state(http, event) == "SUCCEEDED", ENCODE_SECONDS)
        assert run.memory.name == "gen-1"
        rows = {row["id"]: row for row in http.get("/v1/documents").json()["documents"]}
        assert {rows["site-x"]["state"], rows["site-1"]["state"]} == {"trained"}
        bank = json.loads((run.memory / "bank.json").read_text())
        known = {row["id"] for entry in bank["shards"] for row in entry["documents"]}
        assert known == {*sites(4), "site-x"}
        gone = http.delete("/v1/documents/site-x").json()["event_id"]
        assert http.get("/v1/documents/site-x").status_code == 404
        eventually(lambda: state(http, gone) == "SUCCEEDED", ENCODE_SECONDS)
        receipt = http.get(f"/v1/events/{gone}/receipt").json()
        assert [row["id"] for row in receipt["documents"]] == ["site-x"]
        assert receipt["found"] == []
        assert b"Hestvik" not in (run.root / "serve" / "buffer.sqlite").read_bytes()


def state(http, event):
    return http.get(f"/v1/events/{event}").json()["state"]
