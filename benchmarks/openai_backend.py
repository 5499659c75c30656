"""A plain synchronous client of an OpenAI-compatible server, for benchmarks of the steps.

The engine has its own client; this one sends one request at a time, so that a server with a
prefix cache sees the steps of a document in sequence, and keeps every reply in a file.
"""

from __future__ import annotations

import json
import time
import urllib.request
from pathlib import Path
from typing import Any

import jsonschema

from memo_dist.config.steps import StepName
from memo_dist.io.atomic import json_line, read_jsonl
from memo_dist.llm.requests import Failure, Reply, Request, Response, Usage

TIMEOUT = 600.0


class OpenAIBackend:
    """Answers requests by one server; replies are kept in ``path`` and taken from there again."""

    def __init__(self, url: str, path: Path) -> None:
        self._url = url.rstrip("/") + "/chat/completions"
        self._path = path
        rows = read_jsonl(path) if path.exists() else ()
        self.rows: dict[str, dict[str, Any]] = {row["key"]: row for row in rows}

    def __call__(self, step: StepName, request: Request) -> Reply:
        """Ask, unless the file has the reply; one attempt."""
        row = self.rows.get(request.key)
        if row is None:
            row = self._ask(step, request)
            self.rows[request.key] = row
            with self._path.open("ab") as stream:
                stream.write(json_line(row))
        return _reply(request, row)

    def _ask(self, step: StepName, request: Request) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": request.model,
            "messages": [{"role": m.role, "content": m.content} for m in request.messages],
            "max_tokens": request.max_tokens,
            "temperature": request.temperature,
            "seed": request.seed,
        }
        if request.schema is not None:
            schema = {"name": step, "strict": True, "schema": json.loads(request.schema)}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        call = urllib.request.Request(
            self._url, json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        began = time.monotonic()
        with urllib.request.urlopen(call, timeout=TIMEOUT) as answer:
            value = json.load(answer)
        choice, usage = value["choices"][0], value["usage"]
        return {
            "key": request.key,
            "step": step,
            "text": choice["message"]["content"],
            "finish_reason": choice["finish_reason"],
            "prompt": usage["prompt_tokens"],
            "cached": (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0),
            "completion": usage["completion_tokens"],
            "seconds": round(time.monotonic() - began, 3),
        }


def _reply(request: Request, row: dict[str, Any]) -> Reply:
    """Accept a whole answer that obeys the schema."""
    text, reason = row["text"], ""
    value = None
    if row["finish_reason"] != "stop":
        reason = f"finish_reason {row['finish_reason']}"
    elif request.schema is not None:
        try:
            value = json.loads(text)
            jsonschema.validate(value, json.loads(request.schema))
        except (ValueError, jsonschema.ValidationError) as error:
            reason = f"invalid: {str(error).splitlines()[0]}"
    if reason:
        return Failure(request.key, reason, text, 1)
    usage = Usage(row["prompt"], row["cached"], row["completion"])
    return Response(request.key, text, value, "stop", usage)
