"""What updates and deletions meet: a full disk in each phase, other writers, other revisions."""

from __future__ import annotations

import errno
import os
import shutil
from functools import partial
from pathlib import Path

import pytest
from changes_here import work_here
from changing_corpus import SETTINGS, site, sites, state, write

from memo_dist import pipeline
from memo_dist.change.receipt import Receipt
from memo_dist.change.refusals import refusals
from memo_dist.change.staying import BUFFER, NOT_SEARCHED, OTHER_RUNS
from memo_dist.change.verify import receipts_of
from memo_dist.cli.main import run as run_command
from memo_dist.io import atomic
from memo_dist.io.runfolder import RunFolder
from memo_dist.memory.bank import Bank
from memo_dist.memory.tombstones import load_tombstones
from memo_dist.runs import existing_run, open_run
from memo_dist.serve.buffer import PendingBuffer
from memo_dist.serve.records import Stored
from memo_dist.synthesis import merging
from memo_dist.training import renew
from memo_dist.training.continued import load_start
from memo_dist.training.recall import HELD_OUT

QUESTION = "When was the Orlestad pumping station opened?"
GONE = "site-3"
RENEWED = (
    "corpus.next/documents.jsonl",
    "synth/direct/manifest.json",
    "synth/direct/part-",
    "synth/shards/reflections-2.jsonl",
    "synth/merging/reflections-",
    "reflections.jsonl",
    "train/shard-2/job.json",
    "memory/gen-1/.building-shard-2/",
    "memory/gen-1/bank.json",
    "memory/CURRENT",
)
"""The first files of each phase of a change in shard 2, in order."""
FORGOTTEN = (
    "memory/tombstones.json",
    "memory/forgetting.json",
    *RENEWED,
    "synth/direct/journal/part-",
    "memory/receipts/",
)


@pytest.fixture(autouse=True)
def here(monkeypatch):
    work_here(monkeypatch)


@pytest.fixture(scope="module")
def first(tmp_path_factory) -> RunFolder:
    root = tmp_path_factory.mktemp("first")
    with pytest.MonkeyPatch.context() as patch:
        work_here(patch)
        return encode(write(root / "corpus", sites()), root / "run")


@pytest.fixture
def run(first, tmp_path) -> RunFolder:
    return RunFolder(Path(shutil.copytree(first.root, tmp_path / "run")))


def encode(corpus: Path, run: Path, *more: str) -> RunFolder:
    assert run_command(["encode", str(corpus), "--run", str(run), *SETTINGS, *more]) == 0
    return RunFolder(run)


def full_disk(patch: pytest.MonkeyPatch, run: RunFolder, name: str) -> None:
    """Let files of the run whose path begins with ``name`` find no space."""
    write_with = atomic.write_with

    def refuse(path, writer):
        if os.path.relpath(path, run.root).startswith(name):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        write_with(path, writer)

    for module in (atomic, merging):
        patch.setattr(module, "write_with", refuse)


def ids(run: RunFolder) -> tuple[set[str], set[str]]:
    """Of the reflections behind a bank of one shard: (trained, held out)."""
    every = {row["id"] for row in atomic.read_jsonl(run.trained_reflections)}
    held = {row["id"] for row in atomic.read_jsonl(run.train(0) / HELD_OUT)}
    return every - held, held


def answers(run: RunFolder) -> list[str]:
    """What the bank that holds says now, its files verified."""
    bank = Bank.load(run.memory, run.trained_reflections, verify=True)
    bank.withheld = None  # random weights say nothing that could be withheld
    return [answer.text or answer.refused for answer in bank.answer([QUESTION])]


def fails_in_each_phase(run: RunFolder, arguments: list[str], phases, capsys) -> None:
    """The command with a disk that is full in one phase after another, then with space."""
    before = answers(run)
    for name in phases:
        with pytest.MonkeyPatch.context() as patch:
            full_disk(patch, run, name)
            assert run_command(arguments) == 1, name
        said = capsys.readouterr().err
        assert "space" in said, name
        assert "unexpected" not in said
        assert run.memory == run.generations or name in phases[-2:]
        if run.memory == run.generations:
            assert answers(run) == before, name
    assert run_command(arguments) == 0


def test_a_full_disk_in_each_phase_of_an_update(run, tmp_path, capsys):
    texts = {**sites(), GONE: site(3, opened=1950)}
    corpus = write(tmp_path / "corpus", texts)
    fails_in_each_phase(run, ["update", str(run.root), str(corpus)], RENEWED, capsys)
    assert state(run) == state(encode(corpus, tmp_path / "whole"))


def test_a_full_disk_in_each_phase_of_a_deletion(run, tmp_path, capsys):
    texts = sites()
    del texts[GONE]
    fails_in_each_phase(run, ["forget", str(run.root), GONE], FORGOTTEN, capsys)
    assert state(run) == state(encode(write(tmp_path / "corpus", texts), tmp_path / "whole"))
    assert len(load_tombstones(run.generations)) == 1
    assert len(list((run.generations / "receipts").glob("*.json"))) == 1
    assert not (run.generations / "forgetting.json").exists()
    assert run_command(["verify", str(run.root)]) == 0


def test_what_the_old_bank_answered_meanwhile_is_cleared(run, monkeypatch):
    export = pipeline.run_export

    def evaluated_meanwhile(of: RunFolder, config) -> None:
        export(of, config)
        atomic.write_jsonl(of.eval("meanwhile") / "results.jsonl", [{"answer": "in 1904"}])

    monkeypatch.setattr(pipeline, "run_export", evaluated_meanwhile)
    assert run_command(["forget", str(run.root), GONE]) == 0
    assert not run.eval("meanwhile").exists()


def test_a_run_that_is_written_is_refused_to_others(run, tmp_path, monkeypatch, capsys):
    corpus = write(tmp_path / "corpus", {**sites(), "site-9": site(9)})
    before = state(run)
    words = {"update": [str(corpus)], "forget": [GONE], "rebalance": ["--shards", "2"]}
    for verb in words:
        soon = partial(open_run, lock_seconds=0.1)
        monkeypatch.setattr(f"memo_dist.cli.{verb}.open_run", soon)
    with open_run(run.root, existing_run(run.root)[1], "must"):
        for verb, arguments in words.items():
            assert run_command([verb, str(run.root), *arguments]) == 2
            assert f"is in use by process {os.getpid()}" in capsys.readouterr().err
    assert state(run) == before
    assert not load_tombstones(run.generations)


def test_a_document_in_another_revision_is_not_forgotten_halfway(run, tmp_path, capsys):
    corpus = write(tmp_path / "corpus", {**sites(), GONE: site(3, opened=1950)})
    update = ["update", str(run.root), str(corpus)]
    with pytest.MonkeyPatch.context() as patch:
        full_disk(patch, run, "synth/direct/manifest.json")
        assert run_command(update) == 1
    capsys.readouterr()
    assert run_command(["forget", str(run.root), GONE]) == 2
    said = capsys.readouterr().err
    assert f"{GONE} is another revision in the corpus than in the memory" in said
    assert "end the update" in said
    assert not load_tombstones(run.generations)
    assert run_command(update) == 0
    assert run_command(["forget", str(run.root), GONE]) == 0
    assert len(load_tombstones(run.generations)) == 1


def test_a_replacement_that_does_not_train_is_forgotten_in_both_revisions(run, tmp_path, capsys):
    """On 9d1f21f: refused, and the served document could be neither trained nor deleted."""
    file = tmp_path / "new.md"
    file.write_text(f"# Velmora pumping station\n\n{site(3, opened=1950)}\n")
    with pytest.MonkeyPatch.context() as patch:
        full_disk(patch, run, "synth/direct/manifest.json")
        assert run_command(["update", str(run.root), "--replace", f"{GONE}={file}"]) == 1
    capsys.readouterr()
    assert run_command(["forget", str(run.root), GONE]) == 0, capsys.readouterr().err
    assert len(load_tombstones(run.generations)) == 2, "neither revision comes back"
    assert not (run.generations / "replaced.json").exists()
    assert run_command(["verify", str(run.root)]) == 0
    for opened in (1901, 1950):
        (run.root / "notes.txt").write_text(site(3, opened=opened))
        assert run_command(["verify", str(run.root)]) == 1, opened


def test_words_that_also_wait_in_the_buffer_hold_up_no_deletion(run):
    """On 9d1f21f: "files still hold words of the documents", and no update from then on."""
    buffer = PendingBuffer(run.root / BUFFER, 10)
    for name, scope in (("site-b", {}), ("site-c", {"user_id": "ann"})):
        text = site(3, opened=1950)
        buffer.add(Stored(name, 0, "", text, {}, scope, "", 0.0, 0.0), "me")
    theirs = run.root / OTHER_RUNS / "0123" / "corpus"
    theirs.mkdir(parents=True)
    (theirs / "documents.jsonl").write_text(site(3))
    assert run_command(["forget", str(run.root), GONE]) == 0
    assert not (run.generations / "forgetting.json").exists()
    assert run_command(["verify", str(run.root)]) == 0
    (receipt,) = receipts_of(run)
    assert NOT_SEARCHED in Receipt.load(receipt).out_of_reach
    buffer.add(Stored(GONE, 0, "", site(3), {}, {}, "", 0.0, 0.0), "me")
    assert run_command(["verify", str(run.root)]) == 1, "its own row is residue"
    buffer.close()


def test_the_last_document_of_a_shard_is_refused_beside_those_that_go(run, capsys):
    with pytest.MonkeyPatch.context() as patch:
        full_disk(patch, run, "synth/direct/manifest.json")
        assert run_command(["forget", str(run.root), "site-4"]) == 1
    capsys.readouterr()
    assert run_command(["forget", str(run.root), "site-6"]) == 2
    assert "shard 0 would have no document left" in capsys.readouterr().err
    config = existing_run(run.root)[1]
    assert set(refusals(run, config, ["site-3", "site-6"], ["site-4"])) == {"site-6"}
    assert run_command(["forget", str(run.root), "site-4"]) == 0


class KilledHere(BaseException):
    """The process ends."""


def test_continued_weights_are_calibrated_on_what_they_did_not_see(tmp_path, monkeypatch):
    """Also where the launch before was killed, and where continued weights are continued."""
    corpus, more = tmp_path / "corpus", ("synthesis.phrasings=4", "corpus.shards=1")
    run = encode(write(corpus, sites()), tmp_path / "run", *more)
    words = ["update", str(run.root), str(corpus), "update.policy=continue"]
    trained, held = ids(run)
    assert held
    write(corpus, {**sites(), "site-2": site(2, opened=1990)})

    def killed(*_):
        raise KilledHere

    with monkeypatch.context() as patched:
        patched.setattr(renew, "take_up", killed)
        with pytest.raises(KilledHere):
            run_command(words)
    for opened in (1990, 1960):
        write(corpus, {**sites(), "site-2": site(2, opened=opened)})
        assert run_command(words) == 0
        assert set(load_start(run.train(0)).held_out) == held
        now, held = ids(run)
        assert held
        assert not held & trained
        trained |= now
    assert run.memory.name == "gen-2"
