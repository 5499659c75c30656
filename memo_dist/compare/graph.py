"""Graph retrieval after HippoRAG (Gutiérrez et al. 2024, arXiv 2405.14831; 2502.14802).

Our adapter of their algorithm, without a language model that extracts triples: entities are runs of
capitalised words, numbers and rare words of the passages; entities of one sentence are joined. A
question's entities, and its nearest passages, start a personalised PageRank over entities and
passages; passages are ranked by their probability.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

Weights = np.ndarray[Any, np.dtype[np.float64]]
DAMPING = 0.5
"""Of the PageRank: HippoRAG's value."""
PASSAGE_WEIGHT = 0.05
"""Of a passage's similarity among the start weights: HippoRAG 2's value."""
_STEPS = 100
_CLOSE = 1e-9
_NAME = re.compile(r"[A-Z][\w'-]*(?:\s+(?:(?:of|the|de|von|and)\s+)?[A-Z][\w'-]*)*|\d[\d.,-]*\d|\d")
_WORD = re.compile(r"\w{4,}")
_SENTENCE = re.compile(r"(?<=[.!?])\s+|\n+")


def entities(text: str) -> list[str]:
    """Names, numbers and longer words of a text, lower case, in order."""
    names = [_normal(found) for found in _NAME.findall(text)]
    return [*names, *(_normal(word) for word in _WORD.findall(text))]


class PassageGraph:
    """Entities and passages, joined where an entity stands in a passage or beside another one."""

    def __init__(self, texts: Sequence[str], common: float = 0.2) -> None:
        """Build the graph.

        Args:
            texts: the passages.
            common: an entity of more than this fraction of the passages (and of more than three)
                names nothing.
        """
        self._texts = len(texts)
        sentences = [[entities(part) for part in _SENTENCE.split(text)] for text in texts]
        spread = Counter(name for rows in sentences for name in {n for row in rows for n in row})
        most = max(3.0, common * len(texts))
        kept = sorted(name for name, count in spread.items() if count <= most)
        self._place = {name: len(texts) + index for index, name in enumerate(kept)}
        self._rarity = {name: 1.0 / spread[name] for name in kept}
        self._edges = _edges(sentences, self._place)
        self._size = len(texts) + len(kept)

    def rank(self, question: str, similarity: Weights) -> list[int]:
        """Places of all passages, best first.

        Args:
            question: its entities start the walk, each by its rarity (HippoRAG's node
                specificity).
            similarity: float64 [passages], 0 or more; of the passages to the question.
        """
        start = np.zeros(self._size)
        for name in set(entities(question)):
            if name in self._place:
                start[self._place[name]] = self._rarity[name]
        start[: self._texts] = PASSAGE_WEIGHT * similarity
        if start.sum() <= 0:
            return []
        scores = self._walk(start / start.sum())[: self._texts]
        return [int(place) for place in np.argsort(-scores, kind="stable")]

    def _walk(self, start: Weights) -> Weights:
        """Personalised PageRank by power iteration; what leads nowhere returns to the start."""
        rows, columns, weights = self._edges
        now = start
        for _ in range(_STEPS):
            flow = np.bincount(columns, weights=now[rows] * weights, minlength=self._size)
            lost = max(0.0, 1.0 - float(flow.sum()))
            following = DAMPING * (flow + lost * start) + (1 - DAMPING) * start
            if np.abs(following - now).sum() < _CLOSE:
                return following
            now = following
        return now


def _edges(
    sentences: Sequence[Sequence[Sequence[str]]], place: Mapping[str, int]
) -> tuple[Any, Any, Weights]:
    """Rows, columns and weights of the transition matrix; each row's weights sum to 1."""
    weights: Counter[tuple[int, int]] = Counter()
    for passage, rows in enumerate(sentences):
        for row in rows:
            known = sorted({place[name] for name in row if name in place})
            _join(weights, [(passage, node) for node in known])
            _join(weights, [(a, b) for i, a in enumerate(known) for b in known[i + 1 :]])
    pairs = sorted(weights)
    if not pairs:
        none = np.zeros(0, np.int64)
        return none, none, np.zeros(0)
    rows_, columns = np.array(pairs, dtype=np.int64).T
    values = np.array([weights[pair] for pair in pairs], dtype=np.float64)
    totals = np.bincount(rows_, weights=values)
    return rows_, columns, values / totals[rows_]


def _join(weights: Counter[tuple[int, int]], pairs: Iterable[tuple[int, int]]) -> None:
    for a, b in pairs:
        weights[a, b] += 1
        weights[b, a] += 1


def _normal(text: str) -> str:
    return " ".join(text.lower().split())
