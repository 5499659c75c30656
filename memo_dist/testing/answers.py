"""Answers that obey a JSON schema and are made of the prompt's own sentences.

Everything is a function of the prompt, the schema and a seed: the same request, the same answer.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator, Sequence
from itertools import cycle
from typing import Any

ITEMS = 3
MAX_DEPTH = 12
_SENTENCE = re.compile(r"[^.!?\n]{12,}[.!?]")
_NOTHING = "There is nothing here."


def answer_text(prompt: str, schema: dict[str, Any] | None, seed: str) -> str:
    """An answer to ``prompt``: JSON under ``schema``, or two of the prompt's sentences."""
    sentences = [" ".join(text.split()) for text in _SENTENCE.findall(prompt)] or [_NOTHING]
    chance = random.Random(seed)
    start = chance.randrange(len(sentences))
    ordered = sentences[start:] + sentences[:start]
    if schema is None:
        return " ".join(ordered[:2])
    return json.dumps(_Filler(schema, ordered, chance).fill(schema), ensure_ascii=False)


class _Filler:
    """Fills one schema; ``$ref`` is followed inside it."""

    def __init__(
        self, root: dict[str, Any], sentences: Sequence[str], chance: random.Random
    ) -> None:
        self._root = root
        self._sentences: Iterator[str] = cycle(sentences)
        self._current = next(self._sentences)
        self._chance = chance

    def fill(self, schema: dict[str, Any], name: str = "", depth: int = 0) -> Any:
        """A value that is valid under ``schema``; ``name`` is the property it is for."""
        if "$ref" in schema:
            schema = self._resolve(schema["$ref"])
        if "const" in schema:
            return schema["const"]
        if "enum" in schema:
            return self._chance.choice(schema["enum"])
        for choice in ("anyOf", "oneOf", "allOf"):
            if choice in schema:
                return self.fill(schema[choice][0], name, depth + 1)
        kind = schema.get("type", "string")
        kind = kind[0] if isinstance(kind, list) else kind
        return self._of_type(kind, schema, name, depth)

    def _of_type(self, kind: str, schema: dict[str, Any], name: str, depth: int) -> Any:
        if kind == "object":
            return self._object(schema, depth)
        if kind == "array":
            return self._array(schema, name, depth)
        if kind in ("integer", "number"):
            low = schema.get("minimum", schema.get("exclusiveMinimum", -1) + 1)
            high = schema.get("maximum", max(low, 9))
            return self._chance.randint(int(low), int(high))
        if kind == "boolean":
            return self._chance.random() < 0.9
        return None if kind == "null" else self._string(schema, name)

    def _object(self, schema: dict[str, Any], depth: int) -> dict[str, Any]:
        self._current = next(self._sentences)
        properties = schema.get("properties", {})
        required = schema.get("required", list(properties))
        names = list(properties) if depth < MAX_DEPTH else [n for n in properties if n in required]
        return {name: self.fill(properties[name], name, depth + 1) for name in names}

    def _array(self, schema: dict[str, Any], name: str, depth: int) -> list[Any]:
        least, most = schema.get("minItems", 0), schema.get("maxItems", ITEMS)
        count = least if depth >= MAX_DEPTH else min(max(least, ITEMS), most)
        values: list[Any] = []
        for _ in range(count):
            value = self.fill(schema.get("items", {}), name, depth + 1)
            if not (schema.get("uniqueItems") and value in values):
                values.append(value)
            if schema.get("items", {}).get("type", "string") == "string":
                self._current = next(self._sentences)
        return values

    def _string(self, schema: dict[str, Any], name: str) -> str:
        text = self._current
        if "question" in name:
            text = f"What is said of {' '.join(text.rstrip('.!?').split()[:4])}?"
        least, most = schema.get("minLength", 0), schema.get("maxLength", len(text))
        padded: str = f"{text} {_NOTHING * (int(least) // 10)}"
        return padded[: max(least, min(most, len(text)))]

    def _resolve(self, reference: str) -> dict[str, Any]:
        node: Any = self._root
        for part in reference.removeprefix("#/").split("/"):
            node = node[part]
        found: dict[str, Any] = node
        return found
