"""Reflections as knowledge of a study, and the way from a study's law to a training by plan."""

from __future__ import annotations

import json
import shutil
from collections import Counter

import pytest
import torch
from cli import memo_dist, tiny_corpus

pytest.importorskip("scipy")

from memo_dist.cli.main import run as run_cli
from memo_dist.config import load_config
from memo_dist.errors import UsageError
from memo_dist.io import atomic
from memo_dist.scaling.cells import Cell, cell_name
from memo_dist.scaling.planning import check_study
from memo_dist.scaling.sources.reflections import ReflectionKnowledge
from memo_dist.synthesis.types import Reflection
from memo_dist.training.job import rows_per_step

DOCUMENTS, FACTS, WORDINGS = 4, 10, 4


def taught(wordings=WORDINGS):
    """Reflections of four documents: ten facts each, in so many wordings."""
    for document in range(DOCUMENTS):
        for fact in range(FACTS):
            name, parent = f"Machine {document}-{fact}", None
            for wording in range(wordings):
                question = f"What is the {'very ' * wording}weight of {name}, please?"
                answer = f"{7 * document + fact} kg of steel" + " and lead" * (fact % 3)
                row = Reflection(
                    question, answer, "direct", (f"d{document}",), (), 0, "hand", "1", "0", parent
                )
                parent = parent or row.id
                yield row


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "run"
    atomic.write_jsonl(folder / "reflections.jsonl", (row.to_json() for row in taught()))
    return folder


def study(run, *overrides):
    keys = [
        "scale.sources=[reflections]",
        f"scale.reflections.run={run}",
        "scale.reflections.vocabulary=300",
        "scale.reflections.sizes=[30000]",
        "scale.reflections.documents=[2,4]",
    ]
    return load_config([], [*keys, *overrides])


def rows_of(batch):
    return [
        tuple(tokens[: int((targets != -100).nonzero().max()) + 1].tolist())
        for tokens, targets in zip(batch.tokens, batch.targets, strict=True)
    ]


def test_a_pass_reads_every_row_once_in_other_company_each_time(run):
    knowledge = ReflectionKnowledge(study(run).scale.reflections, 4, seed=1)
    count = knowledge.batches(256)
    passes = [[rows_of(knowledge.batch(e, i, 256)) for i in range(count)] for e in (0, 1, 0)]
    read = [Counter(row for batch in made for row in batch) for made in passes]
    assert read[0] == read[1]
    assert set(read[0].values()) == {1}
    assert passes[0] == passes[2]
    groups = [{frozenset(batch) for batch in made} for made in passes]
    assert not groups[0] & groups[1]
    sizes = [sum(map(len, batch)) for batch in passes[0]]
    assert min(sizes) > 100
    assert max(sizes) < 400


def test_held_out_wordings_are_never_read_and_differ_by_seed(run):
    config = study(run).scale.reflections
    held = []
    for seed in (1, 2):
        knowledge = ReflectionKnowledge(config, 4, seed)
        held.append({tuple(ids) for ids, _ in knowledge._held})
        assert not held[-1] & {tuple(ids) for ids, _ in knowledge._trained}
        assert len(held[-1]) == DOCUMENTS * FACTS // 5
    assert held[0] != held[1]


def test_bits_are_relative_to_the_memory_before(run):
    knowledge = ReflectionKnowledge(study(run).scale.reflections, 2, seed=1)

    def score(nats):
        return lambda batch: (
            nats * (batch.targets != -100).double(),
            torch.ones_like(batch.targets, dtype=torch.bool),
        )

    knowledge.prepare(score(2.0))
    assert knowledge.held_bits(score(2.0)) == 0
    measured = knowledge.measure(score(0.0))
    assert measured["bits"] == knowledge.held_bits(score(0.0)) > 0
    assert measured["recall"] == 1
    assert measured["wordings"] == pytest.approx(WORDINGS - 0.2)  # a fifth of the facts gave one


def test_a_cell_is_named_by_what_the_run_says_not_by_where_it_lies(run, tmp_path, monkeypatch):
    cell = Cell("reflections", 30_000, 2, 20, 1)
    name = cell_name(cell, study(run).scale)
    monkeypatch.chdir(tmp_path)
    assert cell_name(cell, study("run").scale) == name
    rows = [row.to_json() for row in taught()][:-1]
    atomic.write_jsonl(run / "reflections.jsonl", rows)
    assert cell_name(cell, study(run).scale) != name
    shutil.rmtree(run)
    with pytest.raises(UsageError, match=r"has no reflections\.jsonl"):
        cell_name(cell, study(run).scale)


@pytest.mark.parametrize(
    ("overrides", "wordings", "message"),
    [
        (["scale.reflections.documents=[2,5]"], 4, "documents=5: the run has reflections of 4"),
        ([], 2, "can be held out"),
    ],
)
def test_what_would_fail_in_some_cell_is_refused_before_any_runs(run, overrides, wordings, message):
    atomic.write_jsonl(run / "reflections.jsonl", (row.to_json() for row in taught(wordings)))
    with pytest.raises(UsageError) as error:
        check_study(study(run, *overrides))
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("scale.reflections.predict=[90000]", "predict=[90000] must be empty"),
        ("scale.reflections.batch_tokens=300", "batch_tokens=300 must be a multiple of 256"),
    ],
)
def test_rules(run, override, message):
    with pytest.raises(UsageError) as error:
        study(run, override)
    assert message in str(error.value)


def test_from_a_study_to_a_plan_to_a_training(tmp_path, capsys):
    """A law, a plan by it, and a training with the plan's own overrides, through the real CLI."""
    corpus, run, law = tiny_corpus(tmp_path / "corpus"), tmp_path / "run", tmp_path / "law"
    done = memo_dist("synthesize", corpus, "--run", run, "memory.base=scratch")
    assert done.returncode == 0, done.stderr
    file = tmp_path / "law.yaml"
    file.write_text(
        "scale: {sources: [reflections], bootstrap: 20, measurements: 2, precisions: [fp32],"
        f" reflections: {{run: {run}, vocabulary: 300, sizes: [20000, 40000], documents: [2, 3],"
        " exposures: [2], seeds: [1], lr_check: []}}"
    )
    done = memo_dist("scale", "run", file, "--run", law)
    assert done.returncode == 0, done.stderr
    told = json.loads((law / "recall-law.json").read_text())
    assert told["measured"]["cells"] == 4
    # Two passes teach nothing worth planning with: another curve, the study's recipe.
    told |= {"r": [0.9, 0.8, 0.95], "x0": [300, 200, 400], "s": [1, 0.9, 1.1]}
    told["draws"] = [[2.2, 5.7, 0.0]] * 20
    (law / "recall-law.json").write_text(json.dumps(told))
    keys = ["memory.base=scratch", f"plan.law={law}/recall-law.json", "plan.recall=0.5"]
    assert run_cli(["plan", str(corpus), "--json", *keys]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["law"]["measured"] == told["measured"]
    pasted = load_config([], plan["overrides"])
    assert rows_per_step(pasted.train, pasted.cluster.workers) == 1
    assert pasted.memory.scratch.layers >= 2
    done = memo_dist("train", run, *plan["overrides"])
    assert done.returncode == 0, done.stderr
    model = json.loads((run / "train/base/config.json").read_text())
    assert model["hidden_size"] == pasted.memory.scratch.hidden_size
    job = json.loads((run / "train/shard-0/job.json").read_text())
    assert job["train"]["lr"] == pasted.train.lr
