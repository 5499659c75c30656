"""Questions that a unit's documents leave open: written ones with another thing in place.

A question about one thing is asked about another that is named elsewhere ("How long does the cell
of the Hobrand 12 last?"). It stays where the reader finds no answer to it in the passages that
have most of its words.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from memo_dist.corpus.types import Document
from memo_dist.io.hashing import short_hash
from memo_dist.synthesis.clean import normalise
from memo_dist.synthesis.types import Reflection
from memo_dist.synthesis.words import content, names, numbers
from memo_dist.synthesis.writer.passages import Passage, passages
from memo_dist.synthesis.writer.prompts import NOT_STATED, prefix, reader_branch
from memo_dist.synthesis.writer.written import READING

if TYPE_CHECKING:
    from memo_dist.models.branches import BranchModel

_CHECKED = 3
"""Passages that could answer a question: those that hold most of its words."""
_TRIED = 3
"""Candidates for each question that is needed."""


@dataclass(frozen=True, slots=True)
class Open:
    """A question without an answer, about one document."""

    question: str
    document: Document


def open_questions(
    model: BranchModel,
    documents: Sequence[Document],
    asked: Sequence[Reflection],
    count: int,
    seed: int,
) -> list[Open]:
    """At most ``count`` distinct questions that the documents do not answer, in a fixed order.

    Args:
        model: reads.
        documents: of the unit.
        asked: the unit's answerable reflections.
        count: of questions.
        seed: of the choice.
    """
    texts = [passage for document in documents for passage in passages(document)]
    candidates = _mixed(_swapped(documents, asked), seed)[: _TRIED * count]
    by_passage: dict[int, list[int]] = defaultdict(list)
    told = [content(f"{passage.title} {passage.text}") for passage in texts]
    for at, candidate in enumerate(candidates):
        for place in _nearest(candidate.question, told):
            by_passage[place].append(at)
    answered = _answered(model, texts, candidates, by_passage)
    return [c for at, c in enumerate(candidates) if at not in answered][:count]


def _answered(
    model: BranchModel,
    texts: Sequence[Passage],
    candidates: Sequence[Open],
    by_passage: Mapping[int, Sequence[int]],
) -> set[int]:
    """Indices of the candidates that the reader answers from a passage."""
    found: set[int] = set()
    for place in sorted(by_passage):
        left = [at for at in by_passage[place] if at not in found]
        if not left:
            continue
        with model.reading(prefix(texts[place].title, texts[place].text)):
            prompts = [reader_branch(candidates[at].question) for at in left]
            read = model.write(prompts, READING)
        found.update(at for at, answer in zip(left, read, strict=True) if answer != [NOT_STATED])
    return found


def _nearest(question: str, told: Sequence[frozenset[str]]) -> list[int]:
    """Places of the passages, given by their words, that hold most of the question's."""
    about = content(question)
    return sorted(range(len(told)), key=lambda at: -len(about & told[at]))[:_CHECKED]


def _swapped(documents: Sequence[Document], asked: Sequence[Reflection]) -> Iterator[Open]:
    """Questions with one of their names replaced by a name of the same form."""
    by_id = {document.id: document for document in documents}
    named = sorted({name for document in documents for name in names(document.text)})
    known = {normalise(row.question) for row in asked}
    for row in asked:
        if not row.sources or row.sources[0] not in by_id:
            continue
        for name in names(row.question)[-1:]:
            others = [n for n in named if _alike(n, name) and n not in row.question]
            if not others or name == row.question.split()[0]:
                continue
            other = others[int(short_hash([row.question]), 16) % len(others)]
            question = row.question.replace(name, other)
            if normalise(question) not in known:
                yield Open(question, by_id[row.sources[0]])


def _alike(left: str, right: str) -> bool:
    """Whether two names have as many words and both or neither a number."""
    same = len(left.split()) == len(right.split())
    return same and bool(numbers(left)) == bool(numbers(right)) and left != right


def _mixed(items: Iterator[Open], seed: int) -> list[Open]:
    """Each question once, in an order that depends on question and seed only."""
    unique = {normalise(item.question): item for item in items}
    return sorted(unique.values(), key=lambda item: short_hash([seed, item.question]))
