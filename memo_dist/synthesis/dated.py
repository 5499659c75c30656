"""Dated facts: answers that changed over time, each told with its date.

Two documents of different dates may answer one question differently ("Who leads the board?"). A
memory trained on both would learn neither, so the newest answer keeps the plain question and
every older one, with its rewordings, is asked for "as of" its date.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import date

from memo_dist.synthesis.rules.facts import told_apart
from memo_dist.synthesis.rules.lexicon import MONTHS
from memo_dist.synthesis.types import Reflection
from memo_dist.synthesis.words import FUNCTION_WORDS


def date_conflicts(rows: Sequence[Reflection], normalise: Callable[[str], str]) -> list[Reflection]:
    """The reflections in the same order, the older answers to changed questions dated.

    Only questions whose answers all have different dates are touched: without dates, or with two
    answers of one day, there is no telling which one holds.
    """
    outdated = {
        row.fact: row.as_of
        for answers in _conflicts(rows, normalise)
        for row in _older(answers)
        if row.as_of is not None
    }
    return [
        _dated(row, outdated[row.fact]) if row.fact in outdated and row.kind != "abstain" else row
        for row in rows
    ]


def as_of(question: str, day: str) -> str:
    """The question with its date in front: "As of 14 March 2031, who leads the board?"."""
    first, _, rest = question.partition(" ")
    if first.casefold() in FUNCTION_WORDS:
        first = first[0].lower() + first[1:]
    return f"As of {_spoken(day)}, {first} {rest}".rstrip()


def _conflicts(
    rows: Iterable[Reflection], normalise: Callable[[str], str]
) -> Iterable[dict[str, list[Reflection]]]:
    """For each question with several answers: normalised answer -> reflections."""
    asked: dict[str, dict[str, list[Reflection]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        if row.kind not in ("abstain", "paraphrase"):
            asked[normalise(row.question)][normalise(row.answer)].append(row)
    return (answers for answers in asked.values() if len(answers) > 1)


def _older(answers: dict[str, list[Reflection]]) -> list[Reflection]:
    """The reflections of all answers but the newest one."""
    newest = {
        answer: max((row.as_of for row in rows if row.as_of), default="")
        for answer, rows in answers.items()
    }
    if not told_apart(newest.values()):
        return []
    latest = max(newest, key=lambda answer: newest[answer])
    return [row for answer, rows in answers.items() if answer != latest for row in rows]


def _dated(row: Reflection, day: str) -> Reflection:
    return replace(row, question=as_of(row.question, day), parent=row.fact)


def _spoken(day: str) -> str:
    """An ISO date in words; anything else as it is."""
    try:
        value = date.fromisoformat(day)
    except ValueError:
        return day
    return f"{value.day} {MONTHS[value.month - 1]} {value.year}"
