"""A corpus that changes: the bank follows it exactly, and answers all the while."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import pytest
from changing_corpus import encode, shard_ids, site, sites, state, succeed, write
from cli import ENCODE_SECONDS, kill_driver, memo_dist, start, wait_until

from memo_dist.corpus.manifest import load_manifest, shard_of
from memo_dist.io.runfolder import RunFolder
from memo_dist.memory.bank import Bank
from memo_dist.training.checkpoint import read_state

CHANGED = {**sites(), "site-y": site(9), "site-2": site(2, opened=1990)}
QUESTION = "When was the Orlestad pumping station opened?"


@pytest.fixture(scope="module")
def first(tmp_path_factory) -> RunFolder:
    """A run over the corpus before its first change; tests change copies of it."""
    root = tmp_path_factory.mktemp("first")
    return encode(write(root / "corpus", sites()), root / "run")


@pytest.fixture(scope="module")
def changed(tmp_path_factory) -> RunFolder:
    """One encode of a later state of the corpus: a new document in shard 1, another text in 2."""
    root = tmp_path_factory.mktemp("changed")
    return encode(write(root / "corpus", CHANGED), root / "run")


@pytest.fixture
def run(first, tmp_path) -> RunFolder:
    return RunFolder(Path(shutil.copytree(first.root, tmp_path / "run")))


def update(run: RunFolder, *arguments: str | Path) -> str:
    return succeed(run, "update", *arguments)


def refusal(run: RunFolder, *arguments: str | Path) -> str:
    done = memo_dist("update", run.root, *arguments)
    assert done.returncode == 2, done.stdout + done.stderr
    return done.stderr


def generations(run: RunFolder) -> list[str]:
    return sorted(path.name for path in run.generations.glob("gen-*"))


def test_updates_in_a_row_equal_one_encode_of_the_final_corpus(run, tmp_path):
    texts = sites()
    before = {shard: run.memory_shard(shard) for shard in range(3)}
    texts["site-x"] = site(11)
    printed = update(run, write(tmp_path / "corpus", texts))
    (shard,) = {shard_of("site-x", 3)}
    assert "1 added: site-x" in printed
    assert f"shards trained: {shard};" in printed
    assert run.memory.name == "gen-1"
    for other in {0, 1, 2} - {shard}:  # not even copied
        weights = "model.safetensors"
        assert (run.memory_shard(other) / weights).samefile(before[other] / weights)
    texts["site-3"] = site(3, opened=1950)
    del texts["site-5"]
    printed = update(run, write(tmp_path / "corpus", texts))
    assert "1 changed: site-3" in printed
    assert "1 removed: site-5" in printed
    texts["works-0"] = texts.pop("site-0")
    printed = update(run, write(tmp_path / "corpus", texts))
    assert "1 renamed: site-0 -> works-0" in printed
    assert generations(run) == ["gen-2", "gen-3"]
    assert not (run.generations / "shard-0").exists()  # memory.keep_generations=2
    whole = encode(tmp_path / "corpus", tmp_path / "whole")
    assert state(run) == state(whole)
    assert "shards trained: none" in update(run, tmp_path / "corpus")
    assert run.memory.name == "gen-3"


def test_single_documents_give_what_the_whole_corpus_would(run, changed, tmp_path):
    new = write(tmp_path / "new", {"site-y": CHANGED["site-y"], "other": CHANGED["site-2"]})
    printed = update(run, "--add", new / "site-y.md", "--replace", f"site-2={new / 'other.md'}")
    assert "1 added: site-y" in printed
    assert "1 changed: site-2" in printed
    assert state(run) == state(changed)


def test_other_shards_equal_an_encode_with_their_number(run, tmp_path):
    printed = succeed(run, "rebalance", "--shards", "2")
    assert "shards trained: 0, 1; generation 1 answers" in printed
    corpus = write(tmp_path / "corpus", sites())
    whole = encode(corpus, tmp_path / "whole", "corpus.shards=2")
    assert state(run, 2) == state(whole, 2)
    assert not run.train(2).exists()
    assert "0 of 2 trained again: none" in update(run, corpus, "--dry-run")


def test_kills_leave_a_bank_that_answers_and_the_same_command_ends_it(run, changed, tmp_path):
    moments = {
        "the corpus is changed": lambda: load_manifest(run.corpus).revision == 1,
        "reflections are gone": lambda: not run.reflections.exists(),
        "a training is dropped": lambda: not (run.train(2) / "final").exists(),
        "a generation is begun": (run.generations / "gen-1").exists,
    }
    corpus = write(tmp_path / "corpus", CHANGED)
    before = Bank.load(run.memory, run.trained_reflections).answer([QUESTION])
    for moment in sorted(random.Random(23).sample(sorted(moments), 2), key=list(moments).index):
        process = start("update", run.root, corpus, log=tmp_path / "log")
        wait_until(moments[moment], ENCODE_SECONDS, moment, process)
        kill_driver(process)
        assert run.memory == run.generations
        after = Bank.load(run.memory, run.trained_reflections, verify=True).answer([QUESTION])
        assert [a.text for a in after] == [a.text for a in before]
    launched = ("launch", "local", "--", "update", run.root, corpus)
    done = memo_dist(*launched, seconds=ENCODE_SECONDS)
    assert done.returncode == 0, done.stderr
    assert state(run) == state(changed)


def test_continued_weights_are_marked_until_an_exact_update(run, changed, tmp_path):
    corpus = write(tmp_path / "corpus", CHANGED)
    update(run, corpus, "update.policy=continue")
    cards = [(run.memory_shard(shard) / "README.md").read_text() for shard in range(3)]
    assert ["not exact" in card for card in cards] == [False, True, True]
    assert state(run)["reflections"] == state(changed)["reflections"]
    assert state(run)["trained weights 1"] != state(changed)["trained weights 1"]
    tokens = [read_state(one.train(1) / "final").consumed_tokens for one in (run, changed)]
    assert tokens[0] < tokens[1]
    update(run, corpus, "update.policy=retrain")
    assert state(run) == state(changed)


def test_a_dry_run_names_the_shards_and_changes_nothing(run, tmp_path):
    texts = {**sites(), "site-1": site(1, opened=1960)}
    before = state(run)
    printed = update(run, write(tmp_path / "corpus", texts), "--dry-run")
    home = shard_ids(run)["site-1"]
    assert "1 changed: site-1" in printed
    assert f"1 of 3 trained again: {home}" in printed
    assert "no calls" in printed
    assert state(run) == before
    assert not generations(run)


def test_a_vocabulary_of_the_corpus_trains_every_shard(tmp_path):
    mode = "memory.scratch.tokenizer=corpus"
    run = encode(write(tmp_path / "corpus", sites()), tmp_path / "run", mode)
    corpus = write(tmp_path / "corpus", {**sites(), "site-4": site(4, opened=1970)})
    printed = update(run, corpus, "--dry-run")
    assert "3 of 3 trained again" in printed
    assert "memory.scratch.tokenizer=general" in printed
    assert "shards trained: 0, 1, 2" in update(run, corpus)
    assert state(run) == state(encode(corpus, tmp_path / "whole", mode))


def test_bad_requests_leave_the_run_as_it_was(run, tmp_path):
    before = state(run)
    file = write(tmp_path / "new", {"site-2": site(2, opened=1990)}) / "site-2.md"
    assert "name the new CORPUS" in refusal(run)
    assert "not both" in refusal(run, tmp_path / "new", "--add", file)
    assert "did you mean 'site-2'" in refusal(run, "--replace", f"sitee-2={file}")
    assert "use --replace site-2=" in refusal(run, "--add", file)
    assert "does not exist" in refusal(run, tmp_path / "missing")
    nothing = memo_dist("update", tmp_path / "none", tmp_path / "new")
    assert nothing.returncode == 2
    assert state(run) == before
    asked = memo_dist("ask", run.root, QUESTION, "--json")
    assert json.loads(asked.stdout)["mode"] == "direct"
