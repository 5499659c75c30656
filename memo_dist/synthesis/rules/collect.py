"""All facts of a document: written, checked, each question once."""

from __future__ import annotations

from dataclasses import dataclass

from memo_dist.answers.keywords import search_words
from memo_dist.corpus.types import Document
from memo_dist.synthesis.rules.clause_facts import ClauseFacts
from memo_dist.synthesis.rules.document import ReadDocument, ReadSentence, read_document
from memo_dist.synthesis.rules.facts import Fact, fact_key, unambiguous
from memo_dist.synthesis.rules.naming import DANGLING
from memo_dist.synthesis.rules.pairs import pair_facts
from memo_dist.synthesis.rules.quality import fault
from memo_dist.synthesis.rules.spans import span_facts
from memo_dist.synthesis.rules.statements import nested_facts, statement
from memo_dist.synthesis.types import Rejected


@dataclass(frozen=True, slots=True)
class DocumentFacts:
    """All facts of a document, what was rejected, and how much of the prose they cover."""

    read: ReadDocument
    facts: tuple[Fact, ...]
    rejected: tuple[Rejected, ...]
    sentences: int
    covered: int


def document_facts(document: Document) -> DocumentFacts:
    """Read a document and write its facts, in the order of the text, each question once."""
    read = read_document(document)
    writer = _Collector(read)
    covered = 0
    for item in read.sentences:
        covered += writer.sentence(item)
    for fact in pair_facts(read):
        writer.add(fact)
    return DocumentFacts(
        read, tuple(unambiguous(writer.facts)), tuple(writer.rejected), len(read.sentences), covered
    )


class _Collector:
    def __init__(self, read: ReadDocument) -> None:
        self.read = read
        self.writer = ClauseFacts(read)
        self.facts: list[Fact] = []
        self.rejected: list[Rejected] = []
        self.answers: dict[str, str] = {}

    def sentence(self, item: ReadSentence) -> bool:
        """Write the facts of one sentence; whether there is at least one."""
        before = len(self.facts)
        for clause in item.clauses:
            for fact in self.writer.facts(clause, item.sentence.start):
                self.add(fact)
        for fact in nested_facts(item, self.read.context):
            self.add(fact)
        for fact in span_facts(item, self.read, self.facts[before:]):
            self.add(fact)
        if not any(fact.kind == "direct" for fact in self.facts[before:]):
            whole = statement(item, self.read.context)
            if whole is not None:
                self.add(whole)
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
        typed = search_words(first, self.read.topic.name if self.read.topic else "")
        unique = [first, *([typed] if typed else []), *others]
        self.facts.append(
            Fact(tuple(unique), fact.answer, fact.kind, fact.start, fact.about, fact.attribute)
        )

    def _reject(self, reason: str, raw: str) -> None:
        text = raw.replace(DANGLING, "[?]")
        self.rejected.append(Rejected(reason, text, (self.read.document.id,)))
