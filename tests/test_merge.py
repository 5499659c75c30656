"""Banks are merged: the union answers as each of them does; merged weights beside it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from cli import memo_dist
from safetensors.numpy import load_file, save_file
from trained_bank import train_shards, write_bank

from memo_dist.config import Config, to_yaml
from memo_dist.corpus.types import Document
from memo_dist.io import atomic
from memo_dist.io.marker import CHECK
from memo_dist.io.runfolder import RunFolder
from memo_dist.memory.bank import Bank
from memo_dist.memory.manifest import load_manifest
from memo_dist.memory.tombstones import Tombstone, add_tombstones
from memo_dist.models.merging import METHODS, Merging, merge_weights
from memo_dist.models.weight_files import StoredWeights
from memo_dist.training.checkpoint import mark_complete

FACTS = (
    {"Who runs the Orlo mill?": "Petra Vann", "Where is the Orlo mill?": "in Dunfell"},
    {"Who owns the Kest quarry?": "Ivo Marr", "Where is the Kest quarry?": "in Rowhill"},
    {"Who leads the Tarn school?": "Una Holt", "Where is the Tarn school?": "in Ashby"},
)
CONTENT = "0" * 64


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> list[Path]:
    root = tmp_path_factory.mktemp("trained")
    return train_shards(root, FACTS, ["What is the time?"], one_base=True)


def write_run(root: Path, shards: Sequence[Path], facts: Sequence[Mapping[str, str]], *names: str):
    """A run folder that holds a bank, its base and its configuration."""
    run = RunFolder(root)
    base = shards[0].parent / "base"
    write_bank(run.memory, shards, facts, names, base)
    shutil.move(run.reflections, run.memory / "reflections.jsonl")
    shutil.copytree(base, run.root / "train" / "base")
    mark_complete(run.root / "train" / "base")
    config = Config()
    config = replace(config, memory=replace(config.memory, base="scratch"))
    atomic.write_text(run.config, to_yaml(config))
    return run


@pytest.fixture
def one(tmp_path, trained) -> RunFolder:
    return write_run(tmp_path / "one", trained[:2], FACTS[:2], "mill", "quarry")


@pytest.fixture
def two(tmp_path, trained) -> RunFolder:
    return write_run(tmp_path / "two", trained[2:], FACTS[2:], "school")


def date(run: RunFolder, name: str, when: str) -> None:
    run.corpus.mkdir(exist_ok=True)
    row = Document(id=name, title=name, text="t", origin="t", date=when).to_json()
    atomic.write_jsonl(run.corpus / "documents.jsonl", [row])


def answers(run: RunFolder, facts: Sequence[Mapping[str, str]]) -> list[str]:
    bank = Bank.load(run.memory, run.trained_reflections, verify=True)
    return [answer.text for answer in bank.answer([q for known in facts for q in known])]


def test_the_union_answers_as_each_bank_does(one, two, tmp_path):
    out = RunFolder(tmp_path / "out")
    done = memo_dist("merge", one.root, two.root, "--out", out.root)
    assert done.returncode == 0, done.stderr
    assert "3 shards of 2 runs, union: 3 shards" in done.stdout
    assert "6 of 6 taught questions: the union answers as their own bank" in done.stdout
    assert "recall of the union 6 of 6 (100.0%), 3 documents" in done.stdout
    assert answers(out, FACTS) == answers(one, FACTS[:2]) + answers(two, FACTS[2:])
    before = [e.weights_hash for run in (one, two) for e in load_manifest(run.memory).shards]
    assert [entry.weights_hash for entry in load_manifest(out.memory).shards] == before
    asked = memo_dist("ask", out.root, "Who leads the Tarn school?")
    assert "Una Holt" in asked.stdout
    assert "school" in asked.stdout
    for verb in (("update", "--add", tmp_path), ("forget", "mill"), ("verify",)):
        refused = memo_dist(verb[0], out.root, *verb[1:])
        assert refused.returncode == 2
        assert "merged memory and no corpus: change one, two" in refused.stderr


def test_merged_weights_are_measured_beside_the_union(one, two, tmp_path):
    out = RunFolder(tmp_path / "out")
    done = memo_dist("merge", one.root, two.root, "--out", out.root, "--method", "linear")
    assert done.returncode == 0, done.stderr
    assert "recall after linear" in done.stdout
    assert "points lost" in done.stdout
    (entry,) = load_manifest(out.memory, verify=True).shards
    assert [row.id for row in entry.documents] == ["mill", "quarry", "school"]
    parts = [one.memory_shard(0), one.memory_shard(1), two.memory_shard(0)]
    weights = [load_file(part / "model.safetensors") for part in parts]
    for name, found in load_file(out.memory_shard(0) / "model.safetensors").items():
        mean = np.mean([part[name] for part in weights], axis=0)
        np.testing.assert_allclose(found, mean, atol=1e-6)
    assert "merged" in (out.memory_shard(0) / "README.md").read_text()
    assert not (out.root / "train").exists()
    record = atomic.read_json(out.memory / "merge.json")
    assert record["union"]["mill"] == [2, 2]
    assert set(record["recall"]) == {"mill", "quarry", "school"}


@pytest.mark.parametrize("method", METHODS)
def test_a_merge_of_a_model_with_itself_or_its_base(method, trained, tmp_path):
    """Each method gives finite weights; where the models are equal, what it must."""
    base, model = trained[0].parent / "base", trained[0]
    texts = [[[5, 6, 7, 8], [9, 10, 11]]] * 2
    again = shutil.copytree(model, tmp_path / "again")  # mergekit refuses one model twice
    merge_weights(Merging(method, 0.5), base, [model, again], texts, tmp_path / "merged")
    merged, first, origin = (StoredWeights(one) for one in (tmp_path / "merged", model, base))
    assert merged.names == first.names
    for name in merged.names:
        assert torch.isfinite(merged[name]).all()
    name = "model.layers.0.mlp.up_proj.weight"
    tau = first[name] - origin[name]
    if method in ("linear", "slerp", "task", "regmean"):
        torch.testing.assert_close(merged[name] - origin[name], tau, atol=1e-4, rtol=1e-3)
    if method == "iso_c":
        values = torch.linalg.svdvals(merged[name] - origin[name])
        torch.testing.assert_close(values, torch.full_like(values, float(values.mean())))


def test_what_cannot_be_merged_is_refused_and_writes_nothing(one, two, trained, tmp_path):
    out = tmp_path / "out"

    def refused(*arguments: str | Path) -> str:
        done = memo_dist("merge", *arguments, "--out", out)
        assert done.returncode == 2, done.stdout
        assert not out.exists()
        assert not list(tmp_path.glob(".tmp-*"))
        return " ".join(done.stderr.split())

    assert "at least two runs" in refused(one.root)
    assert "not a run folder" in refused(one.root, tmp_path / "none")
    assert "makes fewer of them" in refused(one.root, "--method", "task", "--shards", "2")
    same = write_run(tmp_path / "same", trained[1:2], FACTS[1:2], "quarry")
    assert "'quarry' is in" in refused(one.root, same.root)
    other = load_file(two.root / "train" / "base" / "model.safetensors")
    far = tmp_path / "far" / "base"
    shutil.copytree(two.root / "train" / "base", far)
    save_file({k: v + 1 for k, v in other.items()}, far / "model.safetensors")
    shutil.copytree(trained[2], far.parent / "shard-2")
    foreign = write_run(tmp_path / "foreign", [far.parent / "shard-2"], FACTS[2:], "school")
    assert "was trained from another base than" in refused(one.root, foreign.root)
    add_tombstones(two.generations, [Tombstone.of("mill", CONTENT, "2031-01-01T00:00:00Z")])
    assert "forgotten in another of the runs: mill" in refused(two.root, one.root)
    (two.generations / "tombstones.json").unlink()
    (two.memory / "bank.json").unlink()
    assert "has no memory yet" in refused(one.root, two.root)
    third = write_run(tmp_path / "third", trained[2:], FACTS[2:], "school")
    (tmp_path / "file").touch()
    done = memo_dist("merge", foreign.root, one.root, "--out", tmp_path / "file" / "out")
    assert done.returncode == 2  # refused before anything is written
    done = memo_dist("merge", one.root, third.root, "--out", tmp_path / "file" / "out")
    assert done.returncode == 1
    assert "cannot write" in done.stderr
    out.mkdir()
    done = memo_dist("merge", one.root, same.root, "--out", out)
    assert "exists; name a new folder" in done.stderr


def test_the_older_revision_of_a_document_is_withheld(one, trained, tmp_path):
    newer = write_run(tmp_path / "newer", trained[2:], FACTS[2:], "quarry")
    path = newer.memory / "bank.json"
    bank = json.loads(path.read_text().replace(CONTENT, "1" * 64))
    atomic.write_json(path, {name: bank[name] for name in bank if name != CHECK})
    for run, when in ((one, "2020-01-01"), (newer, "2024-01-01")):
        date(run, "quarry", when)
    out = RunFolder(tmp_path / "out")
    done = memo_dist("merge", one.root, newer.root, "--out", out.root, "--duplicates", "newer")
    assert done.returncode == 0, done.stderr
    assert "withheld, an older revision: quarry" in done.stdout
    assert answers(out, FACTS[1:2]) == ["", ""]
    assert answers(out, FACTS[2:]) == list(FACTS[2].values())
    date(newer, "quarry", "2020-01-01")
    done = memo_dist(
        "merge", one.root, newer.root, "--out", tmp_path / "no", "--duplicates", "newer"
    )
    assert done.returncode == 2
    assert "do not tell which revision is newer" in done.stderr


def test_an_equal_document_of_two_runs_is_withheld_in_both_shards(one, trained, tmp_path):
    """On 9d1f21f the second shard did not list it, and answered from it after its deletion."""
    same = write_run(tmp_path / "same", trained[2:], FACTS[2:], "quarry")
    out = RunFolder(tmp_path / "out")
    done = memo_dist("merge", one.root, same.root, "--out", out.root, "--duplicates", "newer")
    assert done.returncode == 0, done.stderr
    assert "withheld" not in done.stdout
    listed = [[row.id for row in entry.documents] for entry in load_manifest(out.memory).shards]
    assert listed == [["mill"], ["quarry"], ["quarry"]]
    add_tombstones(out.generations, [Tombstone.of("quarry", CONTENT, "2031-01-01T00:00:00Z")])
    assert answers(out, FACTS[1:]) == ["", "", "", ""]
