"""From the numbers of an answer to the probability that it is right, and when to abstain.

A logistic regression on standardised features, fitted by Newton's method with an L2 penalty on
answers to held-out wordings of trained facts; no question of a later evaluation is needed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from memo_dist.answers.text import ABSTAIN_ANSWER, answer_key, contains, exact_match, normalise
from memo_dist.errors import UsageError
from memo_dist.io import atomic
from memo_dist.io.hashing import hash_file, short_hash
from memo_dist.memory.answering import FEATURES, WHOLE_VOCABULARY, RawAnswer
from memo_dist.memory.familiarity import FAMILIARITY

FILE_NAME = "calibration.json"
SCHEMA_VERSION = 2
_BEFORE_WORDINGS = 1  # a version that still names its wordings "reworded", one or two

_L2 = 1.0  # on standardised features, as scikit-learn's C=1; keeps separable data finite
_MIN_PER_CLASS = 4
_NEWTON_STEPS = 50
_DIGITS = 9  # kept in the file; hides the last bits in which numerical libraries differ
_ABSTENTION = normalise(ABSTAIN_ANSWER)
_ALL = (*FEATURES, *FAMILIARITY)
_SUM = FEATURES.index("sum_logprob")
_USED = ("mean_logprob", "agreement", "support")  # more of FEATURES rank people's no better
_PLACE = 0.1
"""Where between two held-out confidences a threshold lies, from the lower one: people's right
answers have lower confidences than held-out ones."""
_DEFAULT_SLOPE = 4.0
_DEFAULT_THRESHOLD = 0.5

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What calibration says of one answer."""

    confidence: float
    abstained: bool


@dataclass(frozen=True)
class Calibration:
    """Confidence = sigmoid(bias + weights . (features - mean) / std), and a threshold.

    Attributes:
        features: names of the inputs: of FEATURES and FAMILIARITY, in their order.
        weights, mean, std: one float a feature.
        bias: log-odds at the mean.
        threshold: answers with a lower confidence count as abstentions.
        fitted: False for the default, which turns the mean token probability p into
            sigmoid(4 ln 2p): even odds at p = 0.5, 0.94 at p = 1.
        counts: held-out answers it was fitted on: right, wrong, and abstain questions, and how
            many of each the memory answered with words other than an abstention.
        balanced_accuracy: of the threshold between right answers and abstain questions;
            None where one of them was missing.
        wordings: in how many wordings the questions it was fitted on were asked (see
            ``memo_dist.memory.wordings``), so questions are to be asked that way.
    """

    features: tuple[str, ...]
    weights: tuple[float, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    bias: float
    threshold: float
    fitted: bool
    counts: dict[str, int] = field(default_factory=dict)
    balanced_accuracy: float | None = None
    wordings: int = 1

    @property
    def needs_familiarity(self) -> bool:
        """Whether it reads features of :mod:`memo_dist.memory.familiarity`."""
        return not set(self.features).isdisjoint(FAMILIARITY)

    @property
    def needs_whole_vocabulary(self) -> bool:
        """Whether a confidence depends on features of :data:`WHOLE_VOCABULARY`."""
        pairs = zip(self.features, self.weights, strict=True)
        return any(weight and name in WHOLE_VOCABULARY for name, weight in pairs)

    def apply(self, features: Sequence[float]) -> float:
        """Probability, 0 to 1, that an answer with these features is right.

        Args:
            features: those of FEATURES, and behind them those of FAMILIARITY where it needs them;
                nan where a weight is 0 and the value not known.
        """
        return float(self._confidences(_columns([features], self.features))[0])

    def judge(self, answer: RawAnswer) -> Verdict:
        """The confidence of an answer, and whether it counts as an abstention.

        An answer that says "I don't know" is one whatever its numbers; its confidence is the
        probability the memory left to saying anything else, at most the threshold.
        """
        if is_abstention(answer.text):
            total = answer.features[_SUM]
            return Verdict(min(self.threshold, float(-np.expm1(total))), True)
        confidence = self.apply(answer.features)
        return Verdict(confidence, confidence < self.threshold)

    def save(self, folder: Path) -> None:
        """Write ``calibration.json`` into a shard memory's folder, atomically."""
        atomic.write_json(folder / FILE_NAME, {"schema_version": SCHEMA_VERSION, **asdict(self)})

    @classmethod
    def load(cls, folder: Path) -> Calibration:
        """Read ``calibration.json``; the default where there is none.

        Raises:
            UsageError: the file is no calibration of this version.
        """
        path = folder / FILE_NAME
        if not path.exists():
            return default_calibration()
        try:
            return _from_json(atomic.read_json(path))
        except (ValueError, KeyError, TypeError) as error:
            raise UsageError(
                f"'{path}' is not a calibration that this version reads ({error}); export again"
            ) from error

    def _confidences(self, rows: Array) -> Array:
        weights = np.asarray(self.weights)
        scaled = (rows - np.asarray(self.mean)) / np.asarray(self.std)
        return _sigmoid(np.where(weights == 0.0, 0.0, scaled) @ weights + self.bias)


def calibrations_hash(folders: Iterable[Path]) -> str:
    """Hash of the calibrations in some shards' folders, in the given order."""
    paths = [folder / FILE_NAME for folder in folders]
    return short_hash([hash_file(path) if path.exists() else "" for path in paths])


def is_abstention(text: str) -> bool:
    """Whether an answer says that it does not know (or says nothing); ``++`` says something."""
    return (normalise(text) or text.split()) in ([], _ABSTENTION)


def default_calibration() -> Calibration:
    """The calibration of a memory that nothing was held out for (see Calibration.fitted)."""
    zeros = (0.0,) * len(FEATURES)
    slopes = tuple(_DEFAULT_SLOPE if name == "mean_logprob" else 0.0 for name in FEATURES)
    bias = round(_DEFAULT_SLOPE * float(np.log(2)), _DIGITS)
    ones = (1.0,) * len(FEATURES)
    return Calibration(FEATURES, slopes, zeros, ones, bias, _DEFAULT_THRESHOLD, fitted=False)


def fit_calibration(
    answers: Sequence[RawAnswer], gold: Sequence[str | None], refusal: float = 0.8
) -> Calibration:
    """Fit confidence and threshold on held-out questions.

    The regression sees the answers that are not "I don't know": right where the gold answer
    stands in them, else wrong (every answer to an abstain question is). With fewer than four
    of either, the default stays. The threshold then is the lowest one that refuses the wanted
    fraction of the abstain questions (of the wrong answers where there are none): people's
    wordings are harder than held-out ones, so a cut between the two groups would refuse most of
    what the memory gets right for people.

    Args:
        answers: the memory's answers to the held-out questions.
        gold: the right answers; None for abstain questions.
        refusal: fraction of the abstain questions that must be refused, 0 to 1.
    """
    rows = np.asarray([a.features for a in answers], dtype=np.float64)
    rows = rows.reshape(len(answers), -1) if len(answers) else np.zeros((0, len(FEATURES)))
    spoken = np.asarray([not is_abstention(a.text) for a in answers], dtype=bool)
    outside = np.asarray([g is None for g in gold], dtype=bool)
    pairs = zip(answers, gold, strict=True)
    right = np.asarray([g is not None and _is_right(a.text, g) for a, g in pairs], dtype=bool)
    right &= spoken
    model = _monotone(rows[spoken], right[spoken])
    scores = np.where(spoken, model._confidences(_columns(rows, model.features)), -1.0)
    negatives = scores[outside] if outside.any() else scores[~right]
    threshold, balanced = _threshold(scores[right], negatives, refusal)
    values = {**asdict(model), "threshold": threshold, "balanced_accuracy": balanced}
    return _from_json({**values, "counts": _counts(spoken, right, outside)})


def _is_right(text: str, gold: str) -> bool:
    # A gold sentence may be longer than the answers in which ``contains`` looks.
    # Of symbols alone SQuAD's scores see nothing.
    return bool(
        contains(text, [gold]) or exact_match(text, [gold]) or answer_key(text) == answer_key(gold)
    )


def _monotone(rows: Array, right: npt.NDArray[np.bool_]) -> Calibration:
    """The regression on those of _USED that make an answer no less likely to be right.

    A feature with a negative weight is left out, and the rest is fitted again: few held-out
    answers must not teach that a familiar question is a worse one.
    """
    positive = int(right.sum())
    if min(positive, len(right) - positive) < _MIN_PER_CLASS:
        return default_calibration()
    names = tuple(name for name in _USED if _ALL.index(name) < rows.shape[1])
    while True:
        model = _regression(names, _columns(rows, names), right)
        pairs = zip(names, model.weights, strict=True)
        kept = tuple(name for name, weight in pairs if weight >= 0.0)
        if not kept:
            return default_calibration()
        if kept == names:
            return model
        names = kept


def _regression(names: tuple[str, ...], rows: Array, right: npt.NDArray[np.bool_]) -> Calibration:
    mean, spread = rows.mean(axis=0), rows.std(axis=0)
    std = np.where(spread > 1e-6, spread, 1.0)
    scaled = np.column_stack([(rows - mean) / std, np.ones(len(rows))])
    solution = _newton(scaled, right.astype(np.float64))
    *weights, bias = _rounded(solution)
    return Calibration(
        names, tuple(weights), _rounded(mean), _rounded(std), bias, _DEFAULT_THRESHOLD, True
    )


def _columns(rows: Sequence[Sequence[float]] | Array, names: Sequence[str]) -> Array:
    """float64 [n, names], the named features of each row; rows have those of _ALL or FEATURES."""
    return np.asarray(rows, dtype=np.float64)[:, [_ALL.index(name) for name in names]]


def _newton(inputs: Array, labels: Array) -> Array:
    """Minimise logistic loss + L2/2 |weights|^2 (the last column, the bias, is free)."""
    penalty = np.full(inputs.shape[1], _L2)
    penalty[-1] = 0.0
    solution = np.zeros(inputs.shape[1])
    loss = _loss(inputs, labels, penalty, solution)
    for _ in range(_NEWTON_STEPS):
        p = _sigmoid(inputs @ solution)
        gradient = inputs.T @ (p - labels) + penalty * solution
        curvature = (inputs * (p * (1 - p))[:, None]).T @ inputs + np.diag(penalty + 1e-9)
        step, scale = np.linalg.solve(curvature, gradient), 1.0
        # A full step may overshoot where probabilities saturate: halve until the loss falls.
        while (after := _loss(inputs, labels, penalty, solution - scale * step)) > loss:
            scale /= 2
            if scale < 1e-6:
                return solution
        solution, improvement, loss = solution - scale * step, loss - after, after
        if improvement < 1e-12:
            break
    return solution


def _loss(inputs: Array, labels: Array, penalty: Array, solution: Array) -> float:
    logits = inputs @ solution
    fit = np.logaddexp(0.0, logits) - labels * logits
    return float(fit.sum() + 0.5 * (penalty * solution**2).sum())


def _threshold(right: Array, negatives: Array, refusal: float) -> tuple[float, float | None]:
    """The lowest cut that refuses enough, and its balanced accuracy (None: a side is empty)."""
    if not len(right) or not len(negatives):
        return _DEFAULT_THRESHOLD, None
    seen = np.unique(np.concatenate([right, negatives]))
    borders = np.unique(np.concatenate([[0.0], seen[seen > 0.0], [1.0]]))
    cuts = borders[:-1] + _PLACE * np.diff(borders)
    kept = (right[None, :] >= cuts[:, None]).mean(axis=1)
    refused = (negatives[None, :] < cuts[:, None]).mean(axis=1)
    chosen = int(np.flatnonzero(refused >= refusal - 1e-12)[0])  # the last cut refuses all
    balanced = float(kept[chosen] + refused[chosen]) / 2
    return round(float(cuts[chosen]), _DIGITS), round(balanced, _DIGITS)


def _counts(
    spoken: npt.NDArray[np.bool_], right: npt.NDArray[np.bool_], outside: npt.NDArray[np.bool_]
) -> dict[str, int]:
    wrong = ~right & ~outside
    return {
        "right": int(right.sum()),
        "wrong": int(wrong.sum()),
        "wrong_answered": int((wrong & spoken).sum()),
        "abstain": int(outside.sum()),
        "abstain_answered": int((outside & spoken).sum()),
    }


def _from_json(row: dict[str, Any]) -> Calibration:
    version = row.get("schema_version", SCHEMA_VERSION)
    if version not in (SCHEMA_VERSION, _BEFORE_WORDINGS):
        raise ValueError(f"schema_version is {version}, not {SCHEMA_VERSION}")
    old = version == _BEFORE_WORDINGS
    names = tuple(row["features"])
    if not names or names != tuple(name for name in _ALL if name in names):
        raise ValueError(f"features are {names}, not some of {_ALL}")
    vectors = {key: tuple(float(v) for v in row[key]) for key in ("weights", "mean", "std")}
    if any(len(vector) != len(names) for vector in vectors.values()) or 0.0 in vectors["std"]:
        raise ValueError("weights, mean and std need one number a feature, std none of zero")
    return Calibration(
        features=names,
        **vectors,
        bias=float(row["bias"]),
        threshold=float(row["threshold"]),
        fitted=bool(row["fitted"]),
        counts=dict(row["counts"]),
        balanced_accuracy=row["balanced_accuracy"],
        wordings=(2 if row["reworded"] else 1) if old else int(row["wordings"]),
    )


def _sigmoid(values: Array) -> Array:
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * values)), dtype=np.float64)


def _rounded(values: Array) -> tuple[float, ...]:
    return tuple(round(float(value), _DIGITS) for value in values)
