"""All facts of a document: written, checked, each question once."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from memo_dist.answers.keywords import search_words
from memo_dist.corpus.types import Document
from memo_dist.synthesis.rules.clause_facts import ClauseFacts
from memo_dist.synthesis.rules.document import ReadDocument, ReadSentence, read_document
from memo_dist.synthesis.rules.english import refused_language
from memo_dist.synthesis.rules.entities import Entity
from memo_dist.synthesis.rules.facts import Fact, fact_key, unambiguous
from memo_dist.synthesis.rules.naming import DANGLING
from memo_dist.synthesis.rules.nested import nested_facts
from memo_dist.synthesis.rules.pairs import pair_facts
from memo_dist.synthesis.rules.quality import fault, too_nested
from memo_dist.synthesis.types import Rejected

FAILED_DOCUMENT = "document failed"
"""Reason (before its colon) of a document that raised an exception: it yields nothing."""
REFUSED_LANGUAGE = "not English"
"""Reason (before its colon) of a document that is not read."""


_MAX_TYPED_WORDS = 7
"""A longer row of words is no search that a person would type."""
_SEARCHED = ("slot.object.how", "slot.prep.when", "slot.prep.where", "pair.owner")


@dataclass(frozen=True, slots=True)
class DocumentFacts:
    """What all steps need of a document: small, without its parsed sentences.

    Attributes:
        document: the document.
        entities: who and what it speaks of.
        facts: in the order of the text, each question once.
        rejected: candidates that were not accepted.
        sentences, covered: of the prose, and those with at least one fact.
    """

    document: Document
    entities: tuple[Entity, ...]
    facts: tuple[Fact, ...]
    rejected: tuple[Rejected, ...]
    sentences: int = 0
    covered: int = 0


class FactReader:
    """Reads each document once, whichever steps ask for its facts.

    Memory: about five times the text that it keeps, at most ``kept_chars`` characters of it. What
    was read first is kept: the steps come by in the same order, so that dropping the oldest would
    find nothing.
    """

    def __init__(self, kept_chars: int = 8_000_000) -> None:
        """Start with nothing read."""
        self._left = kept_chars
        self._known: dict[Document, DocumentFacts] = {}

    def __call__(self, document: Document) -> DocumentFacts:
        """See :func:`document_facts`."""
        found = self._known.get(document)
        if found is None:
            found = document_facts(document)
            if len(document.text) <= self._left:
                self._left -= len(document.text)
                self._known[document] = found
        return found


class _SentenceError(Exception):
    """Names the place of a document at which reading or writing failed."""


def document_facts(document: Document) -> DocumentFacts:
    """Read a document and write its facts, in the order of the text, each question once.

    A document in another language, or one that raises an exception, yields no fact and a rejected
    entry that says why: the others of its unit go on.
    """
    other = refused_language(document.text)
    if other:
        return _without_facts(document, f"{REFUSED_LANGUAGE}: {other}", document.text[:200])
    try:
        return _read_and_write(document)
    except Exception as error:  # a fault of one document must not cost its unit
        cause = error.__cause__ if isinstance(error, _SentenceError) and error.__cause__ else error
        place = f" in {str(error)!r}" if isinstance(error, _SentenceError) else ""
        reason = f"{FAILED_DOCUMENT}: {type(cause).__name__}: {cause}{place}"
        return _without_facts(document, reason, "".join(traceback.format_exception(cause)))


def _without_facts(document: Document, reason: str, raw: str) -> DocumentFacts:
    return DocumentFacts(document, (), (), (Rejected(reason, raw, (document.id,)),))


def _read_and_write(document: Document) -> DocumentFacts:
    read = read_document(document)
    writer = _Collector(read)
    covered = 0
    for item in read.sentences:
        with _at(item.sentence.text):
            covered += writer.sentence(item)
    for fact in pair_facts(read):
        writer.add(fact)
    return DocumentFacts(
        read.document,
        tuple(read.tracker.entities),
        tuple(unambiguous(writer.facts)),
        tuple(writer.rejected),
        len(read.sentences),
        covered,
    )


@contextmanager
def _at(text: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise _SentenceError(text) from error


class _Collector:
    def __init__(self, read: ReadDocument) -> None:
        self.read = read
        self.writer = ClauseFacts(read)
        self.facts: list[Fact] = []
        self.rejected: list[Rejected] = []
        self.answers: dict[str, str] = {}

    def sentence(self, item: ReadSentence) -> bool:
        """Write the facts of one sentence; whether there is at least one."""
        reason = item.unread or ("long or nested" if too_nested(item.sentence) else "")
        if reason:
            self._reject(reason, item.sentence.text)
            return False
        before = len(self.facts)
        for clause in item.clauses if item.complete else ():
            for fact in self.writer.facts(clause, item.sentence.start):
                self.add(fact)
        for fact in nested_facts(item, self.read.context):
            self.add(fact)
        if len(self.facts) == before:
            self._reject("no question fits", item.sentence.text)
        return len(self.facts) > before

    def add(self, fact: Fact) -> None:
        """Keep a fact unless it has a fault or its question has another answer already."""
        reason = fault(fact.questions[0], fact.answer) if fact.questions else "no wording"
        if reason:
            self._reject(reason, f"{fact.questions[:1]} -> {fact.answer}")
            return
        key = fact_key(fact.questions[0])
        known = self.answers.get(key)
        if known is not None:
            if fact_key(known) != fact_key(fact.answer):
                self._reject("ambiguous question", f"{fact.questions[0]} -> {fact.answer}")
            return
        self.answers[key] = fact.answer
        good = [q for q in fact.questions if not fault(q, fact.answer)]
        first, *others = dict.fromkeys(good)
        typed = self._typed(first, fact.rule)
        unique = [first, *([typed] if typed else []), *others]
        self.facts.append(replace(fact, questions=tuple(unique)))

    def _typed(self, question: str, rule: str) -> str:
        """The question as a search, where people search so: for an amount, a date, a place."""
        if not rule.startswith(_SEARCHED) or self.read.topic is None:
            return ""
        typed = search_words(question, self.read.topic.name) or ""
        return typed if len(typed.split()) <= _MAX_TYPED_WORDS else ""

    def _reject(self, reason: str, raw: str) -> None:
        text = raw.replace(DANGLING, "[?]")
        self.rejected.append(Rejected(reason, text, (self.read.document.id,)))
