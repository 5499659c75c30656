"""Generations of a folder: which one holds, and what is removed when."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from cli import memo_dist
from trained_bank import train_shards, write_bank

from memo_dist.config import Config, to_yaml
from memo_dist.errors import UsageError
from memo_dist.io import atomic, generations
from memo_dist.io.generations import POINTER, current_number, generation, held, prune, switch
from memo_dist.io.runfolder import RunFolder

MARKER, PARTS = "bank.json", ("shard-*", "reflections.jsonl")


def build(folder: Path, number: int) -> Path:
    """A complete generation."""
    path = generation(folder, number)
    (path / "shard-0").mkdir(parents=True)
    for name in ("shard-0/weights", "reflections.jsonl", MARKER):
        (path / name).write_text(str(number))
    return path


def there(folder: Path) -> list[int]:
    return [n for n in generations.numbers(folder) if (generation(folder, n) / MARKER).exists()]


@pytest.fixture
def folder(tmp_path) -> Path:
    """Generations 0 to 3, of which 3 holds; beside them what belongs to no generation."""
    for number in range(4):
        build(tmp_path / "memory", number)
    (tmp_path / "memory" / "tombstones.json").write_text("{}")
    switch(tmp_path / "memory", 3)
    return tmp_path / "memory"


def test_a_run_shows_the_generation_that_holds_and_a_pinned_one_stays(tmp_path):
    run = RunFolder(tmp_path)
    assert run.memory == tmp_path / "memory"  # before the first encode, too
    build(run.memory, 0)
    pinned = run.pin()
    build(run.generations, 1)
    assert run.memory == run.generations  # an unfinished build does not show
    switch(run.generations, 1)
    assert run.memory == run.generations / "gen-1"
    assert pinned.memory == run.generations
    assert pinned.trained_reflections == run.generations / "reflections.jsonl"


def test_old_generations_are_pruned_and_what_is_built_stays(folder):
    build(folder, 4)
    assert prune(folder, 2, MARKER, PARTS) == []
    assert there(folder) == [2, 3, 4]
    assert sorted(path.name for path in folder.iterdir()) == [
        POINTER, "gen-2", "gen-3", "gen-4", "tombstones.json",
    ]  # fmt: skip


def test_a_generation_that_is_read_stays_unless_forced(folder):
    with held(folder, MARKER), held(generation(folder, 1), MARKER):
        assert prune(folder, 1, MARKER, PARTS) == [0, 1]
        assert there(folder) == [0, 1, 3]
        assert prune(folder, 1, MARKER, PARTS, force=True) == []
    assert there(folder) == [3]


def test_a_half_removed_generation_is_removed_by_the_next_prune(folder, monkeypatch):
    def killed(*_, **__):
        raise KeyboardInterrupt

    for _ in range(2):
        with monkeypatch.context() as patched:
            patched.setattr(generations.shutil, "rmtree", killed)
            with pytest.raises(KeyboardInterrupt):
                prune(folder, 1, MARKER, PARTS)
        assert current_number(folder) == 3
    prune(folder, 1, MARKER, PARTS)
    assert sorted(path.name for path in folder.iterdir()) == [POINTER, "gen-3", "tombstones.json"]


@pytest.mark.parametrize("text", ["", "3", '{"generation": 3}', '{"generation": 3, "check": "0"}'])
def test_a_damaged_pointer_is_refused(folder, text):
    (folder / POINTER).write_text(text)
    with pytest.raises(UsageError, match=r"CURRENT is damaged.*gen-1, gen-2, gen-3"):
        RunFolder(folder.parent).pin()


def test_a_pointer_to_nothing_is_refused(folder):
    switch(folder, 9)
    with pytest.raises(UsageError, match="names generation 9, which is not in"):
        current_number(folder)


def test_a_linked_folder_is_the_same_files_or_copies(folder, monkeypatch, tmp_path):
    source = generation(folder, 1)
    generations.link_folder(source, tmp_path / "linked")
    assert (tmp_path / "linked" / MARKER).samefile(source / MARKER)

    def refused(*_):
        raise OSError("no links here")

    monkeypatch.setattr(generations.os, "link", refused)
    generations.link_folder(source, tmp_path / "linked")
    assert not (tmp_path / "linked" / MARKER).samefile(source / MARKER)
    assert (tmp_path / "linked" / "shard-0" / "weights").read_text() == "1"


def test_a_generation_half_copied_is_named_and_the_old_one_still_answers(tmp_path):
    facts = ({"Who runs the Orlo mill?": "Petra Vann"}, {"Who owns the Kest quarry?": "Ivo Marr"})
    run = RunFolder(tmp_path / "run")
    write_bank(run.memory, train_shards(tmp_path / "shards", facts, []), facts)
    (run.root / "reflections.jsonl").unlink()
    atomic.write_text(run.config, to_yaml(Config()))

    def ask():
        return memo_dist("ask", run.root, "Who runs the Orlo mill?")

    # A copy that ended before the pointer, then one that ended before the weights of a shard.
    half = run.generations / "gen-1"
    shutil.copytree(run.memory_shard(0), half / "shard-0")
    assert "Petra Vann" in ask().stdout
    shutil.copyfile(run.memory / "bank.json", half / "bank.json")
    generations.switch(run.generations, 1)
    refused = ask()
    assert refused.returncode == 2
    assert "gen-1/bank.json': shard 1 has no folder 'shard-1'" in refused.stderr
    shutil.copytree(run.generations / "shard-1", half / "shard-1")
    (half / "shard-1" / "model.safetensors").unlink()
    assert "holds no model weights" in ask().stderr
    (run.generations / "CURRENT").unlink()
    assert "Petra Vann" in ask().stdout
