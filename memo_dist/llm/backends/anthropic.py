"""Anthropic's Messages API; structured answers are the input of one tool that it must call."""

from __future__ import annotations

import json
from typing import Any

from memo_dist.config.model_schema import EndpointConfig
from memo_dist.llm.backends.base import Answer, ServerFault
from memo_dist.llm.backends.http import HostedBackend, count
from memo_dist.llm.requests import Request, Usage

SERVICE = "https://api.anthropic.com"
API_VERSION = "2023-06-01"
TOOL = "answer"
_FINISH = {"end_turn": "stop", "tool_use": "stop", "stop_sequence": "stop", "max_tokens": "length"}


class AnthropicBackend(HostedBackend):
    """One base URL without ``/v1`` (the service's own by default)."""

    def __init__(self, config: EndpointConfig, url: str = SERVICE) -> None:
        headers = {"anthropic-version": API_VERSION}
        if config.api_key_env:
            headers["x-api-key"] = "{key}"
        super().__init__(config, url.rstrip("/") + "/v1/messages", headers)

    def _body(self, request: Request) -> dict[str, Any]:
        """System turns go into a field of their own; the API takes no seed."""
        system = "\n\n".join(m.content for m in request.messages if m.role == "system")
        turns = [m for m in request.messages if m.role != "system"]
        body: dict[str, Any] = {
            "model": request.model,
            "messages": [{"role": turn.role, "content": turn.content} for turn in turns],
            "max_tokens": request.max_tokens,
            "temperature": request.temperature,
        }
        if system:
            body["system"] = system
        if request.schema is not None:
            schema = json.loads(request.schema)
            body["tools"] = [
                {"name": TOOL, "description": "Gives the answer.", "input_schema": schema}
            ]
            body["tool_choice"] = {"type": "tool", "name": TOOL}
        return body

    def _answer(self, body: dict[str, Any]) -> Answer:
        try:
            text = "".join(_text(block) for block in body["content"])
        except (KeyError, TypeError, ValueError, AttributeError):
            raise ServerFault("the answer is not a message with content") from None
        reason = str(body.get("stop_reason") or "stop")
        return Answer(text, _FINISH.get(reason, reason), _usage(body.get("usage")))


def _text(block: dict[str, Any]) -> str:
    if block["type"] == "tool_use":
        return json.dumps(block["input"], ensure_ascii=False)
    return str(block.get("text", ""))


def _usage(counts: Any) -> Usage:
    """Bookkeeping: whatever it is, it rejects no answer."""
    counts = counts if isinstance(counts, dict) else {}
    cached = count(counts.get("cache_read_input_tokens"))
    written = count(counts.get("cache_creation_input_tokens"))
    prompt = count(counts.get("input_tokens")) + cached + written
    return Usage(prompt, cached, count(counts.get("output_tokens")))
