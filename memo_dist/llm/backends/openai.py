"""Any server with OpenAI's chat completions: vLLM, SGLang, Ollama, LM Studio, hosted models."""

from __future__ import annotations

import json
from typing import Any

from memo_dist.config.model_schema import EndpointConfig
from memo_dist.llm.backends.base import Answer, ServerFault
from memo_dist.llm.backends.http import HostedBackend, count
from memo_dist.llm.requests import Request, Usage


class OpenAIBackend(HostedBackend):
    """One base URL (``.../v1``)."""

    def __init__(self, config: EndpointConfig, url: str) -> None:
        headers = {"Authorization": "Bearer {key}"} if config.api_key_env else {}
        super().__init__(config, url.rstrip("/") + "/chat/completions", headers)

    def _body(self, request: Request) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": request.model,
            "messages": [{"role": m.role, "content": m.content} for m in request.messages],
            "max_tokens": request.max_tokens,
            "temperature": request.temperature,
            "seed": request.seed,
        }
        if request.schema is not None:
            schema = {"name": "answer", "strict": True, "schema": json.loads(request.schema)}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        return body

    def _answer(self, body: dict[str, Any]) -> Answer:
        try:
            choice = body["choices"][0]
            error = choice.get("error")
            text = _text(_content(choice))
        except (KeyError, IndexError, TypeError, AttributeError):
            raise ServerFault("the answer has no choices[0].message.content") from None
        if error:
            raise ServerFault(f"the answer is an error: {error!s:.200}")
        if text is None:
            raise ServerFault("choices[0].message.content is not text")
        return Answer(text, str(choice.get("finish_reason") or "stop"), _usage(body.get("usage")))


def _content(choice: dict[str, Any]) -> Any:
    """Where a server puts the answer: some have it in ``text``, or all of it among the thoughts."""
    if "message" not in choice:
        return choice["text"]
    message = choice["message"]
    return message["content"] or message.get("reasoning_content") or message.get("reasoning")


def _text(content: Any) -> str | None:
    """The text of a message: a string, or a list of parts; None for anything else."""
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, list):
        return None
    parts = [part.get("text", "") if isinstance(part, dict) else part for part in content]
    return "".join(parts) if all(isinstance(part, str) for part in parts) else None


def _usage(counts: Any) -> Usage:
    """Bookkeeping: whatever it is, it rejects no answer."""
    counts = counts if isinstance(counts, dict) else {}
    details = counts.get("prompt_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, dict) else 0
    prompt = count(counts.get("prompt_tokens"))
    return Usage(prompt, min(count(cached), prompt), count(counts.get("completion_tokens")))
