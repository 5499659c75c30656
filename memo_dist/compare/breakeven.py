"""After how many questions, or updates a day, one method is cheaper than another."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Expense:
    """What a method costs, in one currency.

    Attributes:
        name: of the method.
        prepare: once.
        question: of one question.
        update: of bringing it to the state of one changed document.
    """

    name: str
    prepare: float
    question: float
    update: float

    def total(self, questions: float, updates: float = 0.0) -> float:
        """Of preparation, questions and updates together."""
        return self.prepare + questions * self.question + updates * self.update


@dataclass(frozen=True, slots=True)
class BreakEven:
    """Where two methods cost the same.

    Attributes:
        first, second: the methods.
        questions: number of questions after which the other one becomes cheaper; None: one is
            cheaper from the first question on, for ever, or both always cost the same.
        before, after: the cheaper method below and above that number; equal where there is none,
            and "" where both always cost the same.
        updates_per_day: changed documents a day at which both cost the same in daily use, at the
            given questions a day; None: the same method is cheaper at any number.
        few_updates, many_updates: the cheaper method in daily use below and above that number.
    """

    first: str
    second: str
    questions: float | None
    before: str
    after: str
    updates_per_day: float | None
    few_updates: str
    many_updates: str


def break_even(first: Expense, second: Expense, questions_per_day: float) -> BreakEven:
    """Compare two expenses.

    Args:
        first, second: of the methods.
        questions_per_day: asked in daily use, for the updates; the preparation is then paid.
    """
    questions, before, after = _crossing(
        first, second, second.prepare - first.prepare, first.question - second.question
    )
    daily = questions_per_day * (second.question - first.question)
    updates, few, many = _crossing(first, second, daily, first.update - second.update)
    return BreakEven(first.name, second.name, questions, before, after, updates, few, many)


def _crossing(
    first: Expense, second: Expense, ahead: float, slope: float
) -> tuple[float | None, str, str]:
    """Where ``slope * x`` reaches ``ahead``, and who is cheaper below and above.

    ``ahead``: how much more the second costs at 0; ``slope``: how much more the first costs a step.
    """
    at_zero = ahead if ahead else -slope
    before = first.name if at_zero > 0 else second.name if at_zero < 0 else ""
    if slope and ahead and ahead / slope > 0:
        after = second.name if before == first.name else first.name
        return ahead / slope, before, after
    return None, before, before
