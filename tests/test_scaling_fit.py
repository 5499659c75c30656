"""The laws of the scaling study, on data whose laws are known."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("scipy")

from memo_dist.config import load_config
from memo_dist.config.scale_schema import ScaleConfig
from memo_dist.io import atomic
from memo_dist.scaling.cells import Cell, cell_name
from memo_dist.scaling.fit import Study, fit_study, split_overwhelmed, usable_points
from memo_dist.scaling.folder import StudyFolder
from memo_dist.scaling.law_file import read_law
from memo_dist.scaling.laws import Point, fit_capacity, fit_recall
from memo_dist.scaling.predict import check_predictions
from memo_dist.scaling.study import keep_recall_law
from memo_dist.scaling.summary import device_rows, summary_text

SIZES = (5_000, 10_000, 20_000, 40_000)
LOADS = (0.5, 1.0, 2.0, 4.0, 8.0)
C, KNEE, TAU = 2.6, 3.0, 150.0


def capacity(parameters, exposures, exponent):
    return C * 1e4 * (parameters / 1e4) ** exponent * (1 - math.exp(-exposures / TAU))


def held(volume, full):
    return (volume**-KNEE + full**-KNEE) ** (-1 / KNEE)


def points(exponent, exposures=(100, 400), noise=0.02, seed=0):
    chance = np.random.default_rng(seed)
    made = []
    for size in SIZES:
        for load in LOADS:
            for count in exposures:
                for number in (1, 2):
                    bits = held(load * size, capacity(size, count, exponent))
                    cell = Cell("random", size, load, count, number)
                    wobble = math.exp(noise * chance.standard_normal())
                    made.append(
                        Point(cell, size, size - 1000, 10, load * size, count, bits * wobble, 0.5)
                    )
    return made


@pytest.mark.parametrize("exponent", [1.0, 0.85])
def test_known_parameters_are_found_and_lie_in_their_intervals(exponent):
    law = fit_capacity(points(exponent), resamples=60, seed=1)
    for found, true in ((law.c, C), (law.exponent, exponent), (law.tau, TAU)):
        assert found.low <= true <= found.high
        assert found.value == pytest.approx(true, rel=0.05)
    assert law.knee.value == pytest.approx(KNEE, rel=0.15)
    assert law.exponent_is_one == (exponent == 1.0)


def test_a_larger_size_is_predicted():
    law = fit_capacity(points(0.9), resamples=40, seed=1)
    true = held(160_000 * 3, capacity(160_000, 400, 0.9))
    predicted = law.bits(160_000, 160_000 * 3, 400)
    assert predicted.value == pytest.approx(true, rel=0.03)
    assert predicted.low <= true <= predicted.high


def test_volumes_follow_from_the_law():
    law = fit_capacity(points(1.0, noise=0.0), resamples=20, seed=1)
    full = capacity(10_000, 400, 1.0)
    assert law.capacity(10_000, 400).value == pytest.approx(full, rel=1e-3)
    holds = law.held_volume(10_000, 400).value
    assert held(holds, full) == pytest.approx(0.95 * holds, rel=1e-3)
    saturates = law.full_volume(10_000, 400).value
    assert held(saturates, full) == pytest.approx(0.95 * full, rel=1e-3)


def test_one_number_of_exposures_needs_no_tau():
    law = fit_capacity(points(1.0, exposures=(100,)), resamples=20, seed=1)
    assert law.tau is None
    assert law.c.value == pytest.approx(C * (1 - math.exp(-100 / TAU)), rel=0.05)


def test_the_same_seed_gives_the_same_intervals():
    one, other = (fit_capacity(points(1.0), resamples=20, seed=3) for _ in range(2))
    assert np.array_equal(one.draws, other.draws)


def taught():
    """Cells of reflections with a known recall law: r 0.9, x0 900, s 1.4."""
    chance = np.random.default_rng(0)
    made = []
    for size in (50_000, 200_000, 800_000, 3_200_000):
        for facts in (100, 400, 1600):
            recall = 0.9 / (1 + (900 / (size / facts)) ** 1.4)
            cell = Cell("reflections", size, facts, 20, 1)
            noisy = recall + 0.01 * chance.standard_normal()
            made.append(Point(cell, size, size, facts, math.nan, 20, 1.0, noisy))
    return made


def test_recall_law():
    law = fit_recall(taught(), resamples=60, seed=1)
    assert law.top.value == pytest.approx(0.9, abs=0.04)
    assert law.half.value == pytest.approx(900, rel=0.15)
    assert law.spread == pytest.approx(0.01, rel=0.5)  # of the noise that is in the points
    wanted = law.parameters_per_fact(0.6)
    assert law.recall(wanted.value).value == pytest.approx(0.6, abs=1e-6)
    assert law.parameters_per_fact(0.99) is None


def result(bits, outcome="done", **changes):
    measured = {"fp32": {"bits": bits, "recall": 0.5}, "int8": {"bits": bits * 0.9, "recall": 0.4}}
    values = {
        "outcome": outcome,
        "measured": {} if outcome == "diverged" else measured,
        "parameters": 10_000,
        "embedding_parameters": 1000,
        "items": 10,
        "volume_bits": 20_000.0,
        "learning_rate": 0.01,
    }
    return values | changes


def test_diverged_and_empty_cells_are_left_out_and_named():
    cells = {Cell("random", 10_000, 2, 100, seed): result(9000.0) for seed in (1, 2)}
    cells[Cell("random", 10_000, 2, 100, 3)] = result(0.0, "diverged")
    cells[Cell("random", 10_000, 2, 100, 4)] = result(-5.0)
    kept, notes = usable_points(cells)
    assert len(kept) == 2
    assert any("diverged" in note and "seed 3" in note for note in notes)
    assert any("holds nothing" in note and "seed 4" in note for note in notes)


def test_overwhelmed_cells_do_not_bend_the_law_and_are_named():
    made = points(1.0)
    over = next(p for p in made if p.cell.load == 8.0 and p.parameters == 40_000)
    made[made.index(over)] = replace(over, bits=over.bits / 3)
    kept, left = split_overwhelmed(made)
    assert [point.cell for point in left] == [over.cell]
    assert len(kept) == len(made) - 1
    cells = {point.cell: _measured(point) for point in made}
    fitted = fit_study(cells, ScaleConfig(bootstrap=20), seed=1).fits["random", "plain"]
    assert fitted.capacity.exponent.value == pytest.approx(1.0, abs=0.03)
    assert [n for n in fitted.notes if "overwhelmed" in n and over.cell.label in n]


def test_less_held_of_a_smaller_volume_overwhelms_nothing():
    made = points(1.0)
    assert split_overwhelmed(made) == (made, [])


def test_a_studys_recall_law_plans_other_corpora(tmp_path):
    folder = StudyFolder(tmp_path / "study")
    config = load_config([], ["scale.sources=[reflections]", "scale.reflections.run=runs/some"])
    sizes = {point.parameters for point in taught()}
    cells = {point.cell: _measured(point) for point in taught()}
    fewer = replace(taught()[0].cell, exposures=5)
    cells[fewer] = result(1.0, parameters=50_000, items=100)
    fitted = fit_study(cells, ScaleConfig(bootstrap=20), seed=1)
    keep_recall_law(folder, config, fitted, cells)
    read = read_law(folder.recall_law)
    assert (read.measured.cells, read.measured.wordings) == (len(taught()), 4)
    assert read.measured.parameters == (min(sizes), max(sizes))
    assert read.recipe.least_layers == config.scale.reflections.least_layers
    assert (read.about["corpus"], read.about["exposures"]) == ("some", 20)
    assert read.law.half.value == pytest.approx(900, rel=0.15)
    assert any("of 20 exposures" in note for note in fitted.fits["reflections", "plain"].notes)
    fitted.fits["reflections", "plain"].recall = None
    keep_recall_law(folder, config, fitted, cells)
    assert not folder.recall_law.exists()  # an old one would plan by what no longer holds


def test_use_of_a_gpus_peak():
    name = "NVIDIA H100 80GB HBM3"
    early = {"device": name, "flops": 989e13, "seconds": 40.0, "spans": [[0, 10], [20, 50]]}
    late = {"device": name, "flops": 989e13, "seconds": 40.0, "spans": [[40, 80], [5, 8]]}
    on_cpu = {"device": "cpu, 1 thread(s)", "flops": 1e9, "seconds": 0.0}
    untimed = {"device": name, "flops": 989e13, "seconds": 40.0}
    (mixed,) = device_rows([early, untimed, late])
    assert (mixed["cells"], mixed["clocked"], mixed["seconds"]) == (3, 2, 120)
    gpu, cpu = device_rows([early, on_cpu, late])
    assert mixed["share_of_peak"] == gpu["share_of_peak"]
    assert "2 of them in 1 min 10 s by the clock" in summary_text(
        Study({}, [], [], devices=[mixed])
    )
    assert (gpu["cells"], gpu["busy_seconds"]) == (2, 10 + 60)
    assert gpu["share_of_peak"] == pytest.approx(20 / 70)  # shared: two cells, one device
    assert (cpu["flops_per_second"], cpu["share_of_peak"]) == (None, None)
    study = Study({}, [], [], devices=[cpu, gpu])
    assert f"2 cells on {name}: 1.98e+16 FLOPs in 1 min 20 s of cells" in summary_text(study)
    assert "1 min 10 s by the clock: 2.83e+14 FLOP/s (29 % of the peak)" in summary_text(study)


def test_a_size_that_ran_unpredicted_is_named(tmp_path):
    cell = Cell("random", 20_000, 1.0, 100, 1, role="predict")
    config = load_config([], [])
    fitted = fit_study({cell: result(1.0)}, ScaleConfig(bootstrap=20), seed=1)
    check_predictions(StudyFolder(tmp_path), fitted, {cell: result(1.0)}, config)
    assert "not predicted" in fitted.fits["random", "plain"].notes[-1]
    fitted = fit_study({cell: result(1.0, "diverged")}, ScaleConfig(bootstrap=20), seed=1)
    assert "diverged, held out" in fitted.fits["random", "plain"].notes[0]


def test_cells_that_hold_nothing_are_compared_with_nothing(tmp_path):
    rule, check = Cell("random", 10_000, 2, 100, 1), Cell("random", 10_000, 2, 100, 1, rate=2.0,
                                                          role="rate")  # fmt: skip
    for bits in (0.0, -3.0):
        study = fit_study({rule: result(bits), check: result(5.0)}, ScaleConfig(bootstrap=20), 1)
        assert study.rates == []
        assert any("no check of the rate" in n for n in study.fits["random", "plain"].notes)
        cell, config = Cell("random", 20_000, 1.0, 100, 1, role="predict"), load_config([], [])
        folder = StudyFolder(tmp_path)
        told = {cell_name(cell, config.scale): {"bits": [1.0, 0.5, 2.0], "written": "now"}}
        atomic.write_json(folder.prediction("random"), {"schema_version": 1, "cells": told})
        fitted = fit_study({cell: result(bits)}, ScaleConfig(bootstrap=20), seed=1)
        check_predictions(folder, fitted, {cell: result(bits)}, config)
        assert fitted.held_out == []
        assert fitted.fits["random", "plain"].notes[-1].startswith("holds nothing, held out")
        assert summary_text(study)


def _measured(point):
    return result(
        point.bits,
        measured={"fp32": {"bits": point.bits, "recall": point.recall, "wordings": 4.0}},
        parameters=point.parameters,
        embedding_parameters=point.parameters - point.without_embeddings,
        items=point.items,
        volume_bits=point.volume,
    )


def test_learning_rates_and_precisions_are_compared():
    rule = Cell("random", 10_000, 2, 100, 1)
    cells = {
        rule: result(10_000.0),
        Cell("random", 10_000, 2, 100, 1, rate=2.0, role="rate"): result(10_500.0),
        Cell("random", 10_000, 2, 100, 1, rate=4.0, role="rate"): result(0.0, "diverged"),
    }
    study = fit_study(cells, ScaleConfig(bootstrap=20), seed=1)
    (check,) = study.rates
    assert check["bits_relative_to_rule"] == {"2": pytest.approx(1.05)}
    assert check["diverged"] == [4.0]
    assert check["gain_of_the_best"] == pytest.approx(0.05)
    by_name = {row["precision"]: row["bits_per_parameter"] for row in study.precisions}
    assert by_name == {"fp32": pytest.approx(1.0), "int8": pytest.approx(0.9)}
    assert any("no law" in note for note in study.fits["random", "plain"].notes)
