"""What the report tells of an evaluation: scores, examples, documents, calibration."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from memo_dist.answering import MODES
from memo_dist.evaluation.charts import Bar, Point, bar_chart, calibration_chart
from memo_dist.evaluation.findings import findings
from memo_dist.evaluation.mistakes import Mistake, count_causes
from memo_dist.evaluation.results import Evaluation
from memo_dist.evaluation.scoring import Comparison, MethodScores, Scores, Verdict, by_type
from memo_dist.evaluation.statistics import wilson_interval
from memo_dist.evaluation.table import right_fraction

EXAMPLES_SHOWN = 6
DOCUMENTS_SHOWN = 15
TYPES_SHOWN = 20
BINS = 10

METRIC_NAMES = {
    "contains": "contains",
    "em": "exact match",
    "f1": "token F1",
    "rouge_l": "ROUGE-L",
    "abstain_precision": "abstain precision",
    "abstain_recall": "abstain recall",
}
"""Metrics in the order of the chart and the table, with their names."""


@dataclass(frozen=True, slots=True)
class Examples:
    """Some of the questions that ended alike; ``total`` counts all of them."""

    title: str
    note: str
    css: str
    total: int
    shown: list[Verdict]


@dataclass(frozen=True, slots=True)
class DocumentScore:
    """How well the questions that rest on a document are answered."""

    id: str
    title: str
    n: int
    right: int
    reflections: int | None

    @property
    def accuracy(self) -> float:
        """Fraction of its questions answered rightly."""
        return self.right / self.n


@dataclass(frozen=True, slots=True)
class TypeRow:
    """One type of question: by method the fraction right, n and interval (None: not asked)."""

    name: str
    n: int
    right: list[tuple[float | None, int, tuple[float, float] | None]]


@dataclass(frozen=True, slots=True)
class Calibration:
    """Confidence against accuracy over the questions that were answered.

    ``error`` is the expected calibration error: the mean distance, weighted by answers.
    """

    chart: Markup
    n: int
    error: float


@dataclass(frozen=True, slots=True)
class EvaluationSection:
    """One evaluation; ``memory`` is the method that examples, documents, calibration show.

    ``causes``: wrong answers by mode and cause; ``mistakes``: those of ``memory`` by question.
    """

    name: str
    scores: Scores
    memory: str
    chart: Markup
    comparisons: list[Comparison]
    types: list[TypeRow]
    more_types: int
    examples: list[Examples]
    documents: list[DocumentScore]
    documents_asked: int
    documents_perfect: int
    calibration: Calibration | None
    findings: list[str]
    causes: Mapping[str, Mapping[str, int]]
    mistakes: Mapping[str, Mistake]


def evaluation_section(
    evaluation: Evaluation, titles: Mapping[str, str], reflections: Mapping[str, int] | None
) -> EvaluationSection:
    """Everything the report shows of one evaluation.

    Args:
        evaluation: the evaluation.
        titles: document titles by id.
        reflections: reflections by document id, None where there is no synthesis.
    """
    names, memory = list(evaluation.scores), evaluation.memory
    verdicts = evaluation.verdicts[memory]
    documents = _documents(verdicts, titles, reflections)
    types = _types(evaluation)
    return EvaluationSection(
        name=evaluation.name,
        scores=evaluation.scores,
        memory=memory,
        chart=bar_chart(_groups(evaluation.scores), names),
        comparisons=[c for c in evaluation.comparisons if memory in (c.first, c.second)],
        types=types[:TYPES_SHOWN],
        more_types=max(0, len(types) - TYPES_SHOWN),
        examples=_examples(verdicts),
        documents=[d for d in documents if d.right < d.n][:DOCUMENTS_SHOWN],
        documents_asked=len(documents),
        documents_perfect=sum(document.right == document.n for document in documents),
        calibration=_calibration(verdicts) if memory in MODES else None,
        findings=findings(evaluation),
        causes={mode: count_causes(rows) for mode, rows in evaluation.mistakes.items()},
        mistakes={m.id: m for m in evaluation.mistakes.get(memory, ())},
    )


def _groups(scores: Scores) -> list[tuple[str, list[Bar]]]:
    groups = []
    for name, heading in METRIC_NAMES.items():
        bars = [_bar(method, entry, name) for method, entry in scores.items()]
        if any(bar.value is not None for bar in bars):
            groups.append((heading, bars))
    return groups


def _bar(method: str, entry: MethodScores, metric: str) -> Bar:
    value: float | None = getattr(entry, metric)
    low, high = entry.ci95.get(metric, (0.0, 0.0))
    return Bar(method, value, low, high)


def _examples(verdicts: Sequence[Verdict]) -> list[Examples]:
    """The five ways in which a question can end; mistakes with the highest confidence first."""

    def pick(
        title: str, note: str, css: str, wanted: Callable[[Verdict], bool], sure: bool = False
    ) -> Examples:
        found = [v for v in verdicts if wanted(v)]
        ordered = sorted(found, key=lambda v: -v.answer.confidence) if sure else _spread(found)
        return Examples(title, note, css, len(found), ordered[:EXAMPLES_SHOWN])

    return [
        pick("Right", "", "good", lambda v: v.question.answerable and v.right),
        pick(
            "Wrong",
            "the surest mistakes first",
            "bad",
            lambda v: v.question.answerable and not v.right and not v.answer.abstained,
            sure=True,
        ),
        pick(
            "Wrongly abstained",
            "the corpus holds the answer",
            "bad",
            lambda v: v.question.answerable and v.answer.abstained,
            sure=True,
        ),
        pick(
            "Rightly abstained",
            "the corpus does not hold the answer",
            "good",
            lambda v: not v.question.answerable and v.answer.abstained,
        ),
        pick(
            "Answered although unanswerable",
            "the corpus does not hold the answer; the surest mistakes first",
            "bad",
            lambda v: not v.question.answerable and not v.answer.abstained,
            sure=True,
        ),
    ]


def _spread(verdicts: Sequence[Verdict]) -> list[Verdict]:
    """Examples from all over the file, not its first few."""
    count = min(EXAMPLES_SHOWN, len(verdicts))
    return [verdicts[len(verdicts) * index // count] for index in range(count)]


def _documents(
    verdicts: Sequence[Verdict], titles: Mapping[str, str], reflections: Mapping[str, int] | None
) -> list[DocumentScore]:
    """Documents that answerable questions rest on, worst first, the most asked before others."""
    rights: dict[str, list[bool]] = defaultdict(list)
    for verdict in verdicts:
        if verdict.question.answerable:
            for name in dict.fromkeys(verdict.question.supporting_ids):
                rights[name].append(verdict.right)
    documents = [
        DocumentScore(
            id=name,
            title=titles.get(name, name),
            n=len(found),
            right=sum(found),
            reflections=None if reflections is None else reflections.get(name, 0),
        )
        for name, found in rights.items()
    ]
    return sorted(documents, key=lambda d: (d.accuracy, -d.n, d.id))


def _types(evaluation: Evaluation) -> list[TypeRow]:
    groups = [by_type(verdicts) for verdicts in evaluation.verdicts.values()]
    names = sorted({name for grouped in groups for name in grouped})
    if len(names) < 2:
        return []
    return [
        TypeRow(
            name=name,
            n=max(len(grouped.get(name, [])) for grouped in groups),
            right=[_type_cell(grouped.get(name, [])) for grouped in groups],
        )
        for name in names
    ]


def _type_cell(
    verdicts: Sequence[Verdict],
) -> tuple[float | None, int, tuple[float, float] | None]:
    n = len(verdicts)
    interval = wilson_interval(sum(v.right for v in verdicts), n) if n else None
    return right_fraction(verdicts), n, interval


def _calibration(verdicts: Sequence[Verdict]) -> Calibration | None:
    answered = [v for v in verdicts if not v.answer.abstained]
    if not answered:
        return None
    bins: dict[int, list[Verdict]] = defaultdict(list)
    for verdict in answered:
        bins[min(BINS - 1, int(verdict.answer.confidence * BINS))].append(verdict)
    points = [_point(bins[index]) for index in sorted(bins)]
    error = sum(p.n * abs(p.accuracy - p.confidence) for p in points) / len(answered)
    return Calibration(calibration_chart(points), len(answered), error)


def _point(verdicts: Sequence[Verdict]) -> Point:
    total, right = len(verdicts), sum(v.right for v in verdicts)
    low, high = wilson_interval(right, total)
    confidence = sum(v.answer.confidence for v in verdicts) / total
    return Point(confidence, right / total, low, high, total)
