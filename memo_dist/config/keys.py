"""One configuration key, written in one place: default, bounds, choices and identity.

A field of a schema is ``name: type = key(default, at_least=1)``, with its help text as the
docstring below it. A field with nothing to bound may have a plain default.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cache
from typing import Any, TypeVar, cast

Value = TypeVar("Value")
_NAME = "key"


@dataclass(frozen=True)
class KeySpec:
    """What a key may hold. Bounds hold for each item where the key is a list.

    Attributes:
        at_least: smallest value; None: no such bound.
        above: largest value that is too small; None: no such bound.
        between: smallest and largest value; None: no such bound.
        fraction: the value lies between 0 and 1.
        choices: the words that the key may be; empty: any.
        names: the words that a list may hold; empty: any.
        identity: whether another value can change a stage's result. How often to save, how
            stubbornly to retry, where a model is served and where tensors lie cannot.
    """

    at_least: float | None = None
    above: float | None = None
    between: tuple[int, int] | None = None
    fraction: bool = False
    choices: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    identity: bool = True


def key(  # noqa: PLR0913
    default: Value,
    *,
    at_least: float | None = None,
    above: float | None = None,
    between: tuple[int, int] | None = None,
    fraction: bool = False,
    choices: tuple[str, ...] = (),
    names: tuple[str, ...] = (),
    identity: bool = True,
) -> Value:
    """A dataclass field with its :class:`KeySpec`; a list is copied into each instance."""
    spec = KeySpec(at_least, above, between, fraction, choices, names, identity)
    metadata = {_NAME: spec}
    if isinstance(default, list):
        return cast(Value, field(default_factory=default.copy, metadata=metadata))
    return field(default=default, metadata=metadata)


@cache
def key_specs(schema: type) -> dict[str, KeySpec]:
    """{dotted key: its spec} of a schema and the schemas in it; only read."""
    return dict(_walk(schema(), ""))


def _walk(node: Any, prefix: str) -> Iterator[tuple[str, KeySpec]]:
    for entry in fields(node):
        value, name = getattr(node, entry.name), f"{prefix}{entry.name}"
        if is_dataclass(value):
            yield from _walk(value, f"{name}.")
        else:
            yield name, entry.metadata.get(_NAME, KeySpec())
