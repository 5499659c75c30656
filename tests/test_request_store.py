"""The store of closed request journals: all settled requests are found, a kill loses nothing."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from memo_dist.io.hashing import sha256_text
from memo_dist.io.runfolder import RunFolder
from memo_dist.llm import request_store
from memo_dist.llm.records import Attempt, RequestJournal
from memo_dist.llm.request_store import RequestStore, close_journals
from memo_dist.stages.records import SYNTHESIS
from memo_dist.stages.state import files
from memo_dist.synthesis.worker import store_path


def attempts(name: str, count: int = 1, settled: bool = True) -> list[Attempt]:
    key = sha256_text(name)
    last = count - 1
    return [
        Attempt(
            key,
            number,
            "ok" if settled and number == last else "invalid",
            final=settled and number == last,
            text=f"é{name} " * (1 + int(key[:2], 16)),
        )
        for number in range(count)
    ]


def journal(path: Path, *histories: list[Attempt]) -> Path:
    opened = RequestJournal(path)
    for history in histories:
        for attempt in history:
            opened.append(attempt)
    opened.close()
    return path


def history(store: Path, name: str) -> list[Attempt]:
    opened = RequestStore(store)
    found = opened.history(sha256_text(name))
    opened.close()
    return found


def test_every_settled_request_of_every_journal_is_found(tmp_path):
    chance = random.Random(1)
    all_of = {f"r{i}": attempts(f"r{i}", chance.randint(1, 4), i % 7 > 0) for i in range(150)}
    rows = list(all_of.values())
    chance.shuffle(rows)
    paths = [journal(tmp_path / f"requests-{i}.jsonl", *rows[i::3]) for i in range(3)]
    store = tmp_path / "requests" / "direct.jsonl"
    close_journals(paths, store)
    assert not any(path.exists() for path in paths)
    for name, expected in all_of.items():
        assert history(store, name) == (expected if expected[-1].final else [])
    assert history(store, "never asked") == []


def test_an_absent_store_is_empty(tmp_path):
    assert history(tmp_path / "nothing.jsonl", "a") == []
    close_journals([tmp_path / "requests-0.jsonl"], tmp_path / "nothing.jsonl")
    assert not (tmp_path / "nothing.jsonl").exists()


def test_later_journals_join_the_store_and_a_settled_history_goes_before_an_open_one(tmp_path):
    store = tmp_path / "store.jsonl"
    open_one = attempts("a", 2, settled=False)
    close_journals([journal(tmp_path / "0", open_one, attempts("b"))], store)
    settled = attempts("a", 3)
    close_journals(
        [journal(tmp_path / "0", attempts("c")), journal(tmp_path / "1", settled)], store
    )
    assert history(store, "a") == settled
    assert history(store, "b") == attempts("b")
    assert history(store, "c") == attempts("c")


def test_torn_and_mangled_lines_are_not_believed(tmp_path):
    path = journal(tmp_path / "0", *[attempts(f"r{i}") for i in range(20)])
    lines = path.read_bytes().splitlines(keepends=True)
    lines[3] = lines[3].replace(b"ok", b"no")
    path.write_bytes(b"".join(lines)[:-9])
    store = tmp_path / "store.jsonl"
    close_journals([path], store)
    lost = {3, 19}
    for index in range(20):
        expected = [] if index in lost else attempts(f"r{index}")
        assert history(store, f"r{index}") == expected


def test_damage_inside_the_store_costs_that_request_only(tmp_path):
    store = tmp_path / "store.jsonl"
    close_journals([journal(tmp_path / "0", *[attempts(f"r{i}") for i in range(30)])], store)
    lines = store.read_bytes().splitlines(keepends=True)
    damaged = next(i for i in range(30) if sha256_text(f"r{i}").encode() in lines[12])
    lines[12] = b"?" * (len(lines[12]) - 1) + b"\n"
    store.write_bytes(b"".join(lines))
    for index in range(30):
        expected = [] if index == damaged else attempts(f"r{index}")
        assert history(store, f"r{index}") == expected


def test_a_kill_before_the_journals_went_loses_nothing(tmp_path, monkeypatch: pytest.MonkeyPatch):
    path, store = journal(tmp_path / "0", attempts("a"), attempts("b", 2)), tmp_path / "store.jsonl"

    def killed(self: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(request_store.Path, "unlink", killed)
        with pytest.raises(KeyboardInterrupt):
            close_journals([path], store)
    once = store.read_bytes()
    assert path.exists()
    close_journals([path], store)
    assert store.read_bytes() == once
    assert not path.exists()


def test_the_record_of_the_synthesis_names_the_store_as_text(tmp_path):
    run = RunFolder(tmp_path)
    store = store_path(run, "direct")
    store.parent.mkdir(parents=True)
    close_journals([journal(tmp_path / "journal", attempts("a"))], store)
    assert store in files(run, SYNTHESIS.texts)
