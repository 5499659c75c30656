"""A document is forgotten: withheld at once, out of the weights, and found nowhere."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path

import byte_search
import pytest
from changing_corpus import encode, site, sites, state, succeed, write
from cli import ENCODE_SECONDS, memo_dist
from transformers import AutoTokenizer

from memo_dist.change.receipt import Receipt
from memo_dist.change.verify import receipts_of
from memo_dist.io.cache import cache_folder
from memo_dist.io.runfolder import RunFolder
from memo_dist.runs import existing_run, open_run

PLANTED = "The keeper of the Quorvenhaal archive was Ysolde Brackenthwaite from 1911 to 1934."
RARE = ("quorvenhaal", "brackenthwaite")
GONE = "site-3"


def planted() -> dict[str, str]:
    texts = sites()
    return {**texts, GONE: f"{texts[GONE]} {PLANTED}"}


@pytest.fixture(scope="module")
def first(tmp_path_factory) -> RunFolder:
    root = tmp_path_factory.mktemp("first")
    return encode(write(root / "corpus", planted()), root / "run")


@pytest.fixture
def run(first, tmp_path) -> RunFolder:
    return RunFolder(Path(shutil.copytree(first.root, tmp_path / "run")))


def forget(run: RunFolder, *arguments: str | Path) -> str:
    return succeed(run, "forget", *arguments)


def holding(run: RunFolder) -> set[str]:
    """Files that hold a rare word of the planted sentence, by their names below the run.

    Searched: the run, the user's cache, and what memo-dist and Ray left as temporary files.
    """
    tokenizer = AutoTokenizer.from_pretrained(run.memory_shard(0))
    left = Path(tempfile.gettempdir())
    roots = [run.root, cache_folder(), *left.glob("memo-*"), *left.glob("ray")]
    found = byte_search.holders(roots, RARE, tokenizer)
    return {os.path.relpath(path, run.root) for path in found}


def test_a_forgotten_document_equals_one_that_was_never_there(run, tmp_path):
    before = holding(run)
    assert {"corpus/documents.jsonl", "reflections.jsonl", "synth/direct/part-0.jsonl"} & before
    assert any("examples.safetensors" in name for name in before)
    asked = memo_dist("ask", run.root, "Who was the keeper of the Quorvenhaal archive?")
    assert asked.returncode == 0
    questions = tmp_path / "questions.jsonl"
    asked = {"id": "q", "question": "Who was the keeper of the Quorvenhaal archive?"}
    row = {**asked, "answer": "Ysolde Brackenthwaite", "supporting_ids": [GONE]}
    questions.write_text(json.dumps(row) + "\n")
    why = "withdrawn by its author"
    printed = forget(run, GONE, "--why", why, "--audit", "--questions", questions)
    questions.unlink()
    assert "bytes equal to a run that never saw it: shard 2 yes" in printed
    assert f"forgotten: {GONE}" in printed
    assert "shards trained again: 2" in printed
    texts = planted()
    del texts[GONE]
    assert state(run) == state(encode(write(tmp_path / "corpus", texts), tmp_path / "whole"))
    assert holding(run) == set()
    (path,) = receipts_of(run)
    text = path.read_text() + path.with_suffix(".html").read_text()
    assert "withdrawn by its author" in text
    assert not any(word in text.casefold() for word in RARE)
    receipt = Receipt.load(path)
    assert receipt.found == []
    assert receipt.audit["now"] == receipt.audit["never saw"]
    assert receipt.audit["now"]["largest difference from never saw"] == 0.0
    assert receipt.audit["now"]["membership AUC against never saw"]["loss"][0] == 0.5
    assert receipt.audit["before"]["questions"] == receipt.audit["now"]["questions"] > 5
    checked = memo_dist("verify", run.root, "--never-saw", seconds=ENCODE_SECONDS)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "weights of shard 2 equal" in checked.stdout
    # It does not come back with a corpus that still has it.
    back = write(tmp_path / "corpus", {**planted(), "site-9": site(9)})
    refused = memo_dist("update", run.root, back)
    assert refused.returncode == 2
    assert GONE in refused.stderr
    (run.root / "notes.txt").write_text(f"As I said: {PLANTED}")
    found = memo_dist("verify", run.root)
    assert found.returncode == 1
    assert "notes.txt" in found.stdout


def test_bad_requests_withhold_nothing(run, tmp_path):
    known = state(run)
    for arguments, message in {
        ("sitee-3",): "did you mean 'site-3'",
        ("nothing-*",): "there is no document 'nothing-*'",
        ("site-4", "site-6"): "shard 0 would have no document left",
        (f"@{tmp_path / 'missing'}",): "cannot be read",
    }.items():
        refused = memo_dist("forget", run.root, *arguments)
        assert refused.returncode == 2, arguments
        assert message in refused.stderr
    assert not (run.generations / "tombstones.json").exists()
    assert state(run) == known
    config = existing_run(run.root)[1]
    with open_run(run.root, config, "must"):
        refused = memo_dist("forget", run.root, GONE)
        assert "is in use by process" in refused.stderr
    printed = memo_dist("forget", run.root, "site-[35]", "--dry-run").stdout
    assert "2 removed: site-3, site-5" in printed
    assert "1 of 3 trained again: 2" in printed
