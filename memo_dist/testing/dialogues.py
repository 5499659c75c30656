"""Runs the steps of a language model generator in this process, one request after the other.

For tests of steps with scripted replies, and for benchmarks that count or time single requests;
real runs go through the engine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import cast

from memo_dist.config.schema import Config
from memo_dist.config.steps import StepName
from memo_dist.corpus.chunking import chunk_document
from memo_dist.corpus.manifest import shard_of
from memo_dist.corpus.types import Chunk, Document
from memo_dist.io.hashing import short_hash
from memo_dist.llm.requests import Reply, Request
from memo_dist.synthesis.buckets import hash_buckets
from memo_dist.synthesis.clean import Candidate, Cleaned, clean
from memo_dist.synthesis.prompted import LanguageModelGenerator
from memo_dist.synthesis.types import (
    Dialogue,
    GroupingStep,
    Reflection,
    RequestStep,
    StepResult,
    Unit,
    in_force,
)

Backend = Callable[[StepName, Request], Reply]
"""Answers a request of the named step."""


@dataclass
class DialogueRun:
    """What the steps yielded.

    Attributes:
        results: of each step, in order, all units together.
        requests: (step, request) in the order they were sent.
    """

    results: dict[StepName, StepResult] = field(default_factory=dict)
    requests: list[tuple[StepName, Request]] = field(default_factory=list)

    def reflections(self) -> list[Candidate]:
        """The reflections that count, with the index of their step."""
        steps = list(enumerate(self.results))
        return [
            Candidate(index, row)
            for index, name in in_force(steps, lambda item: item[1])
            for row in self.results[name].reflections
        ]

    def cleaned(self, config: Config) -> Cleaned:
        """The reflections after cleaning (of one shard)."""
        return clean(self.reflections(), config.synthesis)


def make_units(documents: Sequence[Document], config: Config) -> list[Unit]:
    """Units of at most ``synthesis.documents_per_unit`` documents, as the plan would cut them."""
    most = config.synthesis.documents_per_unit
    shards: dict[int, list[Document]] = {}
    for document in sorted(documents, key=lambda document: document.id):
        shards.setdefault(shard_of(document.id, config.corpus.shards), []).append(document)
    return [
        make_unit(bucket, shard, config)
        for shard, rows in sorted(shards.items())
        for bucket in hash_buckets(rows, attrgetter("id"), lambda some: len(some) <= most)
    ]


def make_unit(documents: Sequence[Document], shard: int, config: Config) -> Unit:
    """One unit of some documents."""
    settings = config.corpus
    chunks: list[Chunk] = []
    for document in documents:
        chunks += chunk_document(document, settings.chunk_chars, settings.overlap_sentences)
    name = short_hash([document.id for document in documents])
    return Unit(name, shard, tuple(documents), tuple(chunks), seed=0)


def run_steps(
    generator: LanguageModelGenerator, units: Sequence[Unit], config: Config, backend: Backend
) -> DialogueRun:
    """Run ``synthesis.steps`` over the units."""
    run = DialogueRun()
    steps = generator.steps()
    for name in config.synthesis.steps:
        step = steps[next(known for known in steps if known == name)]
        run.results[step.name] = _run_step(step, units, run, backend)
    return run


def converse(
    step: RequestStep, unit: Unit, inputs: Sequence[Reflection], backend: Backend
) -> tuple[StepResult, list[Request]]:
    """One dialogue to its end, and the requests it made."""
    dialogue: Dialogue = step.dialogue(unit, inputs)
    sent: list[Request] = []
    try:
        asked = next(dialogue)
        while True:
            sent += asked
            asked = dialogue.send([backend(step.name, request) for request in asked])
    except StopIteration as end:
        result: StepResult = end.value
        return result, sent


def _run_step(
    step: RequestStep, units: Sequence[Unit], run: DialogueRun, backend: Backend
) -> StepResult:
    total = StepResult()
    earlier = [item.reflection for item in run.reflections()]
    for unit, inputs in _work(step, units, earlier):
        result, sent = converse(step, unit, inputs, backend)
        total.reflections.extend(result.reflections)
        total.rejected.extend(result.rejected)
        run.requests += [(step.name, request) for request in sent]
    return total


def _work(
    step: RequestStep, units: Sequence[Unit], earlier: Sequence[Reflection]
) -> Iterable[tuple[Unit, list[Reflection]]]:
    """The step's units with their inputs: the given units, or the groups it finds."""
    if hasattr(step, "groups"):
        yield from _groups(cast(GroupingStep, step), units, earlier)
        return
    for unit in units:
        ids = {document.id for document in unit.documents}
        yield unit, [row for row in earlier if set(row.sources) <= ids]


def _groups(
    step: GroupingStep, units: Sequence[Unit], earlier: Sequence[Reflection]
) -> Iterable[tuple[Unit, list[Reflection]]]:
    documents = {document.id: document for unit in units for document in unit.documents}
    rows = {row.id: row for row in earlier}
    for shard in sorted({unit.shard for unit in units}):
        for group in step.groups(shard, [row for row in earlier if row.shard == shard]):
            members = tuple(documents[name] for name in group.documents)
            chunks = tuple(
                chunk for u in units for chunk in u.chunks if chunk.document in group.documents
            )
            name = short_hash([group.documents, group.reflections])
            unit = Unit(name, shard, members, chunks, seed=0)
            yield unit, [rows[name] for name in group.reflections]
