"""The programs in examples/ run, and their questions are what the memories are taught."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from changes_here import work_here
from cli import TINY, tiny_corpus

from memo_dist.cli.main import run as run_command
from memo_dist.io import atomic
from memo_dist.io.runfolder import RunFolder

EXAMPLES = Path(__file__).parent.parent / "examples"
SMALL = (*TINY, "memory.calibration_facts=4")


def verb(*arguments: str | Path) -> None:
    assert run_command([str(argument) for argument in arguments]) == 0


@pytest.fixture(autouse=True)
def here(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    work_here(monkeypatch)


def test_technical_documentation(tmp_path, monkeypatch, capsys):
    import technical_documentation as example

    kinds = example.questions()
    assert {kind: len(rows) for kind, rows in kinds.items()} == {
        "changed": 34, "two hops": 9, "same in changed documents": 26, "other documents": 127,
    }  # fmt: skip
    data = tmp_path / "data"
    for folder in ("documents", "documents_v2"):
        (data / folder).mkdir(parents=True)
        shutil.copy(example.DATA / folder / "manual-hobrand.md", data / folder)
    changes = [
        r for r in example.rows(example.DATA / "changes.jsonl") if "hobrand" in r["document"]
    ]
    atomic.write_jsonl(data / "changes.jsonl", changes)
    atomic.write_jsonl(data / "questions.jsonl", [])
    monkeypatch.setattr(example, "DATA", data)
    report = example.follow(tmp_path / "run", SMALL, verb)
    assert report["changed"]["n"] == 4
    assert report["two hops"]["n"] == 9
    assert json.loads((tmp_path / "run" / "corpus" / "manifest.json").read_text())["revision"] == 1
    other = tiny_corpus(tmp_path / "own")
    monkeypatch.setattr(example, "verb", verb)
    monkeypatch.setattr(example.sizes, "__defaults__", (verb,))
    capsys.readouterr()
    example.main([str(tmp_path / "other"), "--documents", str(other), *SMALL])
    printed = capsys.readouterr().out
    assert json.loads(printed[printed.index("{") :])["documents"] == 3


def test_an_amended_ordinance_is_taught_by_date(tmp_path):
    import regulation as example

    report = example.amend(tmp_path / "run", SMALL, verb)
    assert report["after, as of 2028"]["n"] == len(example.AMENDED)
    taught = {
        (row["question"], row["answer"])
        for row in atomic.read_jsonl(RunFolder(tmp_path / "run").reflections)
    }
    for what, old, new in example.AMENDED:
        assert (example.question(what), new) in taught, what
        assert (example.question(what), old) not in taught
        assert (example.question(what, example.AS_OF), old) in taught
