"""Requests to language models and their replies."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

from memo_dist.io.hashing import hash_value

Role = Literal["system", "user", "assistant"]

CHARS_PER_TOKEN = 4.0
"""Of English text, roughly: where nothing was counted."""


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


@dataclass(frozen=True, slots=True)
class OpenRequest:
    """A request whose reply is still to come, from whoever answers it outside of this process.

    Attributes:
        request: what is asked.
        reason: what is wrong with the reply that is there; "" where there is none.
    """

    request: Request
    reason: str = ""


def with_schema_in_prompt(request: Request) -> Request:
    """The request for an endpoint that takes no schema: it is told in the last turn, once."""
    if request.schema is None:
        return request
    *earlier, last = request.messages
    told = (
        f"{last.content}\n\nAnswer with JSON only, valid under this JSON schema:\n{request.schema}"
    )
    return replace(request, messages=(*earlier, replace(last, content=told)), schema=None)
