"""JSON schemas of the replies: strict (every property required, none beyond), so that servers
with structured output accept them as they are.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

Schema = dict[str, Any]

NUMBER: Schema = {"type": "integer"}
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
    """The text that :class:`memo_dist.synthesis.requests.Request` carries: compact JSON.

    Properties keep their order, because servers with structured output make the model write them
    in the order of the schema: a verdict before its reason, a number before the text.
    """
    return json.dumps(schema, separators=(",", ":"))


def limited(schema: Schema, most: int) -> Schema:
    """The schema of a list, for at most ``most`` items: a model that repeats itself comes to an
    end, and its reply still parses.
    """
    lists = {name: {**value, "maxItems": most} for name, value in schema["properties"].items()}
    return {**schema, "properties": lists}


EXTRACTED = record(
    pairs=array(
        record(passage=NUMBER, kind=choice("direct", "indirect"), question=TEXT, answer=TEXT)
    )
)
OF_PASSAGES = record(pairs=array(record(passage=NUMBER, question=TEXT, answer=TEXT)))
ANCHORED = record(questions=array(record(answer=NUMBER, question=TEXT)))
MERGED = record(pairs=array(record(merges=array(NUMBER), question=TEXT, answer=TEXT)))
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
