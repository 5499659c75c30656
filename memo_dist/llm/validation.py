"""Is an answer valid? And what to send where it is not."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match

from memo_dist.llm.backends.base import Answer
from memo_dist.llm.json_text import parse
from memo_dist.llm.records import Attempt
from memo_dist.llm.requests import Message, Request

MAX_REASON_CHARS = 200
MAX_REPAIRED_CHARS = 8000
RETRY_TEMPERATURE = 0.5
TRUNCATED = "truncated"


def fault_of(answer: Answer, schema: str | None) -> str:
    """Why an answer to a request with this schema cannot be accepted; "" where it can.

    An answer that was cut off is never accepted: cut JSON may still parse.
    """
    if answer.finish_reason == "length":
        return f"{TRUNCATED}: the answer was cut off at the token limit"
    if answer.finish_reason != "stop":
        return f"finish reason {answer.finish_reason}"
    if not answer.text.strip():
        return "empty: the answer has no text"
    if schema is None:
        return ""
    try:
        value = parse(answer.text)
    except (ValueError, RecursionError) as error:
        return f"not JSON: {error}"[:MAX_REASON_CHARS]
    return _violation(value, schema)


def next_send(request: Request, history: Sequence[Attempt]) -> Request:
    """What to send as the next attempt; a pure function, so a resumed run sends the same.

    - The first invalid answer gets one repair turn: its own text and what is wrong with it.
    - Later ones are asked afresh, with another seed and not greedily: a greedy request that
      failed would fail alike.
    - An answer that was cut off is asked for again with twice the room.
    """
    invalid = [row for row in history if row.outcome == "invalid"]
    if not invalid:
        return request
    last = invalid[-1]
    if last.reason.startswith(TRUNCATED):
        request = replace(request, max_tokens=2 * request.max_tokens)
    elif len(invalid) == 1 and last.text.strip():
        return _repair(request, last)
    warmth = max(request.temperature, RETRY_TEMPERATURE)
    return replace(request, seed=request.seed + len(invalid), temperature=warmth)


def with_schema_in_prompt(request: Request) -> Request:
    """The request for an endpoint that takes no schema: it is told in the last turn."""
    if request.schema is None:
        return request
    *earlier, last = request.messages
    told = (
        f"{last.content}\n\nAnswer with JSON only, valid under this JSON schema:\n{request.schema}"
    )
    return replace(request, messages=(*earlier, replace(last, content=told)))


def _repair(request: Request, bad: Attempt) -> Request:
    turns = (
        Message("assistant", bad.text[:MAX_REPAIRED_CHARS]),
        Message(
            "user", f"That answer is not valid: {bad.reason}. Write the corrected answer only."
        ),
    )
    return replace(request, messages=request.messages + turns)


def _violation(value: Any, schema: str) -> str:
    error = best_match(_validator(schema).iter_errors(value))
    if error is None:
        return ""
    return f"schema: at {error.json_path}: {error.message}"[:MAX_REASON_CHARS]


@lru_cache(maxsize=64)
def _validator(schema: str) -> Draft202012Validator:
    return Draft202012Validator(_relaxed(json.loads(schema)))


def _relaxed(part: Any) -> Any:
    """The schema without the limits on references (integers of a list, and how many of them).

    A server with structured output keeps them. Elsewhere one number out of place costs its item,
    which a step rejects with a reason, and not the whole reply.
    """
    if isinstance(part, list):
        return [_relaxed(value) for value in part]
    if not isinstance(part, dict):
        return part
    dropped = "enum" if _refers(part) else "minItems" if _refers(part.get("items")) else None
    return {key: _relaxed(value) for key, value in part.items() if key != dropped}


def _refers(part: Any) -> bool:
    return isinstance(part, dict) and part.get("type") == "integer" and "enum" in part
