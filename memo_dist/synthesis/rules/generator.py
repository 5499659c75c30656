"""The generator seam: steps from documents to reflections, without any service."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from memo_dist.answers.text import ABSTAIN_ANSWER
from memo_dist.config.schema import SynthesisConfig
from memo_dist.config.steps import StepName
from memo_dist.corpus.types import Chunk, Document
from memo_dist.io.hashing import short_hash
from memo_dist.synthesis.rules.abstain import unanswerable
from memo_dist.synthesis.rules.collect import FactReader
from memo_dist.synthesis.rules.facts import Fact, FactKind, told_apart
from memo_dist.synthesis.types import (
    Kind,
    Reflection,
    Rejected,
    Step,
    StepResult,
    Unit,
    reflection_id,
)

VERSION = "1"
RULES_VERSION = "rules-5"


class RulesGenerator:
    """Writes direct, indirect, paraphrase and abstain reflections by rules."""

    name = "rules"
    version = VERSION

    def __init__(self, settings: SynthesisConfig, seed: int) -> None:
        """Keep the settings; models load at the first unit.

        Args:
            settings: ``phrasings`` and ``abstain_fraction`` are read.
            seed: mixed into the choices of the abstain step.
        """
        self.settings = settings
        self.seed = seed
        self.read = FactReader()

    def steps(self) -> dict[StepName, Step]:
        """The steps in the order they run."""
        return {
            "direct": FactStep("direct", self.read),
            "indirect": FactStep("indirect", self.read),
            "paraphrase": ParaphraseStep(self.settings.phrasings, self.read),
            "abstain": AbstainStep(self.settings.abstain_fraction, self.seed, self.read),
        }

    def limits(self) -> list[str]:
        """What this generator cannot do."""
        return [
            "No steps consolidate, verify, entities, cross and roundtrip: rules cannot join facts "
            "of several sentences or documents, nor judge an answer as a model would.",
            "English only; documents and sentences in other languages are refused.",
            "Facts are read one sentence at a time: what follows only from several sentences, "
            "from tables without headers, or by inference is not asked.",
            "Answers are spans of the text; abstractive answers and summaries are not written.",
            "Pronouns and short definite phrases are resolved by rules of recency and gender; "
            "a few are resolved wrongly.",
        ]


class FactStep:
    """The direct or indirect questions of a unit's documents, in their plainest wording."""

    version = RULES_VERSION

    def __init__(self, name: FactKind, read: FactReader) -> None:
        """``name`` is ``direct`` or ``indirect``; the steps share ``read``."""
        self.name: StepName = name
        self.read = read
        self.kind: FactKind = name

    def run(self, unit: Unit, inputs: Sequence[Reflection]) -> StepResult:
        """Write the step's reflections; ``inputs`` are not needed."""
        kept, rejected = unit_facts(unit, self.read)
        builder = ReflectionBuilder(unit, self.kind, self.name)
        reflections = [
            builder.fact(document, fact, fact.questions[0])
            for document, fact in kept
            if fact.kind == self.kind
        ]
        return StepResult(reflections, rejected if self.kind == "direct" else [])


class ParaphraseStep:
    """Further wordings of each direct and indirect reflection, with the same answer."""

    name: StepName = "paraphrase"
    version = RULES_VERSION

    def __init__(self, phrasings: int, read: FactReader) -> None:
        """``phrasings`` counts the wordings of a fact, the first one included."""
        self.read = read
        self.phrasings = phrasings

    def run(self, unit: Unit, inputs: Sequence[Reflection]) -> StepResult:
        """Reword those of ``inputs`` that this generator wrote."""
        known = {item.id for item in inputs}
        builder = ReflectionBuilder(unit, "paraphrase", self.name)
        kept = unit_facts(unit, self.read)[0]
        contested = _contested(kept)
        taken = {(item.question, item.answer) for item in inputs}
        found: list[Reflection] = []
        for document, fact in kept:
            parent = reflection_id(fact.questions[0], fact.answer, (document.id,))
            if parent not in known:
                continue
            free = [q for q in fact.questions[1:] if q not in contested]
            others = [q for q in free if (q, fact.answer) not in taken][: self.phrasings - 1]
            taken.update((question, fact.answer) for question in others)
            found += [builder.fact(document, fact, question, parent) for question in others]
        return StepResult(found, [])


class AbstainStep:
    """Questions that the unit's documents do not answer, answered by abstaining."""

    name: StepName = "abstain"
    version = RULES_VERSION

    def __init__(self, fraction: float, seed: int, read: FactReader) -> None:
        """``fraction`` is the number of questions, relative to the facts of ``inputs``."""
        self.read = read
        self.fraction = fraction
        self.seed = seed

    def run(self, unit: Unit, inputs: Sequence[Reflection]) -> StepResult:
        """Write the unanswerable questions of one unit."""
        asked = {item.question for item in inputs}
        count = round(self.fraction * sum(1 for item in inputs if item.parent is None))
        documents = [self.read(document) for document in unit.documents]
        builder = ReflectionBuilder(unit, "abstain", self.name)
        found = []
        for item in unanswerable(documents, count, self.seed):
            about = unit.documents[item.document] if item.document >= 0 else None
            if item.question not in asked:
                found.append(builder.abstention(about, item.question))
        return StepResult(found, [])


Answers = dict[str, dict[str, str]]
"""Question -> answer -> newest date of the documents that give it ("": none)."""


def _contested(facts: Iterable[tuple[Document, Fact]]) -> set[str]:
    """Wordings that facts of the unit share and that no dates tell apart."""
    counts: Counter[str] = Counter()
    answers: Answers = {}
    for document, fact in facts:
        for question in set(fact.questions):
            counts[question] += 1
            _note(answers, question, fact.answer, document)
    return {
        question
        for question, count in counts.items()
        if count > 1 and not (len(answers[question]) == count and _one_holds(answers[question]))
    }


def _note(answers: Answers, question: str, answer: str, document: Document) -> None:
    dates = answers.setdefault(question, {})
    dates[_key(answer)] = max(dates.get(_key(answer), ""), document.date or "")


def _one_holds(answers: dict[str, str]) -> bool:
    """Whether one answer holds: there is only one, or cleaning dates the older ones."""
    return len(answers) == 1 or told_apart(answers.values())


def unit_facts(unit: Unit, read: FactReader) -> tuple[list[tuple[Document, Fact]], list[Rejected]]:
    """The facts of a unit's documents, without questions that have two answers in the unit.

    Two answers of documents with different dates stay, see :mod:`memo_dist.synthesis.dated`.
    """
    found = [(document, read(document)) for document in unit.documents]
    answers: Answers = {}
    for document, facts in found:
        for fact in facts.facts:
            _note(answers, _key(fact.questions[0]), fact.answer, document)
    kept: list[tuple[Document, Fact]] = []
    rejected: list[Rejected] = []
    seen: set[tuple[str, str]] = set()
    for document, facts in found:
        rejected += facts.rejected
        for fact in facts.facts:
            key, answer = _key(fact.questions[0]), _key(fact.answer)
            if not _one_holds(answers[key]):
                raw = f"{fact.questions[0]} -> {fact.answer}"
                rejected.append(Rejected("ambiguous in unit", raw, (document.id,)))
            elif (key, answer) not in seen:
                seen.add((key, answer))
                kept.append((document, fact))
    return kept, rejected


def _key(text: str) -> str:
    return " ".join(text.lower().split())


def request_hash(step: str, unit: Unit) -> str:
    """Identifies one unit of work: step, rules, unit and its documents' content."""
    hashes = [document.content_hash for document in unit.documents]
    return short_hash([step, VERSION, RULES_VERSION, unit.id, hashes])


class ReflectionBuilder:
    """Fills in the provenance of the reflections of one unit and step."""

    def __init__(self, unit: Unit, kind: Kind, step: StepName) -> None:
        """Write reflections of one kind in the name of ``step``."""
        self.unit, self.kind = unit, kind
        self.request = request_hash(step, unit)

    def fact(
        self, document: Document, fact: Fact, question: str, parent: str | None = None
    ) -> Reflection:
        """One wording of a fact; ``parent`` is the reflection that it rewords."""
        chunks = chunks_at(self.unit.chunks, document.id, fact.start)
        return self._reflection(document, question, fact.answer, chunks, parent)

    def abstention(self, document: Document | None, question: str) -> Reflection:
        """A question without an answer; no document: one about the outside world."""
        return self._reflection(document, question, ABSTAIN_ANSWER, (), None)

    def _reflection(
        self,
        document: Document | None,
        question: str,
        answer: str,
        chunks: tuple[str, ...],
        parent: str | None,
    ) -> Reflection:
        return Reflection(
            question=question,
            answer=answer,
            kind=self.kind,
            sources=(document.id,) if document else (),
            chunks=chunks,
            shard=self.unit.shard,
            generator=f"rules-{VERSION}",
            prompt_version=RULES_VERSION,
            request=self.request,
            parent=parent,
            as_of=document.date if document else None,
        )


def chunks_at(chunks: Iterable[Chunk], document: str, start: int) -> tuple[str, ...]:
    """The id of the first chunk of a document that holds the offset; empty without chunks."""
    for chunk in chunks:
        if chunk.document == document and chunk.start <= start < chunk.end:
            return (chunk.id,)
    return ()
