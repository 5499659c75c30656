"""BM25 (Lucene's variant) over texts: the one search of baselines, diagnosis and citations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import bm25s
import numpy as np

_WORDS = r"(?u)\b\w\w+\b"  # the library's default
_SHORT_WORDS = r"(?u)\b\w+\b"


class Bm25Index:
    """Finds the texts that share the rarest words with a query."""

    def __init__(self, texts: Sequence[str], short_words: bool = False) -> None:
        """Index some texts.

        Args:
            texts: what is searched; at least one.
            short_words: words of one character count, as the number in "phase 2".
        """
        self._pattern = _SHORT_WORDS if short_words else _WORDS
        self._index: Any = bm25s.BM25()
        # A placeholder word keeps the index valid where no text holds an indexable word.
        # https://github.com/xhluca/bm25s/issues/60
        words = [row or ["\0"] for row in self._words(texts)]
        self._index.index(words, show_progress=False)

    def scores(self, query: str) -> np.ndarray[Any, np.dtype[np.float32]]:
        """BM25 score of each text, float32 [texts]; 0 where no word is shared."""
        tokens = self._index.get_tokens_ids(self._words([query])[0])
        return np.array(self._index.get_scores_from_ids(tokens), dtype=np.float32)

    def find(self, query: str, count: int) -> list[int]:
        """Places of the best texts, best first, the earlier one of equals first.

        Fewer than ``count`` where fewer texts share a word with the query.
        """
        scores = self.scores(query)
        found: list[int] = []
        while len(found) < min(count, len(scores)):
            best = int(scores.argmax())
            if scores[best] <= 0:
                break
            found.append(best)
            scores[best] = 0
        return found

    def _words(self, texts: Sequence[str]) -> list[list[str]]:
        words: list[list[str]] = bm25s.tokenize(
            list(texts),
            token_pattern=self._pattern,
            stopwords="en",
            return_ids=False,
            show_progress=False,
        )
        return words
