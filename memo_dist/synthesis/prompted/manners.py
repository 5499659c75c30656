"""Manners of asking: how the questions of a fact differ, dealt to each call in turn."""

from __future__ import annotations

from collections.abc import Collection
from functools import cache

from memo_dist.config.schema import SynthesisConfig
from memo_dist.synthesis.prompted.prompts import source

FILE = "manners"
"""The prompt file: a manner a line; the first is the one of a fact's first question."""

PER_CALL = 8
"""Questions of a fact in one call at most: beyond them a reply repeats itself, and a call of
``synthesis.facts_per_call`` facts does not fit into ``synthesis.max_reply_tokens``."""
NEED_PASSAGES = frozenset({"vague", "described", "follow-up"})
"""Manners that nobody can write from a question and its answer alone."""


def questions_per_fact(settings: SynthesisConfig) -> int:
    """Questions that one call writes for a fact; the step ``paraphrase`` adds the others."""
    return min(settings.phrasings, PER_CALL)


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
