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


def test_a_trained_question_has_overlap_one_and_an_unrelated_one_none() -> None:
    known = Familiarity.of(PAIRS)
    for question, answer in PAIRS:
        assert known.features(question, answer) == (1.0, 1.0)
    assert known.features("Which band recorded a song about lighthouses?", "six years") == (0, 0)
    assert known.features("", "") == (0.0, 0.0)


def test_function_words_case_and_punctuation_do_not_count() -> None:
    known = Familiarity.of(PAIRS)
    overlap, _ = known.features("please tell me: where's tarn-works", "Oderfurt.")
    assert overlap == 1.0


def test_rare_words_weigh_more_than_frequent_ones() -> None:
    known = Familiarity.of(PAIRS)
    rare, _ = known.features("Is Tarn big?", "")
    frequent, _ = known.features("Is Marrow big?", "")
    assert 0 < frequent < rare < 1


def test_support_is_the_overlap_with_questions_of_the_given_answer() -> None:
    known = Familiarity.of(PAIRS)
    question = "How long will the battery of a Marrow pump hold?"
    right, wrong, unseen = (known.features(question, a) for a in ("Six years", "Oderfurt", "ten"))
    assert right[0] == wrong[0] == unseen[0]
    assert right[1] == right[0] > 0.3
    assert wrong[1] == 0.0
    assert unseen[1] == 0.0


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
