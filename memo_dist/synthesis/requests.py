"""The seam between synthesis steps and language models: requests, replies, and steps that ask.

A step that uses a language model never calls one. It is a generator function (:class:`Dialogue`)
that yields rounds of requests and receives their replies, so that the engine alone decides when,
where and how often a request is sent, and the step stays a pure function of unit, inputs and
replies.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeGuard

from memo_dist.io.hashing import hash_value
from memo_dist.synthesis.types import Reflection, Step, StepName, StepResult, Unit

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True)
class Request:
    """One call to a language model; every field enters :attr:`key`.

    Attributes:
        model: the model's name at its endpoint.
        messages: the fully rendered conversation.
        schema: canonical JSON text of the JSON schema that the answer must obey; None: free text.
        max_tokens: limit of the answer, in the model's tokens.
        temperature: of sampling; 0 is greedy.
        seed: passed to backends that take one.
    """

    model: str
    messages: tuple[Message, ...]
    schema: str | None
    max_tokens: int
    temperature: float = 0.0
    seed: int = 0

    @property
    def key(self) -> str:
        """SHA-256 over canonical JSON of all fields, 64 hexadecimal digits."""
        turns = [[message.role, message.content] for message in self.messages]
        limits = [self.max_tokens, self.temperature, self.seed]
        return hash_value([self.model, turns, self.schema, limits])


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one or several attempts, as the endpoint counted them.

    Attributes:
        prompt: tokens read, cached ones included.
        cached: the part of ``prompt`` that the endpoint took from a prefix cache.
        completion: tokens written.
    """

    prompt: int = 0
    cached: int = 0
    completion: int = 0


@dataclass(frozen=True, slots=True)
class Response:
    """An accepted answer.

    Attributes:
        key: of the request.
        text: as the model wrote it.
        value: parsed and valid under the request's schema; None for free text.
        finish_reason: "stop"; an answer that was cut off ("length") is never accepted.
        usage: of all attempts together.
        attempts: sends that it took, repair turns included.
    """

    key: str
    text: str
    value: Any
    finish_reason: str
    usage: Usage = field(default_factory=Usage)
    attempts: int = 1


@dataclass(frozen=True, slots=True)
class Failure:
    """A request that no attempt could satisfy; it is in quarantine with its raw text."""

    key: str
    reason: str
    raw: str
    attempts: int
    usage: Usage = field(default_factory=Usage)


Reply = Response | Failure
Dialogue = Generator[Sequence[Request], Sequence[Reply], StepResult]
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
