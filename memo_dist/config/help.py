"""Help texts of the configuration: the docstrings under the fields, read from the source."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator

from memo_dist.config import (
    compare_schema,
    fusion_schema,
    knowledge_schema,
    model_schema,
    scale_schema,
    schema,
    serve_schema,
)
from memo_dist.config.load import known_keys
from memo_dist.config.rules import lookup

_SCHEMAS = (
    schema,
    model_schema,
    fusion_schema,
    scale_schema,
    serve_schema,
    knowledge_schema,
    compare_schema,
)


def describe() -> str:
    """One paragraph a key: ``group.key = default`` and what it means."""
    defaults = schema.Config()
    texts = dict(_walk("Config", ""))
    return "\n".join(f"{key} = {lookup(defaults, key)!r}\n    {texts[key]}" for key in known_keys())


def _walk(class_name: str, prefix: str) -> Iterator[tuple[str, str]]:
    """(dotted key, help text) of a dataclass and of the dataclasses in it."""
    definition = _classes()[class_name]
    for base in definition.bases:
        yield from _walk(ast.unparse(base), prefix)
    body = definition.body
    for field, after in zip(body, [*body[1:], None], strict=True):
        if not isinstance(field, ast.AnnAssign) or not isinstance(field.target, ast.Name):
            continue
        key = f"{prefix}{field.target.id}"
        kind = ast.unparse(field.annotation)
        if kind in _classes():
            yield from _walk(kind, f"{key}.")
        elif isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            yield key, " ".join(str(after.value.value).split())


def _classes() -> dict[str, ast.ClassDef]:
    trees = (ast.parse(inspect.getsource(module)) for module in _SCHEMAS)
    nodes = (node for tree in trees for node in tree.body)
    return {node.name: node for node in nodes if isinstance(node, ast.ClassDef)}
