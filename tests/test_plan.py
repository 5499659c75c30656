"""``memo-dist plan``: known numbers from a hand-made law, intervals, errors, table and JSON."""

import json
from dataclasses import replace

import numpy as np
import pytest
from cli import memo_dist, tiny_corpus

from memo_dist.cli.main import run as run_cli
from memo_dist.config import load_config
from memo_dist.errors import UsageError
from memo_dist.scaling.capacity_plan import _number
from memo_dist.scaling.corpus_sample import CorpusSample, Quantity
from memo_dist.scaling.law_file import read_law, write_law
from memo_dist.scaling.laws import Interval, RecallLaw
from memo_dist.scaling.plan_models import backbone, choose_memory
from memo_dist.scaling.plan_size import needed_size, published_capacity

ABOUT = {"base": "scratch", "corpus": "hand-made", "exposures": 10, "versions": {"memo_dist": "0"}}


def hand_made(top=0.95, half=100.0, slope=2.0):
    best = np.array([np.log(top / (1 - top)), np.log(half), np.log(slope)])
    draws = best + np.random.default_rng(1).normal(0, 0.05, (200, 3))
    numbers = [Interval(value, 0.9 * value, 1.1 * value) for value in (top, half, slope)]
    return RecallLaw(*numbers, points=[], best=best, draws=draws)


@pytest.fixture(scope="module")
def law_path(tmp_path_factory):
    path = tmp_path_factory.mktemp("law") / "law.json"
    write_law(path, hand_made(), ABOUT)
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


def test_a_law_survives_its_file(law_path):
    read = read_law(law_path)
    law = hand_made()
    assert read.about == ABOUT
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
    done = memo_dist(
        "plan", corpus, "--recall", "0.8", "memory.base=scratch", *arguments, seconds=300
    )
    assert done.returncode == 0, done.stderr
    for row in plan["quantities"].values():
        assert row["low"] <= row["value"] <= row["high"]
        line = next(x for x in done.stdout.splitlines() if x.startswith(row["label"]))
        assert _number(row["value"], row["unit"]) in line
        assert row["low"] == row["high"] or _number(row["high"], row["unit"]) in line
    assert plan["verdict"] in done.stdout
    assert all(line in done.stdout for line in plan["overrides"] + plan["assumptions"])


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
        ({"schema_version": 9}, "no law file of schema_version 1"),
    ],
)
def test_broken_law_files(law_path, tmp_path, change, message):
    path = tmp_path / "broken.json"
    path.write_text(json.dumps({**json.loads(law_path.read_text()), **change}))
    with pytest.raises(UsageError) as error:
        read_law(path)
    assert message in str(error.value)


def test_a_law_file_says_what_it_was_measured_on(tmp_path):
    with pytest.raises(UsageError, match="exposures, versions"):
        write_law(tmp_path / "law.json", hand_made(), {"base": "scratch", "corpus": "c"})


def test_draws_that_never_reach_the_recall(law_path):
    file = read_law(law_path)
    low = replace(file.law, draws=np.vstack([file.law.draws, [[-1.0, 1.0, 1.0]]]))
    assert any("draws reach" in note for note in size(replace(file, law=low)).assumptions)
