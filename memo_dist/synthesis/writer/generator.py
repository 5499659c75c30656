"""The generator seam: prose by the question writer, tables and key-value lines by rules."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from importlib.resources import as_file, files
from typing import TYPE_CHECKING

from memo_dist.answers.text import ABSTAIN_ANSWER
from memo_dist.config.schema import SynthesisConfig
from memo_dist.config.steps import StepName
from memo_dist.corpus.types import Document
from memo_dist.io.hashing import short_hash
from memo_dist.models.base import resolve_base
from memo_dist.models.smollm2 import SMOLLM2_NAME
from memo_dist.synthesis.rules.blocks import read_blocks
from memo_dist.synthesis.rules.collect import FactReader
from memo_dist.synthesis.rules.facts import FactKind
from memo_dist.synthesis.rules.generator import (
    RULES_VERSION,
    ParaphraseStep,
    ReflectionBuilder,
    chunks_at,
    unit_facts,
)
from memo_dist.synthesis.rules.generator import (
    AbstainStep as RulesAbstainStep,
)
from memo_dist.synthesis.types import Kind, Reflection, Step, StepResult, Unit, reflection_id
from memo_dist.synthesis.writer.abstain import open_questions
from memo_dist.synthesis.writer.prompts import TARGET_END
from memo_dist.synthesis.writer.written import DocumentWriter, Written

if TYPE_CHECKING:
    from memo_dist.models.branches import BranchModel

VERSION = "1"
WRITER_VERSION = "writer-1"
"""Of prompts, checks and adapter; part of every reflection."""


@lru_cache(maxsize=1)
def writer_model() -> BranchModel:
    """The built-in base with the adapter that ships with the package; once a process."""
    from memo_dist.models.branches import BranchModel

    base = resolve_base(SMOLLM2_NAME, key="generator.kind=writer").path
    with as_file(files("memo_dist.synthesis.writer") / "adapter") as adapter:
        return BranchModel.load(base, adapter, TARGET_END)


class WriterGenerator:
    """Writes direct, indirect, paraphrase and abstain reflections with a small model."""

    name = "writer"
    version = VERSION

    def __init__(self, settings: SynthesisConfig, seed: int) -> None:
        """Keep the settings; the model loads at the first unit.

        Args:
            settings: ``steps``, ``phrasings`` and ``abstain_fraction`` are read.
            seed: of sampling.
        """
        self.settings = settings
        self.seed = seed
        self.read = FactReader()

    def steps(self) -> dict[StepName, Step]:
        """The steps in the order they run."""
        wordings = self.settings.phrasings if "paraphrase" in self.settings.steps else 1
        return {
            "direct": DirectStep(wordings, self.seed, self.read),
            "indirect": StructureStep("indirect", self.read),
            "paraphrase": ParaphraseStep(self.settings.phrasings, self.read),
            "abstain": AbstainStep(self.settings.abstain_fraction, self.seed, self.read),
        }

    def limits(self) -> list[str]:
        """What this generator cannot do."""
        return [
            "The steps consolidate, verify, roundtrip, entities and cross are refused: the writer "
            "sees one passage at a time.",
            "English only; documents in other languages are set aside.",
            "Questions are written by a model of 135 million parameters: some are clumsy, some "
            "join words of the passage that do not belong together. A reader of the same size "
            "answers each from the passage; where it answers otherwise, the pair is rejected.",
            "Answers are spans of the text; abstractive answers and summaries are not written.",
            "Tables and key-value lines are asked by rules.",
        ]


class DirectStep:
    """The questions of a unit's documents: prose by the writer, the rest by rules.

    It writes all wordings of a span at once, as the writer and the reader are costly.
    """

    name: StepName = "direct"
    version = WRITER_VERSION

    def __init__(self, wordings: int, seed: int, read: FactReader) -> None:
        self._wordings = wordings
        self._seed = seed
        self._read = read

    def run(self, unit: Unit, inputs: Sequence[Reflection]) -> StepResult:
        """Write the step's reflections; ``inputs`` are not needed."""
        ruled = StructureStep("direct", self._read).run(unit, inputs)
        writer = DocumentWriter(writer_model(), self._wordings)
        found, rejected = list(ruled.reflections), list(ruled.rejected)
        author = _Author(unit, self.name)
        for document in unit.documents:
            written = writer.write(document, _seed(self._seed, document))
            rejected += written.rejected
            for fact in written.facts:
                found += author.fact(document, fact)
        return StepResult(found, rejected)


class StructureStep:
    """What rules ask of tables, key-value lines and term lists."""

    version = f"{WRITER_VERSION} {RULES_VERSION}"

    def __init__(self, name: FactKind, read: FactReader) -> None:
        """``name`` is ``direct`` or ``indirect``; the steps share ``read``."""
        self.name: StepName = name
        self._kind: FactKind = name
        self._read = read

    def run(self, unit: Unit, inputs: Sequence[Reflection]) -> StepResult:
        """Write the step's reflections; ``inputs`` are not needed."""
        builder = ReflectionBuilder(unit, self._kind, self.name)
        prose = {document.id: _prose(document) for document in unit.documents}
        return StepResult(
            [
                builder.fact(document, fact, fact.questions[0])
                for document, fact in unit_facts(unit, self._read)[0]
                if fact.kind == self._kind and not _inside(fact.start, prose[document.id])
            ]
        )


class AbstainStep:
    """Questions that the unit's documents do not answer, answered by abstaining.

    Where the reader leaves too few of the written ones, rules write the others.
    """

    name: StepName = "abstain"
    version = f"{WRITER_VERSION} {RULES_VERSION}"

    def __init__(self, fraction: float, seed: int, read: FactReader) -> None:
        """``fraction`` is the number of questions, relative to the facts of ``inputs``."""
        self._fraction = fraction
        self._seed = seed
        self._rules = RulesAbstainStep(fraction, seed, read)

    def run(self, unit: Unit, inputs: Sequence[Reflection]) -> StepResult:
        """Write the unanswerable questions of one unit."""
        count = round(self._fraction * sum(1 for item in inputs if item.parent is None))
        author = _Author(unit, self.name)
        found = open_questions(writer_model(), unit.documents, inputs, count, self._seed)
        written = [author.abstention(item.document, item.question) for item in found]
        ruled = self._rules.run(unit, inputs).reflections
        return StepResult([*written, *ruled[: count - len(written)]])


class _Author:
    """Fills in the provenance of the reflections of one unit and step."""

    def __init__(self, unit: Unit, step: StepName) -> None:
        self._unit = unit
        hashes = [document.content_hash for document in unit.documents]
        self._request = short_hash([step, VERSION, WRITER_VERSION, unit.id, hashes])

    def fact(self, document: Document, fact: Written) -> list[Reflection]:
        """A span's first question, and the others as its rewordings."""
        chunks = chunks_at(self._unit.chunks, document.id, fact.start)
        first, *others = fact.questions
        parent = reflection_id(first, fact.answer, (document.id,))
        return [
            self._reflection(document, "direct", first, fact.answer, chunks),
            *(
                self._reflection(document, "paraphrase", question, fact.answer, chunks, parent)
                for question in others
            ),
        ]

    def abstention(self, document: Document, question: str) -> Reflection:
        """A question about a document that no document of the unit answers."""
        return self._reflection(document, "abstain", question, ABSTAIN_ANSWER, ())

    def _reflection(  # noqa: PLR0913
        self,
        document: Document,
        kind: Kind,
        question: str,
        answer: str,
        chunks: tuple[str, ...],
        parent: str | None = None,
    ) -> Reflection:
        return Reflection(
            question=question,
            answer=answer,
            kind=kind,
            sources=(document.id,),
            chunks=chunks,
            shard=self._unit.shard,
            generator=f"writer-{VERSION}",
            prompt_version=WRITER_VERSION,
            request=self._request,
            parent=parent,
            as_of=document.date,
        )


def _seed(seed: int, document: Document) -> int:
    """Of a document's sampling: what stands beside it changes nothing."""
    return int(short_hash([seed, document.content_hash]), 16) % 2**62


def _prose(document: Document) -> list[tuple[int, int]]:
    """Where the document's prose stands: character offsets, half open."""
    blocks = read_blocks(document.text)
    return [(b.start, b.start + len(b.text)) for b in blocks if b.kind == "prose"]


def _inside(place: int, ranges: Iterable[tuple[int, int]]) -> bool:
    return any(start <= place < end for start, end in ranges)
