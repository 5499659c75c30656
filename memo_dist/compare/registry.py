"""The table of compared methods: those of this package, and those of entry points."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points

from memo_dist.compare.method import ENTRY_POINTS, Make, Method, Setting
from memo_dist.errors import UsageError, suggest


@dataclass(frozen=True, slots=True)
class Row:
    """A method of the table.

    Attributes:
        module: that holds it; imported only when it is made.
        make: name of the callable there, :data:`memo_dist.compare.method.Make`.
        meaning: a short phrase for the report.
    """

    module: str
    make: str
    meaning: str


METHODS: Mapping[str, Row] = {}
"""Every built-in method by name, in the order of the report."""


def make_method(name: str, setting: Setting) -> Method:
    """Make a method of this package or of an entry point.

    Raises:
        UsageError: there is no such method.
    """
    return _find(name)(setting)


def _find(name: str) -> Make:
    if name in METHODS:
        from importlib import import_module

        row = METHODS[name]
        make: Make = getattr(import_module(row.module), row.make)
        return make
    outside = {point.name: point for point in entry_points(group=ENTRY_POINTS)}
    if name in outside:
        loaded: Make = outside[name].load()
        return loaded
    known = [*METHODS, *outside]
    raise UsageError(
        f"unknown method '{name}'{suggest(name, known)}; methods are {', '.join(known)}"
    )
