"""Calibration: probabilities that mean something, thresholds, few data, and the file."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from memo_dist.errors import UsageError
from memo_dist.memory.answering import FEATURES, RawAnswer
from memo_dist.memory.calibration import (
    Calibration,
    default_calibration,
    fit_calibration,
    is_abstention,
)
from memo_dist.memory.familiarity import FAMILIARITY

MEAN, SUM = FEATURES.index("mean_logprob"), FEATURES.index("sum_logprob")
AGREEMENT = FEATURES.index("agreement")
SUPPORT = len(FEATURES) + FAMILIARITY.index("support")


def raw(text: str, mean: float, total: float | None = None) -> RawAnswer:
    values = [0.0] * len(FEATURES)
    values[MEAN], values[SUM] = mean, mean * 4 if total is None else total
    return RawAnswer(text, tuple(values), 10)


def sample(count: int, seed: int = 0) -> tuple[list[RawAnswer], list[str | None]]:
    """Answers that are right with probability sigmoid(3 + 2 * mean log-probability)."""
    rng = np.random.default_rng(seed)
    means = rng.uniform(-4, 0, count)
    right = rng.random(count) < 1 / (1 + np.exp(-(3 + 2 * means)))
    answers = [raw("Paris" if r else "Rome", float(m)) for m, r in zip(means, right, strict=True)]
    return answers, ["Paris"] * count


def test_confidence_matches_how_often_answers_are_right() -> None:
    calibration = fit_calibration(*sample(2000))
    assert calibration.fitted
    answers, _ = sample(4000, seed=1)
    confidence = np.array([calibration.apply(a.features) for a in answers])
    right = np.array([a.text == "Paris" for a in answers])
    for low in (0.0, 0.2, 0.4, 0.6, 0.8):
        bin_ = (confidence >= low) & (confidence < low + 0.2)
        assert abs(confidence[bin_].mean() - right[bin_].mean()) < 0.08


def test_newton_finds_the_minimum_of_separable_data() -> None:
    answers = [raw("Paris", -0.1 - i / 100) for i in range(8)]
    answers += [raw("Rome", -2.0 - i / 100) for i in range(8)]
    calibration = fit_calibration(answers, ["Paris"] * 16)
    confidences = [calibration.apply(a.features) for a in answers]
    assert min(confidences[:8]) > 0.8 > 0.2 > max(confidences[8:])
    assert all(np.isfinite(calibration.weights))


def test_threshold_separates_right_answers_from_abstain_questions() -> None:
    answers = [raw("Paris", -0.1 * i) for i in range(1, 9)]
    answers += [raw("Rome", -2.0 - 0.1 * i) for i in range(8)]
    calibration = fit_calibration(answers, ["Paris"] * 8 + [None] * 8, refusal=1.0)
    assert calibration.balanced_accuracy == 1.0
    verdicts = [calibration.judge(a) for a in answers]
    assert [v.abstained for v in verdicts] == [False] * 8 + [True] * 8
    lowest, highest = verdicts[7].confidence, verdicts[8].confidence
    assert calibration.threshold == pytest.approx(highest + (lowest - highest) / 10, abs=1e-6)


@pytest.mark.parametrize(("refusal", "refused"), [(0.0, 0), (0.5, 4), (0.75, 6), (0.8, 7)])
def test_the_threshold_refuses_as_many_abstain_questions_as_asked(refusal, refused) -> None:
    answers = [raw("Paris", -0.1 * i) for i in range(1, 9)]
    answers += [raw("Rome", -2.0 - 0.1 * i) for i in range(8)]
    calibration = fit_calibration(answers, ["Paris"] * 8 + [None] * 8, refusal)
    verdicts = [calibration.judge(a) for a in answers]
    assert [v.abstained for v in verdicts] == [False] * (16 - refused) + [True] * refused


def test_spoken_abstentions_need_no_threshold() -> None:
    answers = [raw("Paris", -0.1 * i) for i in range(1, 9)] + [raw("I don't know.", -0.01)] * 8
    calibration = fit_calibration(answers, ["Paris"] * 8 + [None] * 8)
    assert not calibration.fitted
    assert calibration.balanced_accuracy == 1.0
    lowest = min(calibration.apply(a.features) for a in answers[:8])
    assert calibration.threshold == pytest.approx(lowest / 10, abs=1e-6)
    assert calibration.counts == {
        "right": 8,
        "wrong": 0,
        "wrong_answered": 0,
        "abstain": 8,
        "abstain_answered": 0,
    }


def test_saying_i_do_not_know_is_an_abstention_with_low_confidence() -> None:
    calibration = default_calibration()
    sure = calibration.judge(raw("i don't know", -0.001, total=-0.01))
    unsure = calibration.judge(raw("I don't know.", -0.2, total=-0.5))
    assert sure.abstained
    assert unsure.abstained
    assert sure.confidence < unsure.confidence <= calibration.threshold
    assert not calibration.judge(raw("I don't know Paris", -0.01)).abstained


@pytest.mark.parametrize(
    ("text", "expected"),
    [("", True), (" \n", True), ("I DON'T KNOW!", True), ("no", False), ("++", False),
     ("&&", False), ("#", False), ("%", False), ("->", False), (";", False), ("the", False)],
)  # fmt: skip
def test_is_abstention(text: str, expected: bool) -> None:
    assert is_abstention(text) is expected


def test_symbols_are_right_and_wrong_answers() -> None:
    answers = [raw("++", -0.1)] * 6 + [raw("--", -3.0)] * 6
    calibration = fit_calibration(answers, ["++"] * 12)
    assert calibration.fitted
    assert (calibration.counts["right"], calibration.counts["wrong_answered"]) == (6, 6)


@pytest.mark.parametrize(
    ("answers", "gold"),
    [
        ([], []),
        ([raw("Paris", -0.1)] * 20, ["Paris"] * 20),
        ([raw("Rome", -0.1)] * 20, ["Paris"] * 20),
        ([raw("Rome", -0.1)] * 20, [None] * 20),
        ([raw("Paris", -0.1), raw("Rome", -2.0)], ["Paris", None]),
    ],
)
def test_too_few_answers_keep_the_default(answers: list[RawAnswer], gold: list[str | None]) -> None:
    calibration = fit_calibration(answers, gold)
    assert not calibration.fitted
    assert calibration.weights == default_calibration().weights
    assert 0.0 < calibration.threshold < 1.0
    assert calibration.apply(raw("", float(np.log(0.5))).features) == pytest.approx(0.5)


def test_file_round_trip_and_default_without_one(tmp_path: Path) -> None:
    assert Calibration.load(tmp_path) == default_calibration()
    calibration = fit_calibration(*sample(60))
    calibration.save(tmp_path)
    assert Calibration.load(tmp_path) == calibration
    first = (tmp_path / "calibration.json").read_bytes()
    fit_calibration(*sample(60)).save(tmp_path)
    assert (tmp_path / "calibration.json").read_bytes() == first


def test_a_feature_that_would_lower_confidence_is_left_out() -> None:
    """Few held-out answers may say that agreement is bad; confidence must not learn it."""
    answers, gold = [], []
    for i in range(40):
        right = i % 2 == 0
        values = [0.0] * (len(FEATURES) + len(FAMILIARITY))
        values[MEAN] = -0.1 if right else -1.0
        values[AGREEMENT] = 0.5 if right else 1.0
        values[SUPPORT] = 0.9 if right else 0.2
        answers.append(RawAnswer("Paris" if right else "Rome", tuple(values), 10))
        gold.append("Paris")
    calibration = fit_calibration(answers, gold)
    assert "agreement" not in calibration.features
    assert {"mean_logprob", "support"} <= set(calibration.features)
    assert min(calibration.weights) >= 0.0
    near, far = list(answers[0].features), list(answers[0].features)
    far[SUPPORT] = 0.1
    assert calibration.apply(near) > calibration.apply(far)


def test_without_familiarity_the_confidence_does_without_it() -> None:
    calibration = fit_calibration(*sample(60))
    assert not calibration.needs_familiarity
    assert set(calibration.features) <= set(FEATURES)


@pytest.mark.parametrize(("reworded", "wordings"), [(True, 2), (False, 1)])
def test_a_calibration_of_an_earlier_version_judges_as_before(
    tmp_path: Path, reworded: bool, wordings: int
) -> None:
    count = len(FEATURES)
    row = {
        "schema_version": 1,
        "features": FEATURES,
        "weights": [0.5] * count,
        "mean": [-1.0] * count,
        "std": [2.0] * count,
        "bias": 0.25,
        "threshold": 0.4,
        "fitted": True,
        "counts": {},
        "balanced_accuracy": None,
        "reworded": reworded,
    }
    (tmp_path / "calibration.json").write_text(json.dumps(row))
    calibration = Calibration.load(tmp_path)
    assert calibration.wordings == wordings
    assert not calibration.needs_familiarity
    answer = raw("Paris", -0.5)
    expected = 1 / (1 + np.exp(-(0.25 + sum(0.25 * (v + 1.0) for v in answer.features))))
    assert calibration.judge(answer).confidence == pytest.approx(expected)


@pytest.mark.parametrize(
    "change",
    [{"schema_version": 99}, {"features": ["other"]}, {"weights": [1.0]}, {"std": [0.0] * 7}],
)
def test_foreign_files_are_refused(tmp_path: Path, change: dict[str, object]) -> None:
    replace(default_calibration(), counts={"right": 1}).save(tmp_path)
    path = tmp_path / "calibration.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(UsageError, match="not a calibration that this version reads"):
        Calibration.load(tmp_path)
