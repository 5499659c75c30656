"""The table of a comparison: one row a method, from its replies, cost and the prices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from memo_dist.answers.answer import Answer
from memo_dist.compare.breakeven import Expense
from memo_dist.compare.method import Cost, Forgetting, Reply
from memo_dist.compare.prices import Prices
from memo_dist.compare.task import Outcome, State
from memo_dist.evaluation.questions import Question
from memo_dist.evaluation.scoring import Verdict, judge
from memo_dist.evaluation.statistics import bootstrap_interval

_THOUSAND = 1000


@dataclass(frozen=True, slots=True)
class Answered:
    """What a method answered.

    Attributes:
        replies: of the questions that have an answer, in the order of the questions.
        verdicts: of the same questions.
        missing: questions without an answer: not yet asked, or their request failed.
        first_failure: the first reason of a failed request; "" without any.
    """

    replies: Sequence[Reply]
    verdicts: Sequence[Verdict]
    missing: int
    first_failure: str


def judged(questions: Sequence[Question], replies: Sequence[Reply | None]) -> Answered:
    """Judge the replies to the questions; None and failed ones are missing."""
    found = [(q, r) for q, r in zip(questions, replies, strict=True) if r and not r.failed]
    failures = [r.failed for r in replies if r and r.failed]
    return Answered(
        [reply for _, reply in found],
        [judge(question, as_answer(reply)) for question, reply in found],
        len(questions) - len(found),
        failures[0] if failures else "",
    )


def as_answer(reply: Reply) -> Answer:
    """A reply as the answer that is scored; without a confidence it is sure of what it says."""
    abstained = not reply.text
    sure = float(not abstained)
    return Answer(
        text=reply.text,
        confidence=sure if reply.confidence is None else reply.confidence,
        abstained=abstained,
        sources=reply.sources,
        shards=(),
        seconds=reply.seconds,
        tokens=reply.tokens_in + reply.tokens_out,
        calls=reply.calls,
    )


@dataclass(frozen=True, slots=True)
class TableRow:
    """A method's row. Where nothing was answered, its numbers are None.

    Attributes:
        method, meaning: its name, and what it is.
        state, reason: how it ended.
        n, missing: answered questions, and questions without an answer.
        right, low, high: fraction answered rightly or rightly refused, 95 % bootstrap interval.
        refused: fraction of the answered questions on which it abstained.
        f1: mean token F1 over the answerable ones.
        tokens_in, tokens_out, calls, seconds: means a question.
        peak_bytes: peak memory of its process.
        money: of 1,000 questions, in the prices' currency; None where a price is not known.
        prepare: seconds, trained tokens and tokens of the preparation.
        prepare_money, update_money: of the preparation, and of one changed document.
        forgetting: of the backbone; None: not measured.
    """

    method: str
    meaning: str
    state: State
    reason: str
    n: int
    missing: int
    right: float | None
    low: float | None
    high: float | None
    refused: float | None
    f1: float | None
    tokens_in: float | None
    tokens_out: float | None
    calls: float | None
    seconds: float | None
    peak_bytes: int
    money: float | None
    prepare: Cost | None
    prepare_money: float | None
    update_money: float | None
    forgetting: Forgetting | None

    @property
    def expense(self) -> Expense | None:
        """For the break-even; None where a part of it is not known."""
        if self.money is None or self.prepare_money is None or self.update_money is None:
            return None
        return Expense(self.method, self.prepare_money, self.money / _THOUSAND, self.update_money)


@dataclass(frozen=True, slots=True)
class Pricing:
    """How tokens and seconds become money.

    Attributes:
        prices: of models and machines.
        machine: its hours are paid for while a local model works.
        reader: name of the reader in the prices.
        bootstrap, seed: of the intervals.
    """

    prices: Prices
    machine: str
    reader: str
    bootstrap: int
    seed: int


def table_row(
    method: str, meaning: str, outcome: Outcome, answered: Answered, how: Pricing
) -> TableRow:
    """A method's row."""
    replies, verdicts = answered.replies, answered.verdicts
    n = len(replies)
    right = [float(v.right) for v in verdicts]
    low, high = bootstrap_interval(right, how.bootstrap, how.seed) if n else (None, None)
    answerable = [v.f1 for v in verdicts if v.question.answerable]
    measured = bool(n) and any(r.tokens_in or r.seconds for r in replies)
    prepared = prepare_money(outcome.cost, how)
    share = outcome.cost.update_share if outcome.cost else None
    return TableRow(
        method=method,
        meaning=meaning,
        state=outcome.state,
        reason=outcome.reason or answered.first_failure,
        n=n,
        missing=answered.missing,
        right=_mean(right),
        low=low,
        high=high,
        refused=_mean([float(not r.text) for r in replies]),
        f1=_mean(answerable),
        tokens_in=_mean([r.tokens_in for r in replies]) if measured else None,
        tokens_out=_mean([r.tokens_out for r in replies]) if measured else None,
        calls=_mean([r.calls for r in replies]) if measured else None,
        seconds=_mean([r.seconds for r in replies]) if measured else None,
        peak_bytes=outcome.peak_bytes,
        money=question_money(replies, how) if measured else None,
        prepare=outcome.cost,
        prepare_money=prepared,
        update_money=None if prepared is None or share is None else prepared * share,
        forgetting=outcome.cost.forgetting if outcome.cost else None,
    )


def question_money(replies: Sequence[Reply], how: Pricing) -> float | None:
    """Money of 1,000 questions: billed tokens at the reader's price, and the machine's time.

    The machine's time counts where tokens were not billed: of a billed reader it is mostly waiting.
    """
    total = 0.0
    for reply in replies:
        if reply.tokens_priced_in or reply.tokens_priced_out:
            price = how.prices.models.get(how.reader)
            if price is None:
                return None
            total += price.money(reply.tokens_priced_in, reply.tokens_priced_out)
        else:
            total += how.prices.machine(how.machine).money(reply.seconds)
    return _THOUSAND * total / len(replies)


def prepare_money(cost: Cost | None, how: Pricing) -> float | None:
    """Money of a preparation; None where it is not known, or a model has no price or no tokens."""
    if cost is None:
        return None
    total = how.prices.machine(how.machine).money(cost.seconds)
    if cost.priced_model:
        price = how.prices.models.get(cost.priced_model)
        if price is None or not cost.tokens_in:
            return None
        total += price.money(cost.tokens_in, cost.tokens_out)
    return total


def by_method(rows: Sequence[TableRow]) -> Mapping[str, TableRow]:
    """The rows by name."""
    return {row.method: row for row in rows}


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
