"""What an evaluation says in sentences, the same ones for the terminal and the report."""

from __future__ import annotations

from collections.abc import Sequence

from memo_dist.answering import MODES
from memo_dist.evaluation.baselines import LOOKUP
from memo_dist.evaluation.results import Evaluation, TrainedRecall
from memo_dist.evaluation.scoring import Comparison, Verdict, knows
from memo_dist.evaluation.statistics import auroc, wilson_interval

_MEANING = (
    "A memory that does not beat it has learned nothing that a search over the training"
    " questions would not give."
)


def findings(evaluation: Evaluation) -> list[str]:
    """Every mode of the memory against lookup, and people's wordings against trained ones."""
    trained = evaluation.trained
    confidence = [
        _confidence(mode, rows) for mode, rows in evaluation.verdicts.items() if mode in MODES
    ]
    if trained is None:
        return confidence
    if trained.missing:
        return [
            *confidence,
            f"The trained questions of this memory are not known: {trained.missing}."
            f" Therefore the baseline {LOOKUP}, the causes of wrong answers and the recall of"
            " trained wordings are left out.",
        ]
    found = [
        _against_lookup(evaluation, pair)
        for pair in evaluation.comparisons
        if pair.first in MODES and pair.second == LOOKUP
    ]
    found += confidence
    found += [
        _trained_recall(mode, recall, trained.questions, evaluation.verdicts[mode])
        for mode, recall in trained.recall.items()
    ]
    return found


def _confidence(mode: str, verdicts: Sequence[Verdict]) -> str:
    """How well the confidence tells right answers from the others, refused ones included."""
    groups: dict[bool, list[float]] = {True: [], False: []}
    for verdict in verdicts:
        groups[knows(verdict)].append(verdict.answer.confidence)
    area = auroc(groups[True], groups[False])
    if area is None:
        return f"The confidence of {mode} cannot be judged: its answers are all right or all wrong."
    return (
        f"The confidence of {mode} tells {area.positives} right answers from"
        f" {area.negatives} wrong or unanswerable questions with an AUROC of {area.value:.3f}"
        f" (95 % interval {area.low:.3f} to {area.high:.3f}), refused answers counted as written."
    )


def _against_lookup(evaluation: Evaluation, pair: Comparison) -> str:
    right = [round(pair.n * share) for share in (pair.right_first, pair.right_second)]
    low, high = pair.ci95 or (-1.0, 1.0)
    if low > 0:
        verdict = f"The memory beats {LOOKUP}."
    elif pair.difference > 0:
        verdict = (
            f"It is not certain that the memory beats {LOOKUP}: 0 is in the interval. {_MEANING}"
        )
    else:
        verdict = f"The memory does not beat {LOOKUP}. {_MEANING}"
    return (
        f"The memory ({pair.first}) has {right[0]} of {pair.n} answerable questions right,"
        f" {LOOKUP} (no model: the answer of the nearest trained question) {right[1]}:"
        f" {100 * pair.difference:+.1f} points, paired 95 % interval {100 * low:.1f} to"
        f" {100 * high:.1f}.{_with_refusals(evaluation, pair)} {verdict}"
    )


def _with_refusals(evaluation: Evaluation, pair: Comparison) -> str:
    """What the two make of the unanswerable questions, and of all; empty without such ones."""
    first, second = (evaluation.verdicts[name] for name in (pair.first, pair.second))
    refused, unanswerable = _refused(first)
    if not unanswerable:
        return ""
    right, total = sum(v.right for v in first), len(first)
    return (
        f" It refuses {refused} of {unanswerable} unanswerable ones ({LOOKUP}:"
        f" {_refused(second)[0]}), which makes {right} right of all {total} ({LOOKUP}:"
        f" {sum(v.right for v in second)})."
    )


def _trained_recall(
    mode: str, recall: TrainedRecall, questions: int, verdicts: Sequence[Verdict]
) -> str:
    asked = [v.right for v in verdicts if v.question.answerable]
    parts = []
    if recall.n:
        parts.append(f"answers {_share(recall.right, recall.n)} rightly")
    if recall.n_abstentions:
        parts.append(f"refuses {recall.refused} of {recall.n_abstentions} trained abstentions")
    beside = f" Of the questions of this file: {_share(sum(asked), len(asked))}." if asked else ""
    return (
        f"Trained wordings (a sample of {recall.n + recall.n_abstentions:,} of {questions:,}"
        f" trained questions): the memory ({mode}) {' and '.join(parts)}.{beside}"
        f" The sample took {recall.seconds:.0f} s (evaluate.trained_sample)."
    )


def _share(right: int, n: int) -> str:
    low, high = wilson_interval(right, n)
    return (
        f"{right} of {n} ({100 * right / n:.1f} %, 95 % interval {100 * low:.0f}–{100 * high:.0f})"
    )


def _refused(verdicts: Sequence[Verdict]) -> tuple[int, int]:
    unanswerable = [v for v in verdicts if not v.question.answerable]
    return sum(v.answer.abstained for v in unanswerable), len(unanswerable)
