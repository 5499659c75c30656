"""``memo-dist plan``: known numbers from a hand-made law, intervals, errors, table and JSON."""

import json
import shlex
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from cli import memo_dist, tiny_corpus

from memo_dist.cli.main import run as run_cli
from memo_dist.config import load_config
from memo_dist.corpus.types import Document
from memo_dist.errors import UsageError
from memo_dist.models.scratch import MAX_POSITIONS
from memo_dist.scaling import corpus_sample
from memo_dist.scaling.capacity_plan import _doubts, _number
from memo_dist.scaling.corpus_sample import CorpusSample, Quantity
from memo_dist.scaling.law_file import LawFile, Measured, read_law, write_law
from memo_dist.scaling.laws import Interval, RecallLaw
from memo_dist.scaling.plan_models import backbone, choose_memory
from memo_dist.scaling.plan_size import needed_size, promised_recall, published_capacity
from memo_dist.scaling.recipe import Recipe
from memo_dist.training.job import rows_per_step

ABOUT = {"base": "scratch", "corpus": "hand-made", "exposures": 10, "versions": {"memo_dist": "0"}}
RECIPE = Recipe(1024, 3, 512, lr=0.025, lr_exponent=0.75, warmup_fraction=0.02)
MEASURED = Measured(9, (50_000, 400_000), (50, 1000), wordings=5)


def hand_made(top=0.95, half=100.0, slope=2.0):
    best = np.array([np.log(top / (1 - top)), np.log(half), np.log(slope)])
    draws = best + np.random.default_rng(1).normal(0, 0.05, (200, 3))
    numbers = [Interval(value, 0.9 * value, 1.1 * value) for value in (top, half, slope)]
    return RecallLaw(*numbers, spread=0.02, points=[], best=best, draws=draws)


@pytest.fixture(scope="module")
def law_path(tmp_path_factory):
    path = tmp_path_factory.mktemp("law") / "law.json"
    write_law(path, LawFile(hand_made(), RECIPE, MEASURED, ABOUT))
    return path


def sample(facts=1000.0, characters=50_000.0):
    spread = np.linspace(0.9, 1.1, 201)
    names = {"facts": facts, "wordings": 5 * facts, "tokens": 150 * facts}
    totals = {**names, "answer_characters": characters}
    return CorpusSample(
        10, 10, 10_000, 10_000, 5, {k: Quantity(v, v * spread) for k, v in totals.items()}
    )


def size(law, *overrides, exposures=200.0):
    return needed_size(sample(), load_config([], overrides), law, exposures)


class Name(str):
    """An id that counts how often it is hashed."""

    hashed = 0

    def __hash__(self):
        Name.hashed += 1
        return super().__hash__()


def test_a_sample_of_many_documents_is_chosen_in_one_pass(monkeypatch):
    documents = [Document(Name(f"d{n}"), "", "text") for n in range(300)]
    counts = np.ones((200, len(corpus_sample.COUNTED)))
    manifest = SimpleNamespace(characters=1200, documents=300, chunks=300)
    taken = []
    monkeypatch.setattr(corpus_sample, "iter_documents", lambda folder: iter(documents))
    monkeypatch.setattr(corpus_sample, "iter_chunks", lambda folder: iter(()))
    monkeypatch.setattr(corpus_sample, "load_manifest", lambda folder: manifest)
    monkeypatch.setattr(corpus_sample, "_count", lambda some, *_: taken.extend(some) or counts)
    config = load_config([], ["plan.sample_documents=200"])
    assert corpus_sample.sample_corpus(Path(), config).sampled == len(taken) == 200
    assert taken == [d for d in documents if d in taken]
    assert Name.hashed < 10 * len(documents)


def test_a_law_survives_its_file(law_path):
    read = read_law(law_path)
    law = hand_made()
    assert (read.about, read.recipe, read.law.spread) == (ABOUT, RECIPE, 0.02)
    assert read.measured == MEASURED
    assert (read.law.top, read.law.half, read.law.slope) == (law.top, law.half, law.slope)
    assert read.law.best == pytest.approx(law.best)
    assert np.array_equal(read.law.draws, law.draws)
    assert read.law.recall(100.0).value == pytest.approx(0.475)  # half of the top at x0


def test_size_by_a_law(law_path):
    law = read_law(law_path)
    found = size(law, "plan.recall=0.76").parameters  # 0.95 / 0.76 - 1 = 1 / 4: x = 2 x0
    assert found.value == pytest.approx(200_000)
    assert found.low < found.value < found.high


@pytest.mark.parametrize("with_law", [True, False])
def test_more_recall_needs_more(law_path, with_law):
    law = read_law(law_path) if with_law else None
    sizes = [size(law, f"plan.recall={r}").parameters.value for r in (0.2, 0.5, 0.8, 0.9)]
    assert sizes == sorted(set(sizes))


def test_size_by_the_anchor():
    assert [published_capacity(e) for e in (10, 100, 1000, 9999)] == [1, 1, 2, 2]
    found = size(None, "plan.recall=0.5", exposures=1000)
    assert found.source == "anchor"
    assert found.parameters.value == pytest.approx(0.5 * 50_000 / 2)
    assert found.parameters.low == pytest.approx(12_500 * 0.905 * 0.6 / 2)
    assert found.parameters.high == pytest.approx(12_500 * 1.095 * 1.3 * 2)
    assert "not a measurement" in found.assumptions[0]


def test_a_promise_holds_the_laws_doubt_and_that_of_one_memory(law_path):
    file, wanted = read_law(law_path), load_config([], [])
    found = promised_recall(sample(), wanted, file, 100_000)
    assert found.value == pytest.approx(0.475)  # half of the top at x0 = 100 parameters a fact
    doubt = replace(file, law=replace(file.law, spread=0.1))
    wider = promised_recall(sample(), wanted, doubt, 100_000)
    assert wider.low < found.low < 0.475 < found.high < wider.high
    assert promised_recall(sample(), wanted, doubt, 10**9).high == 1


def test_a_plan_by_a_law_proposes_its_recipe(capsys, corpus, law_path):
    plan = planned(capsys, corpus, f"plan.law={law_path}", "plan.recall=0.8")
    size, told = plan["quantities"]["shard_parameters"]["value"], plan["quantities"]["recall"]
    assert told["low"] < told["value"] < told["high"]
    pasted = load_config([], plan["overrides"])
    assert pasted.memory.scratch.vocabulary == RECIPE.vocabulary
    train = pasted.train
    assert train.lr == pytest.approx(0.025 * (size / 10_000) ** -0.75, rel=0.01)
    assert (train.epochs, train.batch_tokens, train.schedule) == (10, 512, "cosine")
    assert (train.weight_decay, train.warmup_fraction, list(train.betas)) == (0, 0.02, [0.9, 0.98])
    assert pasted.memory.base == "scratch"
    assert pasted.memory.scratch.layers >= RECIPE.least_layers
    assert plan["law"]["recipe"] == RECIPE.to_json()


@pytest.mark.parametrize("batch", [256, 512, 2048, 2304, 4096, 8192])
def test_a_recipe_is_one_that_train_accepts(batch):
    recipe = replace(RECIPE, batch_tokens=batch)
    train = load_config([], recipe.overrides(100_000, 10)).train
    assert 256 <= train.micro_batch_tokens <= MAX_POSITIONS
    assert rows_per_step(train, 1) * train.micro_batch_tokens == batch


@pytest.mark.parametrize(
    ("change", "override", "reason"),
    [
        ({"base": "smollm2-135m"}, "run.seed=17", "the law is of base smollm2-135m"),
        ({}, "train.epochs=2", "the law is of 10 passes, train.epochs=2"),
    ],
)
def test_nothing_is_promised_where_the_law_says_nothing(
    capsys, corpus, law_path, tmp_path, change, override, reason
):
    other = tmp_path / "law.json"
    other.write_text(json.dumps({**json.loads(law_path.read_text()), **change}))
    plan = planned(capsys, corpus, f"plan.law={other}", "plan.recall=0.8", override)
    assert "recall" not in plan["quantities"]
    assert any(f"nothing is promised: {reason}" in line for line in plan["assumptions"])
    recipe = any(line.startswith("train.lr=") for line in plan["overrides"])
    assert recipe == ("base" not in change)


def test_nothing_is_promised_to_a_bank(law_path):
    config = load_config([], ["memory.base=scratch"])
    assert _doubts(config, read_law(law_path), 10, 1) == []
    (reason,) = _doubts(config, read_law(law_path), 10, 2)
    assert "a bank of 2 must also find the shard" in reason


def test_extrapolations_are_named(law_path):
    file = read_law(law_path)
    inside = size(file, "plan.recall=0.6").assumptions  # 1,000 facts, five wordings each
    assert not any("outside" in note or "wordings" in note for note in inside)
    far = replace(file, measured=replace(MEASURED, parameters=(1, 9), wordings=2))
    notes = " ".join(size(far, "plan.recall=0.6").assumptions)
    assert "parameters are outside of what was measured (1 to 9)" in notes
    assert "5 wordings a fact, the law's memories read 2" in notes


def test_a_recall_above_the_law(law_path):
    with pytest.raises(UsageError, match=r"plan\.recall=0\.96 is above what the law reaches"):
        size(read_law(law_path), "plan.recall=0.96")


def test_shards_of_a_fixed_base():
    config = load_config([], ["memory.base=smollm2-135m"])
    few = choose_memory(Interval(1e8, 9e7, 2e8), config)
    assert few.model.shape.parameters == 134_515_008
    assert few.shards == 1
    assert "one is enough" in few.verdict
    many = choose_memory(Interval(5e8, 3e8, 6e8), config)
    assert many.shards == 4
    assert "corpus.shards=4" in many.overrides
    assert "interval 3 to 5" in many.verdict


def test_scratch_overrides_can_be_pasted():
    config = load_config([], ["memory.base=scratch", "corpus.shards=2"])
    choice = choose_memory(Interval(6e6, 5e6, 8e6), config)
    assert choice.model.shape.parameters == pytest.approx(3e6, rel=0.02)
    pasted = load_config([], choice.overrides)
    assert (pasted.corpus.shards, pasted.memory.scratch.layers) == (2, choice.model.shape.layers)


def test_backbones():
    assumed, cache, text = backbone(load_config([], []))
    assert (assumed, cache) == (7_000_000_000, 2 * 2 * 32 * 8 * 128)
    assert "assumed" in text
    known, cache, _ = backbone(load_config([], ["fusion.backbone=smollm2-135m"]))
    assert (known, cache) == (134_515_008, 2 * 2 * 30 * 3 * 64)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return tiny_corpus(tmp_path_factory.mktemp("plan") / "documents")


def planned(capsys, corpus, *arguments):
    assert run_cli(["plan", str(corpus), "--json", "memory.base=scratch", *arguments]) == 0
    return json.loads(capsys.readouterr().out)


def test_json_equals_table(capsys, corpus, law_path):
    arguments = (f"plan.law={law_path}", "plan.sample_documents=2", "plan.ranks=4")
    plan = planned(capsys, corpus, "--recall", "0.8", *arguments)
    assert plan["schema_version"] == 1
    assert plan["size_source"] == "law"
    done = memo_dist("plan", corpus, "--recall", "0.8", "memory.base=scratch", *arguments, new=True)
    assert done.returncode == 0, done.stderr
    for row in plan["quantities"].values():
        assert row["low"] <= row["value"] <= row["high"]
        line = next(x for x in done.stdout.splitlines() if x.startswith(row["label"]))
        assert _number(row["value"], row["unit"]) in line
        assert row["low"] == row["high"] or _number(row["high"], row["unit"]) in line
    assert plan["verdict"] in done.stdout
    assert all(line in done.stdout for line in plan["assumptions"])
    pasted = next(x for x in done.stdout.splitlines() if x.startswith("overrides: "))
    assert shlex.split(pasted.removeprefix("overrides: ")) == plan["overrides"]


def test_numbers_of_a_whole_corpus(capsys, corpus):
    """Every document read: nothing is extrapolated; ten times the characters: ten times all."""
    whole = planned(capsys, corpus, "train.epochs=7")["quantities"]
    facts = whole["facts"]
    assert facts["low"] == facts["value"] == facts["high"] > 20
    assert whole["training_tokens"]["value"] == 7 * whole["reflection_tokens"]["value"]
    stages = [whole[f"rank_bytes_zero{stage}"]["value"] for stage in range(3)]
    assert stages[0] > stages[2]
    assert whole["generator_calls"]["value"] == 0
    wanted = int(10 * whole["characters"]["value"])
    more = planned(capsys, corpus, f"plan.characters={wanted}")["quantities"]["facts"]
    assert more["value"] == pytest.approx(10 * facts["value"])
    assert more["low"] < more["value"] < more["high"]


def test_calls_and_money_of_a_model(capsys, corpus):
    prices = ("generator.price_prompt=1", "generator.price_completion=2")
    where = ("generator.kind=openai", "generator.model=m", "generator.urls=[http://127.0.0.1:9/v1]")
    found = planned(capsys, corpus, *prices, *where)["quantities"]
    prompt, answer = (found[f"generator_{k}_tokens"]["value"] for k in ("prompt", "answer"))
    assert found["generator_calls"]["value"] > 0
    assert found["generator_money"]["value"] == pytest.approx((prompt + 2 * answer) / 1e6)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("plan.recall=0.99", "plan.recall=0.99 is above what the law reaches"),
        ("plan.recall=1", "plan.recall=1"),
        ("plan.law=none.json", "plan.law=none.json: No such file"),
        ("plan.characters=1", "plan.characters=1 is below"),
        ("plan.recal=0.5", "did you mean 'plan.recall'?"),
        ("memory.base=smollm", "memory.base='smollm' does not exist"),
    ],
)
def test_errors(capsys, corpus, law_path, override, message):
    assert run_cli(["plan", str(corpus), f"plan.law={law_path}", override]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_missing_corpus(capsys, tmp_path):
    assert run_cli(["plan", str(tmp_path / "none")]) == 2
    assert str(tmp_path / "none") in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"draws": []}, "draws must be rows"),
        ({"r": [1.5, 1, 2]}, "r=1.5 must lie below 1"),
        ({"x0": 3}, "x0=3 must be [value, low, high]"),
        ({"s": [0, 0, 0]}, "s=0.0 must be above 0"),
        ({"exposures": "many"}, "exposures=many"),
        ({"schema_version": 9}, "not a law file of schema_version 1"),
        ({"spread": -1}, "spread=-1 must be at least 0"),
        ({"recipe": 3}, "recipe.vocabulary=None must be a number"),
        ({"recipe": {**RECIPE.to_json(), "lr": "fast"}}, "recipe.lr=fast must be a number"),
        ({"recipe": {**RECIPE.to_json(), "lr": 0}}, "recipe.lr=0 must be a number above 0"),
        ({"recipe": {**RECIPE.to_json(), "batch_tokens": 300}}, "batch_tokens=300 must be a"),
        ({"measured": {"cells": 3}}, "measured must hold cells, parameters and"),
        ({"measured": {**MEASURED.to_json(), "wordings": 0}}, "measured must hold cells"),
    ],
)
def test_broken_law_files(law_path, tmp_path, change, message):
    path = tmp_path / "broken.json"
    path.write_text(json.dumps({**json.loads(law_path.read_text()), **change}))
    with pytest.raises(UsageError) as error:
        read_law(path)
    assert message in str(error.value)


def test_a_law_file_says_what_it_was_measured_on(tmp_path):
    file = LawFile(hand_made(), RECIPE, MEASURED, {"base": "scratch", "corpus": "c"})
    with pytest.raises(UsageError, match="exposures, versions"):
        write_law(tmp_path / "law.json", file)


def test_draws_that_never_reach_the_recall(law_path):
    file = read_law(law_path)
    low = replace(file.law, draws=np.vstack([file.law.draws, [[-1.0, 1.0, 1.0]]]))
    assert any("draws reach" in note for note in size(replace(file, law=low)).assumptions)
