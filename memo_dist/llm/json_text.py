"""JSON in the text of a model's answer."""

from __future__ import annotations

import json
import re
from typing import Any

_THOUGHT = re.compile(r"^\s*<think>.*?</think>", re.DOTALL)
_FENCE = re.compile(r"```(?:json)?\s*\n(.*?)\n\s*```", re.DOTALL)


def parse(text: str) -> Any:
    """The JSON value of an answer, also in a code fence, behind a thought, or an object in prose.

    Raises:
        ValueError: there is none.
    """
    text = _THOUGHT.sub("", text)
    fence = _FENCE.search(text)
    body = fence.group(1) if fence and not text.lstrip().startswith(("{", "[")) else text
    value = _value(body)
    if "\\ud" in body.lower():  # half of a surrogate pair is a string that no file can hold
        json.dumps(value, ensure_ascii=False).encode()
    return value


def _value(body: str) -> Any:
    try:
        return json.loads(body, parse_constant=_no_constant)
    except ValueError:
        begin, end = body.find("{"), body.rfind("}") + 1
        if not 0 <= begin < end:
            raise
        return json.loads(body[begin:end], parse_constant=_no_constant)


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")
