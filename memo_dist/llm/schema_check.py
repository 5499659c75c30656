"""The value of an answer: the last JSON value of its text that its schema allows.

A list around the value is wrapping, too.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match

from memo_dist.llm.json_text import json_fault, values, without_trailing_commas

_SHOWN_CHARS = 80


def value_of(text: str, schema: str) -> Any:
    """The JSON value of a valid answer: of those in its text, the last that fits the schema.

    Raises:
        ValueError: none fits.
    """
    for value in _candidates(text):
        if _validator(schema).is_valid(value):
            return value
    raise ValueError("no JSON value fits the schema")


def schema_fault(text: str, schema: str) -> str:
    """Why no value of an answer fits the schema; "" where one does."""
    if any(_validator(schema).is_valid(value) for value in _candidates(text)):
        return ""
    found, fault = values(text), json_fault(text)
    if fault and not (found and _is_meant(found[-1], schema)):
        return f"not JSON: {fault}"
    if not found:
        return f"not JSON: no complete object or list in {text.strip()[:_SHOWN_CHARS]!r}"
    error = best_match(_validator(schema).iter_errors(found[-1]))
    return f"schema: at {error.json_path}: {error.message}" if error else ""


def _is_meant(value: Any, schema: str) -> bool:
    """Whether a value is an answer with faults, not a part of one that does not parse."""
    named = json.loads(schema).get("properties", {})
    return isinstance(value, dict) and not named.keys().isdisjoint(value)


def _candidates(text: str) -> Iterator[Any]:
    """The values of an answer from the last to the first, each before what is listed in it.

    Then those that its text has without commas behind the last item of a list or object.
    """
    yield from _listed(text)
    mended = without_trailing_commas(text)
    if mended != text:
        yield from _listed(mended)


def _listed(text: str) -> Iterator[Any]:
    for value in reversed(values(text)):
        yield value
        if isinstance(value, list):
            yield from reversed(value)


@lru_cache(maxsize=64)
def _validator(schema: str) -> Draft202012Validator:
    return Draft202012Validator(_relaxed(json.loads(schema)))


def _relaxed(part: Any) -> Any:
    """The schema without the most items of lists, and without the limits on references (integers of
    a list, and how many of them).

    A server with structured output keeps them. Elsewhere one number out of place costs its item,
    which a step rejects with a reason, and not the whole reply; and whoever reads the reply leaves
    out what is too much.
    """
    if isinstance(part, list):
        return [_relaxed(value) for value in part]
    if not isinstance(part, dict):
        return part
    dropped = {"maxItems"} | ({"enum"} if _refers(part) else set())
    dropped |= {"minItems"} if _refers(part.get("items")) else set()
    return {key: _relaxed(value) for key, value in part.items() if key not in dropped}


def _refers(part: Any) -> bool:
    return isinstance(part, dict) and part.get("type") == "integer" and "enum" in part
