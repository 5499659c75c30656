"""A comparison as text tables for a terminal, and the sentences of its first page."""

from __future__ import annotations

from collections.abc import Sequence

from memo_dist.compare.breakeven import BreakEven
from memo_dist.compare.comparing import QUESTIONS_PER_DAY, Pair, Result
from memo_dist.compare.judge import Share
from memo_dist.compare.rows import TableRow
from memo_dist.evaluation.table import new_table, percent, rendered, wrapped
from memo_dist.observability.progress import duration

_SURE = 0.05
_MIB = 2**20
_NOTE = (
    "right: % of the answered questions, with 95 % bootstrap interval; refused: % of them without"
    " an answer; tokens, calls, s: a question's; money: of 1,000 questions; a dash: not known."
)
_UPPER = ("oracle",)
"""Methods that see the gold documents: never a choice."""


def comparison_text(result: Result) -> str:
    """The table, who is better than the reference, and the break-even."""
    found = "".join(wrapped(text) + "\n" for text in findings(result))
    parts = [_scores(result), _differences(result), _forgotten(result), _judged(result), found]
    return "\n".join(part for part in parts if part.strip())


def _scores(result: Result) -> str:
    table = new_table("method", "n")
    for heading in ("right", "refused", "in", "out", "calls", "s", "MiB", "money", "training"):
        table.add_column(heading, justify="right")
    for row in result.rows:
        table.add_row(row.method, _count(row), *_cells(row))
    ended = [f"{row.method}: {row.state}: {row.reason}" for row in result.rows if row.reason]
    notes = "".join(wrapped(line) + "\n" for line in [f"{_NOTE} ({result.currency})", *ended])
    return rendered(table, 118) + notes


def _cells(row: TableRow) -> list[str]:
    if not row.n:
        return [row.state, *["-"] * 8]
    right = f"{percent(row.right)}\n{percent(row.low)}–{percent(row.high)}"
    training = duration(row.prepare.seconds) if row.prepare else "-"
    return [
        right,
        percent(row.refused),
        number(row.tokens_in, 0),
        number(row.tokens_out, 1),
        number(row.calls, 2),
        number(row.seconds, 2),
        f"{row.peak_bytes / _MIB:.0f}" if row.peak_bytes else "-",
        number(row.money, 4),
        training,
    ]


def _count(row: TableRow) -> str:
    return f"{row.n}" + (f" (-{row.missing})" if row.missing else "")


def number(value: float | None, digits: int) -> str:
    """A number with so many digits behind the point, a dash where it is not known."""
    return "-" if value is None else f"{value:,.{digits}f}"


def _differences(result: Result) -> str:
    if not result.pairs:
        return ""
    table = new_table(f"{result.reference} against", "n")
    for heading in ("difference", "only it", "only other", "p", "p (Holm)"):
        table.add_column(heading, justify="right")
    for pair in result.pairs:
        one = pair.comparison
        low, high = one.ci95 or (0.0, 0.0)
        table.add_row(
            one.second,
            str(one.n),
            f"{100 * one.difference:+.1f}\n{100 * low:+.1f} to {100 * high:+.1f}",
            str(one.only_first),
            str(one.only_second),
            p_text(one.p_value),
            p_text(pair.p_holm),
        )
    note = "difference: percentage points, paired 95 % bootstrap interval; p: exact McNemar test."
    return rendered(table, 100) + note + "\n"


def _forgotten(result: Result) -> str:
    """Of each method that was measured, the backbone's score before and after."""
    lines = [
        f"{row.method}: {one.questions}: {one.right_before} of {one.n} right before,"
        f" {one.right_after} after"
        for row in result.rows
        if (one := row.forgetting) is not None and one.n
    ]
    return "".join(
        wrapped(line) + "\n" for line in ["Forgetting of the backbone.", *lines] if lines
    )


def judge_lines(result: Result) -> list[str]:
    """What the judge said, its own errors first; empty where none was asked."""
    if result.no_judgement:
        return [f"The judge gave no verdicts: {result.no_judgement}"]
    found = result.judgement
    if found is None:
        return []
    wrong, right = found.false_accepts, found.true_accepts
    lines = [
        f"Judge {found.model}: accepts {share_text(wrong)} of the planted wrong answers and"
        f" {share_text(right)} of the gold answers themselves."
    ]
    return lines + [
        f"{name}: {share_text(share)} accepted" for name, share in found.methods.items()
    ]


def share_text(share: Share) -> str:
    """A judged fraction with its interval and what is missing."""
    if share.interval is None:
        return f"none ({share.missing} without a verdict)"
    low, high = share.interval
    missing = f", {share.missing} without a verdict" if share.missing else ""
    return f"{percent(share.value)} % ({percent(low)}–{percent(high)}, n {share.n}{missing})"


def _judged(result: Result) -> str:
    return "".join(f"{line}\n" for line in judge_lines(result))


def p_text(value: float) -> str:
    """A p value for people."""
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def findings(result: Result) -> list[str]:
    """What to use, why, and at what cost: the sentences of the first page."""
    usable = [r for r in result.rows if r.n and r.right is not None and r.method not in _UPPER]
    if not usable:
        return ["No method answered: see the reasons in the table."]
    best = max(usable, key=lambda row: (_at_least(row), -(row.money or 0.0)))
    sentences = [_choice(result, best, usable), *_undecided(best, usable), *_both(result, usable)]
    if not result.breaks and len(usable) > 1:
        sentences.append(
            f"Cost: no break-even, because a part of the money of {result.reference} or of all"
            " others is not known (a model without a price, or recorded replies)."
        )
    sentences += [text for one in result.breaks if (text := break_text(one, result.currency))]
    return sentences


def _at_least(row: TableRow) -> float:
    """Fraction of all questions that a row has right, its missing ones counted as wrong."""
    return round(row.n * (row.right or 0.0)) / (row.n + row.missing)


def _at_most(row: TableRow) -> float:
    """The same with its missing ones counted as right."""
    return _at_least(row) + row.missing / (row.n + row.missing)


def _undecided(best: TableRow, usable: Sequence[TableRow]) -> list[str]:
    """The rows that their missing questions could put before the best one."""
    rivals = [r for r in usable if r.method != best.method and r.missing]
    named = [
        f"{row.method} ({row.missing} missing)" for row in rivals if _at_most(row) > _at_least(best)
    ]
    if not named:
        return []
    return [f"Not decided: with the missing questions more may be right: {', '.join(named)}."]


def _common(result: Result, methods: Sequence[str]) -> tuple[int, list[float]]:
    """The number of questions that all of some methods answered; the fraction each has right."""
    right = [
        {verdict.question.id: verdict.right for verdict in result.answered[method].verdicts}
        for method in methods
    ]
    shared = set.intersection(*map(set, right))
    count = max(1, len(shared))
    return len(shared), [sum(known[name] for name in shared) / count for known in right]


def _of(row: TableRow) -> str:
    missing = f" ({row.missing} missing)" if row.missing else ""
    return f"{percent(row.right)} % of {row.n}{missing}"


def _choice(result: Result, best: TableRow, usable: Sequence[TableRow]) -> str:
    text = f"Most right: {best.method} ({best.meaning}), {_of(best)}."
    own = next((row for row in usable if row.method == result.reference), best)
    if own.method == best.method:
        rivals = [p.comparison.second for p in result.pairs if not sure(p) and _real(p)]
        beside = f" Not told apart from it here: {', '.join(rivals)}." if rivals else ""
        return text + beside
    pair = next((p for p in result.pairs if p.comparison.second == best.method), None)
    told = "" if pair is None or sure(pair) else ", which these questions do not tell apart"
    return f"{text} {_gap(result, best, own)}{told}."


def _gap(result: Result, best: TableRow, own: TableRow) -> str:
    """How far ``own`` is behind, on the questions that both answered."""
    shared, (high, low) = _common(result, [best.method, own.method])
    gap = 100 * (high - low)
    if not (best.missing or own.missing):
        return f"{own.method} has {percent(own.right)} %: {gap:.1f} points less"
    if not shared:
        return f"{own.method} has {_of(own)}, none of which both answered"
    compared = f"{abs(gap):.1f} points {'less' if gap >= 0 else 'more'}"
    return f"{own.method} has {_of(own)}: {compared} on the {shared} that both answered"


def _real(pair: Pair) -> bool:
    return pair.comparison.second not in _UPPER


def sure(pair: Pair) -> bool:
    """Whether two methods differ at the 5 % level, adjusted for the number of comparisons."""
    return pair.p_holm < _SURE


def _both(result: Result, usable: Sequence[TableRow]) -> list[str]:
    known = {row.method: row for row in usable}
    both = known.get("memory_bm25")
    singles = [known[name] for name in ("memory", "bm25") if name in known]
    if both is None or len(singles) < 2:
        return []
    names = [both.method, *(row.method for row in singles)]
    shared, (joined, *alone) = _common(result, names)
    if not shared:
        return []
    parts = ", ".join(
        f"{name} {percent(one)} %" for name, one in zip(names[1:], alone, strict=True)
    )
    verdict = "Use both together" if joined > max(alone) else "Both together bring nothing here"
    missing = any(row.missing for row in (both, *singles))
    where = f" of the {shared} questions that all answered" if missing else ""
    return [f"{verdict}: memory_bm25 {percent(joined)} % beside {parts}{where}."]


def break_text(one: BreakEven, currency: str) -> str:
    """A break-even in a sentence; "" where both always cost the same."""
    if not one.before:
        return ""
    if one.questions is None:
        text = f"Cost: {one.before} is cheaper than {_other(one)} from the first question on"
    else:
        text = (
            f"Cost: {one.before} is cheaper than {one.after} up to {one.questions:,.0f} questions,"
            f" {one.after} after that"
        )
    if one.updates_per_day is None:
        return text + "."
    return (
        f"{text}; at {QUESTIONS_PER_DAY:,.0f} questions a day {one.few_updates} is cheaper below"
        f" {one.updates_per_day:,.2f} changed documents a day, {one.many_updates} above."
    )


def _other(one: BreakEven) -> str:
    return one.second if one.before == one.first else one.first
