"""Metrics, intervals and tests against values that were worked out by hand or by formula."""

import json
import math
from dataclasses import asdict

import pytest

from memo_dist.answers.answer import Answer
from memo_dist.answers.text import contains, exact_match, normalise, rouge_l, token_f1
from memo_dist.evaluation.questions import Question
from memo_dist.evaluation.scoring import Comparison, compare, judge, score
from memo_dist.evaluation.statistics import auroc, bootstrap_interval, mcnemar, wilson_interval


def said(text, abstained=False, confidence=0.5, shards=(0,)):
    return Answer(text, confidence, abstained, (), shards, seconds=0.5, tokens=20)


def asked(name, answer="", answerable=True, aliases=()):
    return Question(name, f"question {name}?", answer, aliases, answerable=answerable)


def test_normalise_is_squads_for_all_scripts():
    assert normalise("The  Cat's “Pyjamas” – an Éclair!") == ["cats", "pyjamas", "éclair"]
    assert normalise("A") == ["a"], "an answer made of articles only keeps them"
    assert normalise("1990–1995") == normalise("1990-1995")
    assert normalise("e\u0301clair") == normalise("éclair")


@pytest.mark.parametrize(
    ("prediction", "golds", "em", "f1", "inside"),
    [
        ("the Ada Venn.", ["Ada Venn"], 1, 1.0, 1),
        ("Captain Ada Venn", ["Ada Venn"], 0, 0.8, 1),
        ("Venn Ada", ["Ada Venn"], 0, 1.0, 0),
        ("Adam Venner", ["Ada Venn"], 0, 0.0, 0),
        ("12 May", ["2 May"], 0, 0.5, 0),
        ("nobody", ["someone", "Nobody"], 1, 1.0, 1),
        ("", ["Ada Venn"], 0, 0.0, 0),
        ("It got an A", ["A"], 0, 0.0, 0),
    ],
)
def test_answer_metrics(prediction, golds, em, f1, inside):
    assert exact_match(prediction, golds) == em
    assert token_f1(prediction, golds) == pytest.approx(f1)
    assert contains(prediction, golds) == inside


def test_contains_needs_a_short_answer():
    words = ["word"] * 19
    assert contains(" ".join([*words, "Ada"]), ["Ada"]) == 1
    assert contains(" ".join([*words, "Ada", "Venn"]), ["Ada"]) == 0


@pytest.mark.parametrize("size", [17, 21, 40])
def test_a_long_gold_answer_can_be_given(size):
    gold = " ".join(f"word{n}" for n in range(size))
    assert contains(gold, ["Ada", gold]) == 1
    assert contains(f"one two three four five {gold}.", [gold]) == 1
    assert contains(f"one two three four five six {gold}", [gold]) == 0
    assert contains(f"Ada {gold}", ["Ada"]) == float(size == 17)


def test_rouge_l_by_hand():
    # Longest common subsequence "police the gunman" (3 of 4 and 3 of 4 words).
    value = rouge_l("police kill the gunman", ["police ended the gunman"])
    assert value == pytest.approx(0.75)
    assert rouge_l("the gunman police killed", ["police kill the gunman"]) == pytest.approx(0.5)
    assert rouge_l("", ["x"]) == 0.0


def test_scores_count_each_metric_over_its_own_questions():
    verdicts = [
        judge(
            asked("a", "Ada Venn", aliases=("Captain Venn",)),
            said("It was Captain Venn", shards=(0, 1)),
        ),
        judge(asked("b", "two"), said("three")),
        judge(asked("c", "red"), said("", abstained=True)),
        judge(asked("d", answerable=False), said("", abstained=True)),
        judge(asked("e", answerable=False), said("blue")),
    ]
    entry = score(verdicts, resamples=200, seed=1)
    assert entry.contains == pytest.approx(1 / 3)
    assert entry.em == 0.0
    assert entry.f1 == pytest.approx(2 * 2 / (4 + 2) / 3)
    assert entry.abstain_precision == pytest.approx(1 / 2)
    assert entry.abstain_recall == pytest.approx(1 / 2)
    assert (entry.n, entry.n_answerable, entry.n_abstained) == (5, 3, 2)
    assert (entry.tokens_per_query, entry.seconds_per_query) == (20, 0.5)
    assert entry.calls_per_query == pytest.approx(6 / 5), "two shards are two calls"
    assert [v.right for v in verdicts] == [True, False, False, True, False]


def test_undefined_metrics_are_none_without_an_interval():
    entry = score([judge(asked("a", "x"), said("x"))], resamples=100, seed=1)
    assert entry.abstain_precision is None
    assert entry.abstain_recall is None
    assert set(entry.ci95) == {"contains", "em", "f1", "rouge_l"}


def test_bootstrap_matches_the_normal_interval_and_its_seed():
    values = [1.0] * 120 + [0.0] * 280
    low, high = bootstrap_interval(values, 4000, seed=3)
    half = 1.96 * math.sqrt(0.3 * 0.7 / 400)
    assert low == pytest.approx(0.3 - half, abs=0.005)
    assert high == pytest.approx(0.3 + half, abs=0.005)
    assert bootstrap_interval(values, 4000, seed=3) == (low, high)
    uneven = [0.1 * n * n for n in range(20)]
    assert bootstrap_interval(uneven, 500, seed=3) != bootstrap_interval(uneven, 500, seed=4)
    with pytest.raises(ValueError, match="at least one"):
        bootstrap_interval([], 10, seed=0)


def test_mcnemar_is_the_exact_binomial_test():
    first = [True] * 9 + [False] * 1 + [True] * 20
    second = [False] * 9 + [True] * 1 + [True] * 20
    test = mcnemar(first, second)
    assert (test.only_first, test.only_second) == (9, 1)
    assert test.p_value == pytest.approx(2 * (1 + 10) / 2**10)
    assert mcnemar([True], [True]).p_value == 1.0
    assert mcnemar([True, False], [False, True]).p_value == 1.0
    assert 0 <= mcnemar([True] * 1500, [False] * 1500).p_value < 1e-300, "no overflow"
    with pytest.raises(ValueError, match="shorter"):
        mcnemar([True, True], [True])


def test_wilson_interval_of_the_textbook():
    assert wilson_interval(0, 10) == pytest.approx((0.0, 0.2775), abs=1e-4)
    assert wilson_interval(5, 10) == pytest.approx((0.2366, 0.7634), abs=1e-4)


def test_the_interval_of_a_difference_is_paired():
    questions = [asked(str(n), "x") for n in range(100)]
    first = [judge(q, said("x" if n < 60 else "y")) for n, q in enumerate(questions)]
    second = [judge(q, said("x" if n < 50 else "y")) for n, q in enumerate(questions)]
    (comparison,) = compare({"direct": first, "lookup": second}, 4000, seed=3)
    assert comparison.difference == pytest.approx(0.1)
    half = 1.96 * math.sqrt(0.1 * 0.9 / 100)
    assert comparison.ci95 == pytest.approx((0.1 - half, 0.1 + half), abs=0.01)
    assert Comparison.from_json(json.loads(json.dumps(asdict(comparison)))) == comparison


def test_compare_uses_answerable_questions_that_both_answered():
    questions = [asked(str(n), "x") for n in range(4)] + [asked("u", answerable=False)]
    direct = [judge(q, said("x")) for q in questions]
    bm25 = [judge(q, said("y")) for q in questions[:2]]
    (comparison,) = compare({"direct": direct, "bm25": bm25}, 200, seed=3)
    assert comparison.n == 2
    assert (comparison.difference, comparison.ci95) == (1.0, (1.0, 1.0))
    assert (comparison.right_first, comparison.right_second) == (1.0, 0.0)
    assert (comparison.only_first, comparison.only_second) == (2, 0)
    assert comparison.p_value == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("positives", "negatives", "area"),
    [
        ((0.9, 0.8), (0.1, 0.2), 1.0),
        ((0.1,), (0.9,), 0.0),
        ((0.5,), (0.5,), 0.5),
        ((0.3, 0.7), (0.1, 0.5, 0.7), 3.5 / 6),
    ],
)
def test_auroc_is_the_share_of_pairs_in_order(positives, negatives, area):
    found = auroc(positives, negatives)
    assert found is not None
    assert found.value == pytest.approx(area)
    assert found.low <= found.value <= found.high
    assert (found.positives, found.negatives) == (len(positives), len(negatives))


def test_auroc_needs_both_kinds():
    assert auroc((), (0.5,)) is None
    assert auroc((0.5,), ()) is None
