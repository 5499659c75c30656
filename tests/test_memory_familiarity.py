"""Familiarity: what a question shares with trained ones, and a file that holds no text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from memo_dist.errors import UsageError
from memo_dist.memory.familiarity import FILE_NAME, Familiarity

PAIRS = [
    ("How long does the battery of the Marrow pump last?", "six years"),
    ("What is the battery life of the Marrow pump?", "six years"),
    ("Who designed the Marrow pump?", "Ida Brandt"),
    ("Where is the Tarn works?", "Oderfurt"),
    ("Wie heißt der Leiter des Werks?", "Jo Falk"),
]


def support(known: Familiarity, question: str, answer: str) -> float:
    (found,) = known.features(question, answer)
    return found


def test_a_trained_question_with_its_answer_has_full_support() -> None:
    known = Familiarity.of(PAIRS)
    for question, answer in PAIRS:
        assert support(known, question, answer) == 1.0
    assert support(known, "Which band recorded a song about lighthouses?", "six years") == 0
    assert support(known, "", "") == 0.0
    assert support(Familiarity.of([]), "Who designed it?", "Ida Brandt") == 0.0


def test_support_is_of_trained_questions_with_the_given_answer() -> None:
    known = Familiarity.of(PAIRS)
    question = "How long will the battery of a Marrow pump hold?"
    assert support(known, question, "Six years.") > 0.3
    assert support(known, question, "Ida Brandt") < support(known, question, "six years")
    assert support(known, question, "Oderfurt") == support(known, question, "ten") == 0.0


def test_function_words_case_and_punctuation_do_not_count() -> None:
    known = Familiarity.of(PAIRS)
    assert support(known, "please tell me: where's tarn-works", "Oderfurt.") == 1.0


def test_rare_words_weigh_more_than_frequent_ones() -> None:
    known = Familiarity.of(PAIRS)
    rare = support(known, "Is Tarn big?", "Oderfurt")
    frequent = support(known, "Is Marrow big?", "Ida Brandt")
    assert 0 < frequent < rare < 1


def test_the_file_holds_hashes_only_and_its_bytes_depend_on_no_order(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    Familiarity.of(PAIRS).save(first)
    Familiarity.of(PAIRS[::-1]).save(second)
    written = (first / FILE_NAME).read_bytes()
    assert written == (second / FILE_NAME).read_bytes()
    for word in ("battery", "marrow", "Ida", "years"):
        assert word.encode() not in written
    loaded = Familiarity.load(first)
    assert loaded is not None
    question = "What is the battery life?"
    assert loaded.features(question, "six years") == Familiarity.of(PAIRS).features(
        question, "six years"
    )


def test_a_shard_without_the_file_has_no_familiarity(tmp_path: Path) -> None:
    assert Familiarity.load(tmp_path) is None


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("words", np.array([3, 1], np.uint32)),
        ("questions", np.array([99], np.int32)),
        ("questions", np.array([-1], np.int32)),
        ("starts", np.array([0, 5, 2], np.int64)),
        ("answers", np.array([1.0, 2.0])),
        ("more", np.array([1])),
    ],
)
def test_foreign_files_are_refused(tmp_path: Path, name: str, values: np.ndarray) -> None:
    Familiarity.of(PAIRS).save(tmp_path)
    path = tmp_path / FILE_NAME
    save_file({**load_file(path), name: values}, path)
    with pytest.raises(UsageError, match="does not hold the words of trained questions"):
        Familiarity.load(tmp_path)


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    Familiarity.of(PAIRS).save(tmp_path)
    (tmp_path / FILE_NAME).write_bytes(b"\x08\0\0")
    with pytest.raises(UsageError, match="export again"):
        Familiarity.load(tmp_path)
