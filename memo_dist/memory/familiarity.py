"""How near a question is to the questions that a shard was trained on.

A memory's token probabilities hardly tell a question that it was taught from one that merely sounds
like its corpus; shared words do. Each trained question is kept as a set of hashed words, beside a
hash of its answer: enough to compare with, and no text. What is found here goes into the
confidence of an answer and never changes the answer.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from memo_dist.answers.keywords import FUNCTION_WORDS
from memo_dist.answers.text import normalise
from memo_dist.errors import UsageError
from memo_dist.io import atomic
from memo_dist.memory.answering import RawAnswer

FAMILIARITY = ("support",)
"""Names of what :meth:`Familiarity.features` returns.

``support``, from 0 to 1: how much the question shares with the nearest trained question that has
the answer that was given; 0 where none has. Of the weighted Jaccard index J (weight of the shared
words over that of all words of both) it is J (1 + h) / (J + h) with h = 0.2: held-out wordings
have a J near 1, right answers to people's questions one of 0.1 to 0.5, and both shall count.
"""
FILE_NAME = "familiarity/questions.safetensors"
"""In a shard's folder. Not beside the weights: loaders read every safetensors file there."""

_DTYPES = {"words": np.uint32, "starts": np.int64, "questions": np.int32, "answers": np.uint32}
_POSSESSIVE = re.compile(r"['’]s\b")
_HALF = 0.2
_DIGITS = 6
_HASH_BYTES = 4

Floats = npt.NDArray[np.float64]


class Familiarity:
    """Compares questions with those that a shard was trained on.

    A word weighs ln(1 + N / (n + 1/2))^2 where n of N trained questions have it, as the product of
    two vectors of inverse document frequencies does (Sparck Jones, 1972).
    """

    def __init__(self, arrays: dict[str, npt.NDArray[Any]]) -> None:
        """Take the arrays of the file.

        Args:
            arrays: ``words`` uint32 [W], sorted hashes of the words; ``questions`` int32 [P], for
                each word the trained questions with it; ``starts`` int64 [W + 1], where each
                word's begin there; ``answers`` uint32 [N], hash of each question's answer.

        Raises:
            ValueError: the arrays do not fit together.
        """
        _check(arrays)
        self._arrays = arrays
        total = len(arrays["answers"])
        counts = np.diff(arrays["starts"])
        self._weights = _weight(counts, total)
        spread = np.repeat(self._weights, counts)
        self._sizes: Floats = np.bincount(arrays["questions"], spread, total).astype(np.float64)
        self._unknown = float(_weight(np.zeros(1), total)[0])

    @classmethod
    def of(cls, pairs: Iterable[tuple[str, str]]) -> Familiarity:
        """From (question, answer) pairs, in any order."""
        kept = sorted({(tuple(_words(question)), _answer(answer)) for question, answer in pairs})
        found = sorted((word, i) for i, (words, _) in enumerate(kept) for word in words)
        words, counts = np.unique([word for word, _ in found], return_counts=True)
        arrays = {
            "words": words,
            "starts": np.concatenate([[0], np.cumsum(counts)]),
            "questions": [i for _, i in found],
            "answers": [answer for _, answer in kept],
        }
        return cls({name: np.asarray(arrays[name], dtype) for name, dtype in _DTYPES.items()})

    def features(self, question: str, answer: str) -> tuple[float, ...]:
        """The numbers that :data:`FAMILIARITY` names."""
        same = self._arrays["answers"] == _answer(answer)
        nearest = float(self._nearness(_words(question)).max(initial=0.0, where=same))
        return (round(nearest * (1 + _HALF) / (nearest + _HALF), _DIGITS),)

    def complete(self, question: str, answer: RawAnswer) -> RawAnswer:
        """The answer with these numbers behind its own features."""
        return replace(answer, features=answer.features + self.features(question, answer.text))

    def _nearness(self, words: Sequence[int]) -> Floats:
        """float64 [N], the weighted Jaccard index with each trained question."""
        known, starts = self._arrays["words"], self._arrays["starts"]
        places = np.searchsorted(known, np.asarray(words, np.uint32))
        shared, own = np.zeros(len(self._sizes)), 0.0
        for word, place in zip(words, places, strict=True):
            if place == len(known) or known[place] != word:
                own += self._unknown
                continue
            own += self._weights[place]
            shared[self._arrays["questions"][starts[place] : starts[place + 1]]] += self._weights[
                place
            ]
        every = np.maximum(own + self._sizes - shared, 1e-12)
        return np.asarray(shared / every, dtype=np.float64)

    def save(self, folder: Path) -> None:
        """Write the file into a shard's folder, atomically."""
        path = folder / FILE_NAME
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic.write_bytes(path, save(self._arrays))

    @classmethod
    def load(cls, folder: Path) -> Familiarity | None:
        """Read the file of a shard's folder; None where there is none.

        Raises:
            UsageError: it holds something else.
        """
        path = folder / FILE_NAME
        if not path.exists():
            return None
        try:
            return cls(load_file(path))
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            raise UsageError(
                f"'{path}' does not hold the words of trained questions ({error}); export again"
            ) from error


def _check(arrays: dict[str, npt.NDArray[Any]]) -> None:
    if arrays.keys() != _DTYPES.keys():
        raise ValueError(
            f"arrays are {', '.join(sorted(arrays))}, not {', '.join(sorted(_DTYPES))}"
        )
    for name, dtype in _DTYPES.items():
        if arrays[name].dtype != dtype or arrays[name].ndim != 1:
            raise ValueError(f"{name} is no row of {np.dtype(dtype)}")
    starts, questions = arrays["starts"], arrays["questions"]
    ends = [0, len(questions)]
    if len(starts) != len(arrays["words"]) + 1 or [starts[0], starts[-1]] != ends:
        raise ValueError("starts does not fit to words and questions")
    if (np.diff(starts) < 0).any() or (np.diff(arrays["words"].astype(np.int64)) <= 0).any():
        raise ValueError("words or starts are not sorted")
    if len(questions) and not (0 <= questions.min() <= questions.max() < len(arrays["answers"])):
        raise ValueError("questions names one that is not there")


def _weight(count: npt.NDArray[Any], total: int) -> Floats:
    return np.asarray(np.log1p(total / (count + 0.5)) ** 2, dtype=np.float64)


def _words(question: str) -> list[int]:
    """Hashes of a question's words, sorted; of English ones without those that carry no meaning."""
    parts = _POSSESSIVE.sub("", question).replace("-", " ").split()
    words = {word for part in parts for word in normalise(part)}
    return sorted({_hashed(word) for word in words - FUNCTION_WORDS or words})


def _answer(answer: str) -> int:
    return _hashed(" ".join(normalise(answer)))


def _hashed(text: str) -> int:
    digest = hashlib.blake2b(text.encode("utf-8"), digest_size=_HASH_BYTES).digest()
    return int.from_bytes(digest, "little")
