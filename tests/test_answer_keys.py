"""Keys of questions, names and answers: equal without what only prose needs, signs kept."""

import pytest

from memo_dist.answers.text import answer_key, exact_match, meant_words, normalise
from memo_dist.evaluation.baselines import abstains


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("What is C++?", "What is C?"), ("What is C#?", "What is C?"), ("-5", "5"), ("1.5", "15"),
        ("5%", "5"), ("10:30", "1030"), ("1939-1945", "19391945"), ("$5", "5"), ("A&B", "AB"),
        ("What does & do?", "What does do?"), ("a < b", "a > b"), ("++", "--"), ("++", ""),
        (";", ""), ("{}", "[]"), ("What does * do?", "What does do?"), ("5\u2030", "5"),
    ],
)  # fmt: skip
def test_a_sign_makes_another_thing(one, other):
    assert answer_key(one) != answer_key(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("The Oder.", "oder"), ("\u201cParis\u201d", "Paris"), ("**Paris**", "paris!"),
        ("What is C++?", "what is c++"), ("\u22125", "-5"), ("(-5)", "-5"), ("1,000", "1000"),
        ("U.S.", "US"), ("well-known", "wellknown"), ("100 %", "100%"),
        ("Paris - city", "paris city"),
        ("1939\u20131945", "1939-1945"), ("a", "A."), ("1.5.", "1.5"),
    ],
)  # fmt: skip
def test_prose_does_not(one, other):
    assert answer_key(one) == answer_key(other)


@pytest.mark.parametrize("text", ["", " ", "?", "...", "-", "\u2014", "()"])
def test_marks_alone_name_nothing(text):
    assert meant_words(text) == ()


def test_an_answer_of_symbols_is_no_abstention_and_scores_stay_squads():
    assert [abstains(text) for text in ("++", "&&", "", "I do not know.")] == [
        False, False, True, True,
    ]  # fmt: skip
    assert normalise("C++") == ["c"]
    assert exact_match("++", ["++"]) == 0.0
