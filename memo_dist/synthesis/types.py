"""Reflections, and the seam between synthesis steps, generators and language models.

A step that uses a language model never calls one. It is a generator function (:class:`Dialogue`)
that yields rounds of requests and receives their replies, so that the engine alone decides when,
where and how often a request is sent, and the step stays a pure function of unit, inputs and
replies.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Generator as Conversation
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeGuard, TypeVar, get_args

from memo_dist.config.steps import StepName
from memo_dist.corpus.types import Chunk, Document
from memo_dist.io.hashing import short_hash
from memo_dist.llm.requests import Reply, Request

T = TypeVar("T")

REPLACING: frozenset[str] = frozenset({"verify", "roundtrip"})
"""Steps that return what stays of the reflections before them: only their result counts."""

Kind = Literal["direct", "indirect", "consolidated", "entity", "cross", "paraphrase", "abstain"]
KINDS: tuple[Kind, ...] = get_args(Kind)


class _Identified:
    """Room for an id, which is computed once; no field, so it is neither compared nor written."""

    __slots__ = ("_id",)
    _id: str


@dataclass(frozen=True, slots=True)
class Reflection(_Identified):
    """A self-contained question-answer pair with its provenance (MeMo, arXiv 2605.15156).

    Attributes:
        question, answer: the pair; each stands alone, without the document.
        kind: how it was made.
        sources: ids of the documents it rests on (empty only for the fixed abstain list).
        chunks: ids of the chunks it rests on (``<document id>:<start>-<end>``).
        shard: the bank shard that trains on it.
        generator: name and version of what wrote it.
        prompt_version: version of the prompt or of the rules.
        request: hash of the fully rendered request (or unit of work).
        parent: id of the reflection that this one rewords, if any: a parent and its
            children state the same fact.
        as_of: ISO date from which the fact is told, when known.
        bridge: what the question describes without naming it, where the answer follows from two
            facts over it: the memory learns to write it before the answer.
    """

    question: str
    answer: str
    kind: Kind
    sources: tuple[str, ...]
    chunks: tuple[str, ...]
    shard: int
    generator: str
    prompt_version: str
    request: str
    parent: str | None = None
    as_of: str | None = None
    bridge: str | None = None

    @property
    def id(self) -> str:
        """16 hexadecimal digits of SHA-256 over canonical JSON of question, answer, sources."""
        try:
            return self._id
        except AttributeError:
            name = reflection_id(self.question, self.answer, self.sources)
            object.__setattr__(self, "_id", name)
            return name

    @property
    def fact(self) -> str:
        """The id that all wordings of one fact share."""
        return self.parent or self.id

    def to_json(self) -> dict[str, Any]:
        """One line of ``reflections.jsonl``; absent optional fields are left out."""
        row: dict[str, Any] = {
            "id": self.id,
            "question": self.question,
            "answer": self.answer,
            "kind": self.kind,
            "sources": list(self.sources),
            "chunks": list(self.chunks),
            "shard": self.shard,
            "generator": self.generator,
            "prompt_version": self.prompt_version,
            "request": self.request,
        }
        if self.parent is not None:
            row["parent"] = self.parent
        if self.as_of is not None:
            row["as_of"] = self.as_of
        if self.bridge is not None:
            row["bridge"] = self.bridge
        return row

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> Reflection:
        """The inverse of :meth:`to_json`."""
        values = {key: value for key, value in row.items() if key != "id"}
        values["sources"] = tuple(values["sources"])
        values["chunks"] = tuple(values["chunks"])
        return cls(**values)

    @classmethod
    def from_own(cls, row: dict[str, Any]) -> Reflection:
        """As :meth:`from_json`, of a line that nobody has changed since it was written.

        Its id is taken as it stands there: to compute it takes most of the time of reading.
        """
        found = cls.from_json(row)
        object.__setattr__(found, "_id", row["id"])
        return found


def reflection_id(question: str, answer: str, sources: Sequence[str]) -> str:
    """The id of the reflection with these contents (see :attr:`Reflection.id`)."""
    return short_hash({"question": question, "answer": answer, "sources": list(sources)})


@dataclass(frozen=True, slots=True)
class Rejected:
    """A candidate that was not accepted: kept in quarantine, never dropped silently."""

    reason: str
    raw: str
    sources: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """One line of a quarantine file."""
        return {"reason": self.reason, "raw": self.raw, "sources": list(self.sources)}


@dataclass(frozen=True, slots=True)
class StepResult:
    """What one unit of a step yielded."""

    reflections: list[Reflection] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Unit:
    """The unit of a step's work: some documents of one shard, with their chunks.

    Attributes:
        id: stable name of the unit (journal key together with the inputs' hash).
        shard: the bank shard of all its documents.
        documents: the documents, in the corpus' order.
        chunks: their chunks, in order.
        seed: for choices the step makes; derived from run.seed and the unit's content.
    """

    id: str
    shard: int
    documents: tuple[Document, ...]
    chunks: tuple[Chunk, ...]
    seed: int


class Step(Protocol):
    """A synthesis step: a pure function from a unit (and earlier reflections) to reflections."""

    name: StepName
    version: str

    def run(self, unit: Unit, inputs: Sequence[Reflection]) -> StepResult:
        """Work on one unit; ``inputs`` are the unit's reflections of the earlier steps.

        Equal unit and inputs give an equal result on every machine.
        """
        ...


def in_force(steps: Sequence[T], name: Callable[[T], str]) -> Sequence[T]:
    """The steps whose reflections count: from the last of :data:`REPLACING` on.

    Args:
        steps: in the order they ran.
        name: gives a step's name.
    """
    for index in range(len(steps) - 1, -1, -1):
        if name(steps[index]) in REPLACING:
            return steps[index:]
    return steps


Dialogue = Conversation[Sequence[Request], Sequence[Reply], StepResult]
"""Yields a round of requests, is sent their replies in the same order, returns the result."""


class RequestStep(Protocol):
    """A step that asks a language model: pure, and deterministic given the replies."""

    name: StepName
    version: str

    def dialogue(self, unit: Unit, inputs: Sequence[Reflection]) -> Dialogue:
        """Work on one unit; ``inputs`` are the unit's reflections of the earlier steps.

        The first round depends on ``unit`` and ``inputs`` only. A step without anything to ask
        returns without yielding.
        """
        ...


@dataclass(frozen=True, slots=True)
class Group:
    """Members of one shard that a step looks at together.

    Attributes:
        documents: ids of the documents that the members rest on, sorted.
        reflections: ids of the reflections, in the order in which the step gets them.
    """

    documents: tuple[str, ...]
    reflections: tuple[str, ...]


class GroupingStep(RequestStep, Protocol):
    """A step whose units are groups found among the reflections of the earlier steps.

    Its ``dialogue`` gets a unit of the group's documents and the group's reflections as inputs.
    """

    def groups(self, shard: int, reflections: Iterable[Reflection]) -> list[Group]:
        """The groups of one shard; equal reflections give equal groups, in O(n log n)."""
        ...


AnyStep = Step | RequestStep
"""What a generator's ``steps()`` hold."""


def asks(step: AnyStep) -> TypeGuard[RequestStep]:
    """Whether a step asks a language model."""
    return hasattr(step, "dialogue")


def groups_documents(step: AnyStep) -> TypeGuard[GroupingStep]:
    """Whether a step's units are groups."""
    return hasattr(step, "groups")


class Generator(Protocol):
    """What writes reflections: names the steps it can do, says what it cannot."""

    name: str
    version: str

    def steps(self) -> Mapping[StepName, AnyStep]:
        """The steps that this generator implements, in the order they run."""
        ...

    def limits(self) -> list[str]:
        """Sentences for the card: which steps and kinds of facts are skipped, and why."""
        ...
