"""Questions of the writer about a document's prose, each answered by the reader."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from memo_dist.corpus.types import Document
from memo_dist.models.sampling import Sampling
from memo_dist.synthesis.clean import normalise
from memo_dist.synthesis.spans import Span, answer_spans
from memo_dist.synthesis.types import Rejected
from memo_dist.synthesis.writer.checks import (
    OTHER_ANSWER,
    UNREAD,
    agree,
    names_subject,
    question_fault,
)
from memo_dist.synthesis.writer.passages import Passage, passages
from memo_dist.synthesis.writer.prompts import (
    MANNERS,
    NOT_STATED,
    Manner,
    prefix,
    reader_branch,
    writer_branch,
)

if TYPE_CHECKING:
    from memo_dist.models.branches import BranchModel

_TEMPERATURE = 0.8
_QUESTION_TOKENS = 32
_ANSWER_TOKENS = 16
_LEAST_FIRST = 0.04
"""Probability of a question's first token: what begins one that is asked now and then."""

READING = Sampling(most_tokens=_ANSWER_TOKENS)


@dataclass(frozen=True, slots=True)
class Written:
    """A span with the questions that it answers.

    Attributes:
        answer: the span's text.
        start: character offset of its sentence in the document.
        questions: the first one names what it asks about, if any does.
    """

    answer: str
    start: int
    questions: tuple[str, ...]


@dataclass(slots=True)
class WrittenDocument:
    """What was written about a document, and what was turned down."""

    facts: list[Written] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)


class DocumentWriter:
    """Writes and reads questions with one model."""

    def __init__(self, model: BranchModel, wordings: int) -> None:
        """``wordings`` is the number of questions that a span is asked by, at most."""
        self._model = model
        self._wordings = wordings

    def write(self, document: Document, seed: int) -> WrittenDocument:
        """The facts of a document's prose, each question once."""
        result = WrittenDocument()
        taken: set[str] = set()
        for passage in passages(document):
            spans = answer_spans(passage.text)
            if not spans:
                continue
            with self._model.reading(prefix(passage.title, passage.text)):
                kept = self._passage(passage, spans, seed, result, document.id)
            for span, questions in zip(spans, kept, strict=True):
                fresh = [q for q in questions if normalise(q) not in taken]
                taken.update(map(normalise, fresh))
                if fresh:
                    place = passage.place(span.start)
                    result.facts.append(Written(span.text, place, tuple(fresh)))
        return result

    def _passage(
        self, passage: Passage, spans: list[Span], seed: int, result: WrittenDocument, source: str
    ) -> list[list[str]]:
        """For each span its questions that the reader answers by it."""
        asked = self._ask(passage, spans, seed)
        candidates = [(at, question) for at, texts in enumerate(asked) for question in texts]
        read = self._model.write([reader_branch(question) for _, question in candidates], READING)
        kept: list[list[str]] = [[] for _ in spans]
        for (at, question), answers in zip(candidates, read, strict=True):
            span = spans[at].text
            answer = answers[0] if answers else ""
            if agree(answer, span):
                kept[at].append(question)
            else:
                reason = UNREAD if answer == NOT_STATED else OTHER_ANSWER
                raw = f"{question} -> {span}; read: {answer}"
                result.rejected.append(Rejected(reason, raw, (source,)))
        for questions in kept:
            questions.sort(key=lambda q: not names_subject(q, passage.title, passage.text))
            del questions[self._wordings :]
        return kept

    def _ask(self, passage: Passage, spans: list[Span], seed: int) -> list[list[str]]:
        """For each span the questions that stand alone, each once."""
        texts: list[list[str]] = [[] for _ in spans]
        for turn, (manner, rows) in enumerate(_turns(self._wordings)):
            prompts = [writer_branch(passage.text, s.start, s.end, manner) for s in spans]
            how = Sampling(rows, _LEAST_FIRST, _TEMPERATURE, _QUESTION_TOKENS)
            for at, found in enumerate(self._model.write(prompts, how, seed + turn)):
                texts[at] += found
        return [
            [
                question
                for question in {normalise(text): text for text in reversed(found)}.values()
                if not question_fault(question, span.text, passage.title, passage.text)
            ]
            for span, found in zip(spans, texts, strict=True)
        ]


def _turns(wordings: int) -> Iterator[tuple[Manner, int]]:
    """Manners and the number of questions in each: more readers of articles than others."""
    share = (wordings + 1) // 2
    for manner in MANNERS:
        rows = min(share, wordings)
        if rows > 0:
            yield manner, rows
        wordings -= rows
        share = (wordings + 1) // 2
