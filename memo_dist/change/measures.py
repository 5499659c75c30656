"""Measures of what a memory still knows of texts, from the likelihoods of their tokens.

Membership scores and PrivLeak are those of MUSE (2407.06460), truth ratio, forget quality and
utility those of TOFU (2401.06121).
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from memo_dist.errors import UsageError, install_hint
from memo_dist.memory.likelihood import Floats, Known

_LEAST = 0.2
"""Share of the least likely tokens that Min-K % and Min-K++ average."""
_RESAMPLES = 1000


def _least(values: Floats) -> float:
    count = max(1, round(_LEAST * len(values)))
    return float(np.sort(values)[:count].mean())


MEMBERSHIP: Mapping[str, Callable[[Known, str], float]] = {
    "loss": lambda known, text: known.logprob,
    "zlib": lambda known, text: float(known.logprobs.sum()) / len(zlib.compress(text.encode())),
    "min-k": lambda known, text: _least(known.logprobs),
    "min-k++": lambda known, text: _least((known.logprobs - known.means) / known.deviations),
}
"""Scores that are higher for texts that a model was trained on (2310.16789, 2404.02936)."""


def membership(
    members: Sequence[tuple[Known, str]], others: Sequence[tuple[Known, str]], seed: int = 1
) -> dict[str, tuple[float, float, float]]:
    """AUC of each membership score with its 95 % bootstrap interval: {score: (AUC, low, high)}.

    Args:
        members: texts whose membership is asked for, with their likelihoods.
        others: texts of the same kind that no training has seen.
        seed: of the resamples.
    """
    found = {}
    for name, score in MEMBERSHIP.items():
        ours, theirs = (np.array([score(*row) for row in rows]) for rows in (members, others))
        chance = np.random.default_rng(seed)
        draws = [
            auc(chance.choice(ours, len(ours)), chance.choice(theirs, len(theirs)))
            for _ in range(_RESAMPLES)
        ]
        low, high = np.quantile(draws, (0.025, 0.975))
        found[name] = (auc(ours, theirs), float(low), float(high))
    return found


def auc(members: Floats, others: Floats) -> float:
    """The chance that a member's score is above another's; ties count half."""
    ordered = np.sort(others)
    below = np.searchsorted(ordered, members, "left")
    not_above = np.searchsorted(ordered, members, "right")
    return float((below + not_above).mean() / (2 * len(others)))


def privleak(now: float, never: float) -> float:
    """PrivLeak in percent of two AUCs of members against others: 0 where nothing leaks.

    With few texts ``never`` may be 0; it counts as at least 0.01.
    """
    return 100.0 * (now - never) / max(never, 0.01)


def truth_ratio(right: Known, wrong: Sequence[Known]) -> float:
    """Geometric mean of wrong answers' likelihood a token over that of the right one."""
    return float(np.exp(np.mean([known.logprob for known in wrong]) - right.logprob))


def forget_quality(ours: Sequence[float], never: Sequence[float]) -> float:
    """p-value of the Kolmogorov-Smirnov test that both sets of truth ratios are alike.

    Raises:
        UsageError: scipy is missing.
    """
    try:
        from scipy.stats import ks_2samp
    except ImportError:
        raise UsageError(f"this test needs scipy: {install_hint('scale')}") from None
    return float(ks_2samp(ours, never).pvalue)


def utility(
    probabilities: Sequence[float], recalls: Sequence[float], ratios: Sequence[float]
) -> float:
    """Harmonic mean of probability, ROUGE-L and 1 - truth ratio over questions that stay."""
    parts = [np.mean(probabilities), np.mean(recalls), np.mean(np.maximum(0, 1 - np.array(ratios)))]
    return float(len(parts) / sum(1 / part for part in parts)) if all(parts) else 0.0


def interval(hits: Sequence[float]) -> tuple[float, float, float]:
    """Share of hits with its 95 % Wilson interval."""
    n, z = len(hits), 1.96
    share = float(np.mean(hits))
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * np.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return share, float(middle - half), float(middle + half)


def deletion_rate(shards: int) -> float:
    """Deletions of single random documents until every shard was trained again, expected.

    Each trains one of K shards (SISA, 1912.03817): K (1 + 1/2 + ... + 1/K).
    """
    return shards * sum(1 / k for k in range(1, shards + 1))
