"""Manners of asking: how the questions of a fact differ, dealt to each call in turn."""

from __future__ import annotations

from collections.abc import Collection
from functools import cache

from memo_dist.synthesis.prompted.prompts import source

FILE = "manners"
"""The prompt file: a manner a line; the first is the one of a fact's first question."""

NEED_PASSAGES = frozenset({"vague", "described", "follow-up"})
"""Manners that nobody can write from a question and its answer alone."""


def manners(count: int, turn: int, without: Collection[str] = ()) -> list[str]:
    """The manners of one call: the plain one, then others from a place that ``turn`` decides.

    Args:
        count: how many; beyond the number that exists they come again.
        turn: any number; equal numbers give equal manners.
        without: names that are left out.
    """
    return [_lines()[0], *further_manners(count - 1, turn, without)]


def further_manners(count: int, turn: int, without: Collection[str] = ()) -> list[str]:
    """As :func:`manners`, without the plain one."""
    others = [line for line in _lines()[1:] if line.partition(":")[0] not in without]
    return [others[(turn * count + index) % len(others)] for index in range(count)]


@cache
def _lines() -> list[str]:
    return source(FILE).splitlines()
