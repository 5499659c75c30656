"""The pictures of a comparison, as PNG and SVG."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from memo_dist.compare.breakeven import Expense
from memo_dist.compare.comparing import QUESTIONS_PER_DAY, Result
from memo_dist.evaluation.pictures import COLOURS, write_picture

PICTURES = {
    "right": "Right answers, with 95 % intervals",
    "cost-questions": "Money over questions: preparation and questions together",
    "cost-updates": f"Money a day at {QUESTIONS_PER_DAY:,.0f} questions, over changed documents",
}
"""Every picture with its caption."""
_DECADES = 7
_MOST_UPDATES = 3


def write_plots(result: Result, folder: Path) -> list[str]:
    """Draw what there is; returns the names of the pictures, without suffix."""
    expenses = [row.expense for row in result.rows if row.expense is not None]
    drawings: dict[str, Callable[[Any], None]] = {}
    if any(row.n for row in result.rows):
        drawings["right"] = lambda axes: _right(axes, result)
    if expenses:
        drawings["cost-questions"] = lambda axes: _questions(axes, expenses, result)
        drawings["cost-updates"] = lambda axes: _updates(axes, expenses, result.currency)
    for name, draw in drawings.items():
        write_picture(folder, name, draw, "compare")
    return list(drawings)


def _right(axes: Any, result: Result) -> None:
    rows = [row for row in result.rows if row.n][::-1]
    for place, row in enumerate(rows):
        middle = 100 * (row.right or 0.0)
        spread = [[middle - 100 * (row.low or 0.0)], [100 * (row.high or 0.0) - middle]]
        colour = COLOURS[1] if row.method == result.reference else COLOURS[0]
        axes.errorbar([middle], [place], xerr=spread, fmt="o", color=colour, capsize=3)
    axes.set_yticks(range(len(rows)), [row.method for row in rows])
    axes.set_xlim(0, 100)
    axes.set_xlabel("right, %")
    axes.grid(axis="x", linewidth=0.3)


def _questions(axes: Any, expenses: Sequence[Expense], result: Result) -> None:
    """Total money, log-log; a mark where the reference and another method cost the same."""
    grid = np.logspace(0, _DECADES, 200)
    _lines(axes, expenses, grid, lambda one, x: one.total(x))
    known = {one.name: one for one in expenses}
    for one in result.breaks:
        if one.questions is not None and one.questions <= grid[-1]:
            total = known[one.first].total(one.questions)
            axes.plot([one.questions], [total], "o", color="black", markersize=4)
    _label(axes, "questions", f"{result.currency}, all together")


def _updates(axes: Any, expenses: Sequence[Expense], currency: str) -> None:
    grid = np.logspace(-2, _MOST_UPDATES, 200)
    _lines(axes, expenses, grid, lambda one, x: QUESTIONS_PER_DAY * one.question + x * one.update)
    _label(axes, "changed documents a day", f"{currency} a day")


def _lines(
    axes: Any, expenses: Sequence[Expense], grid: Any, cost: Callable[[Expense, float], float]
) -> None:
    for index, one in enumerate(expenses):
        values = [cost(one, float(x)) for x in grid]
        style = "-" if index < len(COLOURS) else "--"
        axes.plot(grid, values, style, color=COLOURS[index % len(COLOURS)], label=one.name)
    axes.set_xscale("log")
    axes.set_yscale("log")


def _label(axes: Any, x: str, y: str) -> None:
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.legend(fontsize=7, frameon=False)
    axes.grid(linewidth=0.3)
