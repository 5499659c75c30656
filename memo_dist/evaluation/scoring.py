"""From answers to verdicts, from verdicts to scores with intervals and comparisons."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from memo_dist.answers.answer import Answer
from memo_dist.answers.text import contains, exact_match, rouge_l, token_f1
from memo_dist.evaluation.questions import Question
from memo_dist.evaluation.statistics import bootstrap_interval, mcnemar

ANSWER_METRICS = ("contains", "em", "f1", "rouge_l")
"""Metrics of answers, over the answerable questions."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """One method's answer to one question, judged.

    Attributes:
        question: the question with its gold answers.
        answer: what the method said.
        contains, em, f1, rouge_l: 0 to 1; all 0 for an abstention or an unanswerable question.
    """

    question: Question
    answer: Answer
    contains: float
    em: float
    f1: float
    rouge_l: float

    @property
    def right(self) -> bool:
        """Answered rightly (``contains``), or rightly abstained."""
        if self.question.answerable:
            return self.contains == 1.0
        return self.answer.abstained

    def to_json(self, method: str) -> dict[str, Any]:
        """One line of ``results.jsonl``."""
        return {
            "method": method,
            "question": asdict(self.question),
            "answer": asdict(self.answer),
            "right": self.right,
            **{name: getattr(self, name) for name in ANSWER_METRICS},
        }

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Verdict:
        """The inverse of :meth:`to_json`, up to the method's name."""
        return judge(question_from_json(row["question"]), answer_from_json(row["answer"]))


def question_from_json(row: Mapping[str, Any]) -> Question:
    """A question from ``dataclasses.asdict`` after a round through JSON."""
    lists = {name: tuple(row[name]) for name in ("aliases", "supporting_ids")}
    return Question(**{**row, **lists})


def answer_from_json(row: Mapping[str, Any]) -> Answer:
    """An answer from ``dataclasses.asdict`` after a round through JSON."""
    return Answer(**{**row, "sources": tuple(row["sources"]), "shards": tuple(row["shards"])})


def judge(question: Question, answer: Answer) -> Verdict:
    """Score one answer; abstaining on an answerable question is wrong."""
    if answer.abstained or not question.answerable:
        return Verdict(question, answer, 0.0, 0.0, 0.0, 0.0)
    text, golds = answer.text, question.golds
    return Verdict(
        question,
        answer,
        contains=contains(text, golds),
        em=exact_match(text, golds),
        f1=token_f1(text, golds),
        rouge_l=rouge_l(text, golds),
    )


def knows(verdict: Verdict) -> bool:
    """Whether the answer is right as it was written, also where it was refused."""
    question, answer = verdict.question, verdict.answer
    return question.answerable and contains(answer.text or answer.refused, question.golds) == 1.0


def metric_values(verdicts: Sequence[Verdict]) -> dict[str, list[float]]:
    """For every metric the values whose mean it is; an empty list where it is undefined."""
    answerable = [v for v in verdicts if v.question.answerable]
    abstained = [v for v in verdicts if v.answer.abstained]
    unanswerable = [v for v in verdicts if not v.question.answerable]
    values = {name: [getattr(v, name) for v in answerable] for name in ANSWER_METRICS}
    values["abstain_precision"] = [float(not v.question.answerable) for v in abstained]
    values["abstain_recall"] = [float(v.answer.abstained) for v in unanswerable]
    return values


@dataclass(frozen=True, slots=True)
class MethodScores:
    """One method's scores: an entry of ``scores.json``.

    A metric is None where it is undefined (no answerable question, no abstention, no
    unanswerable question), and then has no interval. Tokens, calls and seconds are means over
    all questions; a call is one model asked once.
    """

    contains: float | None
    em: float | None
    f1: float | None
    rouge_l: float | None
    abstain_precision: float | None
    abstain_recall: float | None
    ci95: dict[str, tuple[float, float]]
    n: int
    n_answerable: int
    n_abstained: int
    tokens_per_query: float
    calls_per_query: float
    seconds_per_query: float

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> MethodScores:
        """The inverse of ``dataclasses.asdict`` after a round through JSON."""
        intervals = {name: (low, high) for name, (low, high) in row["ci95"].items()}
        return cls(**{**row, "ci95": intervals})


Scores = dict[str, MethodScores]
"""Scores by method, in the order the methods ran."""


def score(verdicts: Sequence[Verdict], resamples: int, seed: int) -> MethodScores:
    """Means and 95 % bootstrap intervals of one method's verdicts (at least one)."""
    values = metric_values(verdicts)
    answers = [v.answer for v in verdicts]
    return MethodScores(
        **{name: _mean(column) if column else None for name, column in values.items()},
        ci95={n: bootstrap_interval(c, resamples, seed) for n, c in values.items() if c},
        n=len(verdicts),
        n_answerable=len(values["contains"]),
        n_abstained=len(values["abstain_precision"]),
        tokens_per_query=_mean([a.tokens for a in answers]),
        calls_per_query=_mean([calls(a) for a in answers]),
        seconds_per_query=_mean([a.seconds for a in answers]),
    )


def calls(answer: Answer) -> int:
    """Model calls behind an answer: as it says, else one for each shard, or one without shards.

    No model has read a token: no call.
    """
    return answer.calls or (max(1, len(answer.shards)) if answer.tokens else 0)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two methods on the same questions: an entry of ``comparisons.json``.

    Only answerable questions that both were asked count; right means ``contains``.

    Attributes:
        n: the number of these questions.
        right_first, right_second: the fraction of them that each has right.
        only_first, only_second: questions that just one of the two has right.
        p_value: exact McNemar test, two-sided.
        ci95: paired 95 % bootstrap interval of ``difference``; None: an earlier version wrote
            the comparison.
    """

    first: str
    second: str
    n: int
    right_first: float
    right_second: float
    only_first: int
    only_second: int
    p_value: float
    ci95: tuple[float, float] | None = None

    @property
    def difference(self) -> float:
        """How much more the first has right: a difference of fractions, -1 to 1."""
        return self.right_first - self.right_second

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Comparison:
        """The inverse of ``dataclasses.asdict`` after a round through JSON."""
        interval = row.get("ci95")
        return cls(**{**row, "ci95": tuple(interval) if interval else None})


def compare(
    results: Mapping[str, Sequence[Verdict]],
    resamples: int,
    seed: int,
    unanswerable: bool = False,
) -> list[Comparison]:
    """Compare every pair of methods on the answerable questions that both were asked.

    With ``unanswerable`` the others count too: abstaining is right there.
    """
    rights = {
        method: {v.question.id: v.right for v in verdicts if v.question.answerable or unanswerable}
        for method, verdicts in results.items()
    }
    compared = []
    for first, second in itertools.combinations(results, 2):
        pairs = [
            (right, rights[second][name])
            for name, right in rights[first].items()
            if name in rights[second]
        ]
        if pairs:
            differences = [float(a) - float(b) for a, b in pairs]
            interval = bootstrap_interval(differences, resamples, seed)
            compared.append(_comparison(first, second, pairs, interval))
    return compared


def _comparison(
    first: str, second: str, pairs: Sequence[tuple[bool, bool]], interval: tuple[float, float]
) -> Comparison:
    left, right = [a for a, _ in pairs], [b for _, b in pairs]
    test = mcnemar(left, right)
    return Comparison(
        first=first,
        second=second,
        n=len(pairs),
        right_first=_mean(left),
        right_second=_mean(right),
        only_first=test.only_first,
        only_second=test.only_second,
        p_value=test.p_value,
        ci95=interval,
    )


def by_type(verdicts: Sequence[Verdict]) -> dict[str, list[Verdict]]:
    """Verdicts grouped by the questions' type, types in alphabetical order."""
    groups: dict[str, list[Verdict]] = defaultdict(list)
    for verdict in verdicts:
        groups[verdict.question.type or "(none)"].append(verdict)
    return dict(sorted(groups.items()))
