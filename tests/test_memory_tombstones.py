"""Tombstones: what a loaded bank does not say any more."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest
from trained_bank import train_shards, write_bank

from memo_dist.errors import UsageError
from memo_dist.fusion.bank_beliefs import requests_of
from memo_dist.io import atomic
from memo_dist.io.generations import link_folder, switch
from memo_dist.io.runfolder import RunFolder
from memo_dist.memory.bank import Bank
from memo_dist.memory.provenance import SourceIndex
from memo_dist.memory.tombstones import (
    FILE_NAME,
    Tombstone,
    add_tombstones,
    forgotten,
    load_tombstones,
    refuse_forgotten,
)
from memo_dist.synthesis.types import Reflection

CONTENT = "0" * 64
FACTS = (
    {"Who runs the Orlo mill?": "Petra Vann", "Where is the Orlo mill?": "in Dunfell"},
    {"Who owns the Kest quarry?": "Ivo Marr", "Where is the Kest quarry?": "in Rowhill"},
)
QUESTIONS = [question for shard in FACTS for question in shard]


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return train_shards(tmp_path_factory.mktemp("shards"), FACTS, ["What is the time?"])


@pytest.fixture
def run(tmp_path, shards) -> RunFolder:
    write_bank(tmp_path / "memory", shards, FACTS)
    return RunFolder(tmp_path)


def texts(bank: Bank) -> list[str]:
    return [answer.text for answer in bank.answer(QUESTIONS)]


def stone(name: str, content: str = CONTENT) -> Tombstone:
    return Tombstone.of(name, content, "2031-05-06T07:08:09Z")


def test_a_loaded_bank_withholds_a_document_at_once(run):
    bank = Bank.load(run.memory, run.reflections)
    known = [answer for shard in FACTS for answer in shard.values()]
    assert texts(bank) == known
    add_tombstones(run.generations, [stone("doc-0")])
    answers = bank.answer(QUESTIONS)
    assert [answer.text for answer in answers] == ["", "", *known[2:]]
    assert [answer.abstained for answer in answers] == [True, True, False, False]
    assert all("doc-0" not in answer.sources for answer in answers)
    assert texts(Bank.load(run.memory, run.reflections)) == ["", "", *known[2:]]


def test_what_another_document_says_too_is_still_answered(run):
    rows = list(atomic.read_jsonl(run.reflections))
    more = {**rows[0], "sources": ["doc-9"]}
    bank = Bank.load(run.memory)
    also = SourceIndex([Reflection.from_json(more)])
    bank.shards = (replace(bank.shards[0], sources=also), bank.shards[1])
    add_tombstones(run.generations, [stone("doc-0")])
    assert texts(bank)[0] == FACTS[0][QUESTIONS[0]]


def test_a_generation_without_the_document_answers_again(run):
    add_tombstones(run.generations, [stone("doc-0")])
    link_folder(run.memory, run.root / "copy")
    target = shutil.move(run.root / "copy", run.generations / "gen-1")
    bank = atomic.read_json(target / "bank.json")
    bank["shards"][0]["documents"] = []
    del bank["check"]
    atomic.write_json(target / "bank.json", bank)
    assert texts(Bank.load(run.memory, run.reflections))[0] == ""
    switch(run.generations, 1)
    assert texts(Bank.load(run.memory, run.reflections))[0] == FACTS[0][QUESTIONS[0]]


def test_fusion_is_refused_meanwhile(run):
    bank = Bank.load(run.memory, run.reflections)
    votes = bank.votes(QUESTIONS)
    assert len(requests_of(bank, QUESTIONS, votes)) == len(QUESTIONS)
    add_tombstones(run.generations, [stone("doc-1")])
    with pytest.raises(UsageError, match="--mode direct until `memo-dist forget` has ended"):
        requests_of(bank, QUESTIONS, votes)


def test_another_content_under_the_id_is_another_document(run):
    add_tombstones(run.generations, [stone("doc-0")])
    add_tombstones(run.generations, [stone("doc-1", "1" * 64)])
    stones = load_tombstones(run.generations)
    assert forgotten(stones, {"doc-0": CONTENT, "doc-1": CONTENT}) == ["doc-0"]
    refuse_forgotten(run.generations, {"doc-1": CONTENT})
    with pytest.raises(UsageError, match="were forgotten and may not come back: doc-0"):
        refuse_forgotten(run.generations, {"doc-0": CONTENT})
    assert CONTENT not in (run.generations / FILE_NAME).read_text()


@pytest.mark.parametrize("text", ["", "{}", '{"schema_version": 2, "documents": []}'])
def test_nothing_is_answered_while_the_list_is_damaged(run, text):
    bank = Bank.load(run.memory, run.reflections)
    (run.generations / FILE_NAME).write_text(text)
    with pytest.raises(UsageError, match="lists the documents that must not be answered from"):
        bank.answer(QUESTIONS)
