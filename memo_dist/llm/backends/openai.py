"""Any server with OpenAI's chat completions: vLLM, SGLang, Ollama, LM Studio, hosted models."""

from __future__ import annotations

import json
from typing import Any

from memo_dist.config.model_schema import EndpointConfig
from memo_dist.llm.backends.base import Answer, ServerFault
from memo_dist.llm.backends.http import HostedBackend
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
        if request.schema is not None and self._structured:
            schema = {"name": "answer", "strict": True, "schema": json.loads(request.schema)}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        return body

    def _answer(self, body: dict[str, Any]) -> Answer:
        try:
            choice = body["choices"][0]
            text = choice["message"]["content"] or ""
            finish = choice.get("finish_reason") or "stop"
            counts = body.get("usage") or {}
            details = counts.get("prompt_tokens_details") or {}
            usage = Usage(
                prompt=int(counts.get("prompt_tokens") or 0),
                cached=int(details.get("cached_tokens") or 0),
                completion=int(counts.get("completion_tokens") or 0),
            )
        except (KeyError, IndexError, TypeError, ValueError, AttributeError):
            raise ServerFault("the answer has no choices[0].message.content") from None
        if not isinstance(text, str):
            raise ServerFault("choices[0].message.content is not text")
        return Answer(text, finish, usage)
