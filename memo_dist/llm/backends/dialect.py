"""What a server of a known API does not take, learned from its refusals.

Servers differ in the parameters of one API: ``max_tokens`` or ``max_completion_tokens``, a fixed
temperature, no seed, no ``response_format``, no system turn, a shorter context. Their 400 names
what they refuse; the request is then sent again without it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from memo_dist.llm.requests import Message, Request, with_schema_in_prompt

LEAST_REPLY_TOKENS = 256
"""A shorter limit of the reply would cut most replies off."""
MOST_CHANGES = 12
"""Sends of one request while its server is learned."""
_LIMITS = ("max_tokens", "max_completion_tokens")
_OPTIONAL = ("temperature", "seed")
_STRUCTURE = ("response_format", "json_schema", "tool_choice", "tools", "guided", "grammar")
_REFUSAL = re.compile(
    r"unsupported|not support|unknown|unrecogni[sz]ed|unexpected|not permitted|not allowed"
    r"|forbidden|invalid|illegal|extra|deprecated|not available|not implemented|only|must|cannot"
    r"|can't|unable|instead|no such|too (?:large|long|high)|exceed|maximum",
    re.IGNORECASE,
)
_LENGTH = re.compile(
    r"context (?:length|window|size)|maximum context|too (?:large|long|high|many)|exceed|at most"
    r"|maximum (?:allowed|number|value)|less than or equal|greater than|> \d",
    re.IGNORECASE,
)
_SYSTEM = re.compile(
    r"\b(?:system|developer)\b.{0,60}\b(?:role|message|prompt|instruction|turn)"
    r"|\broles?\b.{0,80}\b(?:system|alternate)",
    re.IGNORECASE | re.DOTALL,
)


@dataclass(slots=True)
class Dialect:
    """What one endpoint has refused so far.

    Attributes:
        dropped: optional parameters that it does not take.
        limit_name: the name of the reply's limit.
        structured: whether it takes a JSON schema.
        system: whether it takes a system turn.
    """

    dropped: set[str] = field(default_factory=set)
    limit_name: str = "max_tokens"
    structured: bool = True
    system: bool = True

    def request(self, request: Request) -> Request:
        """The request with its schema, and its system turn, where the endpoint reads them."""
        if not self.structured:
            request = with_schema_in_prompt(request)
        return request if self.system else _without_system(request)

    def body(self, body: dict[str, Any]) -> dict[str, Any]:
        """The body without what the endpoint does not take."""
        named = {self.limit_name if key in _LIMITS else key: body[key] for key in body}
        return {key: value for key, value in named.items() if key not in self.dropped}

    def learn(self, message: str, sent: Mapping[str, Any]) -> bool:
        """Take a refusal in; returns whether it names something of ``sent`` to leave out."""
        if not _REFUSAL.search(message):
            return False
        return self._optional(message, sent) or self._structure(message, sent, self.system)

    def _optional(self, message: str, sent: Mapping[str, Any]) -> bool:
        for name in _OPTIONAL:
            if name in sent and re.search(rf"\b{name}\b", message):
                self.dropped.add(name)
                return True
        limit = next((name for name in _LIMITS if name in sent), "")
        if limit and re.search(rf"\b{limit}\b", message) and not _LENGTH.search(message):
            self.limit_name = next(name for name in _LIMITS if name != limit)
            return True
        return False

    def _structure(self, message: str, sent: Mapping[str, Any], system: bool) -> bool:
        held = "response_format" in sent or "tool_choice" in sent
        if held and any(name in message for name in _STRUCTURE):
            self.structured = False
            return True
        roles = {turn["role"] for turn in sent["messages"]}
        if "system" in roles and system and _SYSTEM.search(message):
            self.system = False
            return True
        return False


def shorter(request: Request, message: str) -> Request | None:
    """The request with half of its reply's limit, where a refusal says that it is too long."""
    less = request.max_tokens // 2
    if less < LEAST_REPLY_TOKENS or not _LENGTH.search(message):
        return None
    return replace(request, max_tokens=less)


def _without_system(request: Request) -> Request:
    """The system turns in front of the first user turn."""
    told = [turn.content for turn in request.messages if turn.role == "system"]
    rest = [turn for turn in request.messages if turn.role != "system"]
    if not told or not rest:
        return request
    first = Message(rest[0].role, "\n\n".join([*told, rest[0].content]))
    return replace(request, messages=(first, *rest[1:]))
