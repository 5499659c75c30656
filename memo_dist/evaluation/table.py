"""Scores as text tables for a terminal or a log."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Mapping, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from memo_dist.evaluation.mistakes import CAUSES, Mistake, count_causes
from memo_dist.evaluation.results import MISTAKES
from memo_dist.evaluation.scoring import MethodScores, Scores, Verdict, by_type
from memo_dist.evaluation.statistics import wilson_interval

COLUMNS = {
    "contains": "contains",
    "em": "EM",
    "f1": "F1",
    "rouge_l": "ROUGE-L",
    "abstain_precision": "abst. P",
    "abstain_recall": "abst. R",
}
"""Metrics in the order of the tables, with their headings."""
_WIDTH = 100
_NAME, _COUNT = (
    11,
    3,
)  # characters of a method's name and of n that fit; longer ones widen the table
_MANY_TYPES = 12
_TYPES_NOTE = "% right (answered rightly, or rightly abstained), and its 95 % Wilson interval.\n"


def scores_text(scores: Scores, width: int = _WIDTH) -> str:
    """The methods side by side: percentages with 95 % intervals, n, and what a question costs."""
    table = new_table("method", "n")
    for heading in (*COLUMNS.values(), "tokens", "calls", "s"):
        table.add_column(heading, justify="right")
    for method, entry in scores.items():
        cells = [_metric(entry, name) for name in COLUMNS]
        cost = (entry.tokens_per_query, entry.calls_per_query, entry.seconds_per_query)
        costs = [f"{value:.{digits}f}" for value, digits in zip(cost, (0, 1, 2), strict=True)]
        table.add_row(method, _count(entry.n_answerable, entry.n), *cells, *costs)
    note = (
        "Percent, and its 95 % bootstrap interval. n: answerable + unanswerable questions;\n"
        "contains, EM, F1, ROUGE-L: answerable ones; abst. P, R: precision, recall of abstaining;\n"
        "tokens, calls, s: a question's tokens, model calls and seconds."
    )
    longest = max(map(len, scores), default=0)
    counts = max((len(_count(e.n_answerable, e.n)) for e in scores.values()), default=0)
    more = max(0, longest - _NAME) + max(0, counts - _COUNT)
    return rendered(table, width + more) + note + "\n"


def types_text(verdicts: Mapping[str, Sequence[Verdict]], width: int = _WIDTH) -> str:
    """``contains`` (unanswerable: abstention) by question type; empty where no types are given."""
    groups = {method: by_type(rows) for method, rows in verdicts.items()}
    types = sorted({name for grouped in groups.values() for name in grouped})
    if len(types) < 2:
        return ""
    table = new_table("type", "n")
    for method in groups:
        table.add_column(method, justify="right")
    for name in types[:_MANY_TYPES]:
        largest = max((grouped.get(name, []) for grouped in groups.values()), key=len)
        cells = [_type_cell(grouped.get(name, []), len(largest)) for grouped in groups.values()]
        answerable = sum(v.question.answerable for v in largest)
        table.add_row(name, _count(answerable, len(largest)), *cells)
    left = len(types) - _MANY_TYPES
    more = f"... and {left} more types\n" if left > 0 else ""
    return rendered(table, width) + _TYPES_NOTE + more


def mistakes_text(mistakes: Mapping[str, Sequence[Mistake]], width: int = _WIDTH) -> str:
    """Why answers are wrong, by cause and mode; empty where the trained questions are not known."""
    counts = {mode: count_causes(rows) for mode, rows in mistakes.items()}
    if not counts:
        return ""
    table = new_table("why wrong")
    for mode in counts:
        table.add_column(mode, justify="right")
    table.add_column("meaning")
    for cause, meaning in CAUSES.items():
        table.add_row(cause, *(str(found[cause]) for found in counts.values()), meaning)
    totals = ", ".join(f"{len(rows)} of {mode}" for mode, rows in mistakes.items())
    note = f"{totals}; each with the nearest trained question in {MISTAKES}."
    return "\n" + rendered(table, width) + wrapped(f"Wrong answers: {note}") + "\n"


def wrapped(text: str, width: int = _WIDTH) -> str:
    """A sentence in lines of a terminal."""
    return "\n".join(textwrap.wrap(text, width))


def percent(value: float | None) -> str:
    """A fraction as a percentage, a dash where it is undefined."""
    return "-" if value is None else f"{100 * value:.1f}"


def right_fraction(verdicts: Sequence[Verdict]) -> float | None:
    """The fraction answered rightly or rightly abstained from; None without questions."""
    return sum(v.right for v in verdicts) / len(verdicts) if verdicts else None


def _type_cell(verdicts: Sequence[Verdict], asked: int) -> str:
    value = percent(right_fraction(verdicts))
    if not verdicts:
        return value
    low, high = wilson_interval(sum(v.right for v in verdicts), len(verdicts))
    n = "" if len(verdicts) == asked else f" (n {len(verdicts)})"
    return f"{value}{n}\n{100 * low:.0f}–{100 * high:.0f}"


def _metric(entry: MethodScores, name: str) -> str:
    value: float | None = getattr(entry, name)
    if value is None:
        return "-"
    low, high = entry.ci95[name]
    return f"{percent(value)}\n{100 * low:.0f}–{100 * high:.0f}"


def _count(answerable: int, total: int) -> str:
    return f"{answerable}+{total - answerable}"


def new_table(*left: str) -> Table:
    """A table whose first columns have these headings."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for heading in left:
        table.add_column(heading, no_wrap=True)
    return table


def rendered(table: Table, width: int) -> str:
    """A table as lines of text."""
    buffer = io.StringIO()
    Console(file=buffer, width=width, color_system=None, highlight=False).print(table)
    return (
        "\n".join(line.rstrip() for line in buffer.getvalue().splitlines() if line.strip()) + "\n"
    )
