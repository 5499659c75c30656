"""Reflections with their provenance, and what a step collects while its dialogue goes on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from memo_dist.io.hashing import canonical_json
from memo_dist.llm.requests import Reply, Request, Response
from memo_dist.synthesis.prompted.reading import Passage
from memo_dist.synthesis.types import Kind, Reflection, Rejected, StepResult

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Author:
    """What stands in every reflection of one step.

    Attributes:
        generator: name and version of the generator.
        prompt_version: version of the step's prompt.
        shard: of the unit.
    """

    generator: str
    prompt_version: str
    shard: int

    def from_passage(
        self, passage: Passage, kind: Kind, question: str, answer: str, request: str
    ) -> Reflection:
        """A pair made from one passage."""
        return Reflection(
            question=tidy(question),
            answer=tidy(answer),
            kind=kind,
            sources=(passage.document.id,),
            chunks=(passage.chunk.id,),
            shard=self.shard,
            generator=self.generator,
            prompt_version=self.prompt_version,
            request=request,
            as_of=passage.document.date,
        )

    def from_pairs(
        self, pairs: Sequence[Reflection], kind: Kind, question: str, answer: str, request: str
    ) -> Reflection:
        """A pair made from others: it rests on all of their documents and chunks."""
        return Reflection(
            question=tidy(question),
            answer=tidy(answer),
            kind=kind,
            sources=_union(pair.sources for pair in pairs),
            chunks=_union(pair.chunks for pair in pairs),
            shard=self.shard,
            generator=self.generator,
            prompt_version=self.prompt_version,
            request=request,
            as_of=max((pair.as_of for pair in pairs if pair.as_of), default=None),
        )

    def rewritten(self, pair: Reflection, question: str, answer: str, request: str) -> Reflection:
        """A pair in other words: the same fact, kind and sources."""
        return replace(
            pair,
            question=tidy(question),
            answer=tidy(answer),
            generator=self.generator,
            prompt_version=self.prompt_version,
            request=request,
            parent=pair.fact,
        )

    def reworded(self, pair: Reflection, question: str, request: str) -> Reflection:
        """A further wording of a pair's question, with the same answer."""
        return replace(self.rewritten(pair, question, pair.answer, request), kind="paraphrase")


@dataclass(slots=True)
class Collector:
    """The result of a dialogue as it grows; a pair that comes again is taken once."""

    reflections: dict[str, Reflection] = field(default_factory=dict)
    rejected: list[Rejected] = field(default_factory=list)

    def take(self, reflection: Reflection) -> None:
        """Accept a pair."""
        self.reflections.setdefault(reflection.id, reflection)

    def reject(self, reason: str, value: object, sources: Iterable[str] = ()) -> None:
        """Put a candidate into quarantine; ``value`` is JSON."""
        self.rejected.append(Rejected(reason, canonical_json(value), tuple(sources)))

    def reject_pair(self, reason: str, pair: Reflection) -> None:
        """Put a pair into quarantine."""
        value = {"question": pair.question, "answer": pair.answer}
        self.reject(reason, value, pair.sources)

    def result(self) -> StepResult:
        """What the dialogue returns."""
        return StepResult(list(self.reflections.values()), self.rejected)


def answered(
    asked: Sequence[tuple[T, Request]], replies: Sequence[Reply]
) -> list[tuple[T, Response]]:
    """What was asked about, with its accepted reply; failures are in quarantine already."""
    return [
        (item, reply)
        for (item, _), reply in zip(asked, replies, strict=True)
        if isinstance(reply, Response)
    ]


def tidy(text: str) -> str:
    """Single spaces, none at the ends."""
    return " ".join(text.split())


def _union(lists: Iterable[Sequence[str]]) -> tuple[str, ...]:
    return tuple(sorted({item for items in lists for item in items}))
