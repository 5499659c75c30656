"""What reflections teach: the nearest of their questions, and the answers of a document."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import cached_property

from memo_dist.answers.search import Bm25Index
from memo_dist.answers.text import normalise
from memo_dist.synthesis.types import Reflection


class Taught:
    """Reflections, searched by question and by answer.

    Attributes:
        rows: the reflections, abstentions among them.
    """

    def __init__(self, rows: Sequence[Reflection]) -> None:
        """Keep the reflections (at least one); they are indexed at the first search."""
        self.rows = rows

    def nearest(self, question: str, count: int = 1) -> list[Reflection]:
        """The reflections with the BM25-nearest questions, best first; none without a common word.

        Abstentions take part: their questions are trained as well.
        """
        return [self.rows[place] for place in self._index.find(question, count)]

    def holds(self, golds: Iterable[str], documents: Sequence[str], most_words: int = 0) -> bool:
        """Whether a gold answer stands, as whole tokens, in an answer about the documents.

        Args:
            golds: the gold answer and its aliases.
            documents: ids; without any, the answers about all documents count.
            most_words: longest answer that counts, in words; 0: any.
        """
        targets = [_padded(gold) for gold in golds]
        sources = documents or list(self._answers)
        return any(
            gold in answer
            for source in sources
            for words, answer in self._answers.get(source, ())
            if not most_words or words <= most_words
            for gold in targets
        )

    @cached_property
    def _index(self) -> Bm25Index:
        return Bm25Index([row.question for row in self.rows], short_words=True)

    @cached_property
    def _answers(self) -> dict[str, list[tuple[int, str]]]:
        """Number of words and normalised text of the answers, by document."""
        found: dict[str, dict[str, int]] = defaultdict(dict)
        for row in self.rows:
            if abstains(row):
                continue
            for source in row.sources:
                found[source][row.answer] = len(row.answer.split())
        return {
            source: [(words, _padded(text)) for text, words in answers.items()]
            for source, answers in found.items()
        }


def abstains(row: Reflection) -> bool:
    """Whether a reflection teaches to abstain."""
    return row.kind == "abstain"


def _padded(text: str) -> str:
    return f" {' '.join(normalise(text))} "
