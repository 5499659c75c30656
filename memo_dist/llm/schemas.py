"""JSON schemas of the replies: strict (every property required, none beyond), so that servers
with structured output accept them as they are.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

Schema = dict[str, Any]

NUMBER: Schema = {"type": "integer", "minimum": 1}
"""Of a listed passage, pair or answer; :func:`limited` says which there are."""
TEXT: Schema = {"type": "string"}


def choice(*values: str) -> Schema:
    """One of some strings."""
    return {"type": "string", "enum": list(values)}


def array(items: Schema) -> Schema:
    """A list of ``items``."""
    return {"type": "array", "items": items}


def record(**properties: Schema) -> Schema:
    """An object with exactly these properties, in this order."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def text_of(schema: Mapping[str, Any]) -> str:
    """The text that :class:`memo_dist.llm.requests.Request` carries: compact JSON.

    Properties keep their order, because servers with structured output make the model write them
    in the order of the schema: a verdict before its reason, a number before the text.
    """
    return json.dumps(schema, separators=(",", ":"))


def limited(schema: Schema, most: int, numbers: int) -> Schema:
    """The schema of one request's reply.

    Args:
        schema: of a record with lists.
        most: items that a list has at most: a model that repeats itself comes to an end, and its
            reply still parses.
        numbers: passages, pairs or answers that the prompt lists: a server with structured
            output lets the model write no other number.
    """
    listed = {"type": "integer", "enum": [*range(1, numbers + 1)]}
    lists = {
        name: {**_with_numbers(value, listed), "maxItems": most}
        for name, value in schema["properties"].items()
    }
    return {**schema, "properties": lists}


def _with_numbers(part: Any, listed: Schema) -> Any:
    """``part`` with every :data:`NUMBER` replaced."""
    if part == NUMBER:
        return listed
    if isinstance(part, dict):
        return {key: _with_numbers(value, listed) for key, value in part.items()}
    return [_with_numbers(value, listed) for value in part] if isinstance(part, list) else part


EXTRACTED = record(
    pairs=array(
        record(passage=NUMBER, kind=choice("direct", "indirect"), question=TEXT, answer=TEXT)
    )
)
OF_PASSAGES = record(pairs=array(record(passage=NUMBER, question=TEXT, answer=TEXT)))
ANCHORED = record(questions=array(record(answer=NUMBER, question=TEXT)))
MERGED = record(
    pairs=array(record(merges={**array(NUMBER), "minItems": 2}, question=TEXT, answer=TEXT))
)
VERDICTS = record(
    verdicts=array(
        {
            "anyOf": [
                record(pair=NUMBER, verdict=choice("keep")),
                record(pair=NUMBER, verdict=choice("rewrite"), question=TEXT, answer=TEXT),
                record(pair=NUMBER, verdict=choice("drop"), problem=TEXT),
            ]
        }
    )
)
WORDINGS = record(facts=array(record(pair=NUMBER, questions=array(TEXT))))
UNANSWERED = record(questions=array(record(passage=NUMBER, question=TEXT)))
