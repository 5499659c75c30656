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


def limited(schema: Schema, most: int, numbers: int, texts: int = 1) -> Schema:
    """The schema of one request's reply.

    Args:
        schema: of a record with lists.
        most: items that a list has at most: a model that repeats itself comes to an end, and its
            reply still parses.
        numbers: passages, pairs or answers that the prompt lists: a server with structured
            output lets the model write no other number, and no longer list of numbers.
        texts: items that a list of texts inside an item has at most.
    """
    listed = {"type": "integer", "enum": [*range(1, numbers + 1)]}
    lists = {
        name: {**_bounded(value, listed, texts), "maxItems": most}
        for name, value in schema["properties"].items()
    }
    return {**schema, "properties": lists}


def _bounded(part: Any, listed: Schema, texts: int) -> Any:
    """``part`` with every :data:`NUMBER` replaced and its lists of numbers and texts bounded."""
    if part == NUMBER:
        return listed
    if isinstance(part, list):
        return [_bounded(value, listed, texts) for value in part]
    if not isinstance(part, dict):
        return part
    bounded = {key: _bounded(value, listed, texts) for key, value in part.items()}
    if part.get("items") == NUMBER:
        bounded["maxItems"] = len(listed["enum"])
    if part.get("items") == TEXT:
        bounded["maxItems"] = texts
    return bounded


_QUESTIONS: Schema = {**array(TEXT), "minItems": 1}
_MERGES: Schema = {**array(NUMBER), "minItems": 2}

FACTS = record(facts=array(record(passage=NUMBER, answer=TEXT, questions=_QUESTIONS)))
ANCHORED = record(facts=array(record(answer=TEXT, questions=_QUESTIONS)))
JOINED = record(facts=array(record(merges=_MERGES, bridge=TEXT, answer=TEXT, questions=_QUESTIONS)))
WORDINGS = record(facts=array(record(pair=NUMBER, questions=_QUESTIONS)))
MERGED = record(pairs=array(record(merges=_MERGES, question=TEXT, answer=TEXT)))
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
UNANSWERED = record(questions=array(record(passage=NUMBER, question=TEXT)))
READ = record(answers=array(record(question=NUMBER, answer=TEXT)))
