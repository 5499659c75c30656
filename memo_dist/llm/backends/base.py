"""The seam to a language model: one request in, one raw answer or one named fault out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from memo_dist.llm.requests import Request, Usage


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model wrote, not yet checked.

    Attributes:
        text: the answer.
        finish_reason: "stop"; "length" where it was cut off; else the endpoint's own word.
        usage: tokens of this one send.
        source: the file that it was read from, for messages. An invalid answer of a file is no
            attempt: asking again brings the same one until somebody amends the file.
    """

    text: str
    finish_reason: str
    usage: Usage = field(default_factory=Usage)
    source: str = ""


class Backend(Protocol):
    """One endpoint."""

    @property
    def name(self) -> str:
        """What logs call it; holds no secret."""
        ...

    async def complete(self, request: Request, tag: str) -> Answer:
        """Send ``request`` once.

        Args:
            request: fully rendered.
            tag: ``<request key>-<attempt>``; equal for sends that may be answered alike, and
                passed on as ``Idempotency-Key``.

        Raises:
            BackendFault: no answer; the subclass says whether trying again can help.
        """
        ...

    async def close(self) -> None:
        """Release connections and models."""
        ...


class BackendFault(Exception):
    """A send that brought no answer; the message holds no secret."""


class RateLimited(BackendFault):
    """The endpoint asks for fewer requests (429): wait and send again; not an attempt."""

    def __init__(self, message: str, retry_after: float | None) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        """Seconds that the endpoint asked for, if it did."""


class Unreachable(BackendFault):
    """No connection, or it broke before an answer: not an attempt, the endpoint is at fault."""


class ServerFault(BackendFault):
    """5xx, a time-out, or an answer that is none: an attempt, may succeed the next time."""


class ConnectionBroken(ServerFault):
    """The connection ended after the request was sent: the same attempt is sent again."""


class RequestRefused(BackendFault):
    """The endpoint will never answer this request (400, 413, 422)."""


class EndpointRefused(BackendFault):
    """The endpoint will not answer anything (401, 403, 404): configuration is wrong."""


class NoReply(BackendFault):
    """There is no usable reply yet, and asking again now will not bring one: not an attempt.

    The message says why a reply that is there cannot be used; "" where there is none.
    """
