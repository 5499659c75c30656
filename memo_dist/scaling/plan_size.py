"""How many parameters a corpus needs: from a measured recall law, or from a published capacity.

With a law, P = N x(R): facts times the parameters a fact that the law gives for the wanted recall.
Draws of both bootstraps are paired at random, so that both uncertainties enter the interval.

Without one, P = R B / c(E): bits wanted over bits a parameter. c is 1 at 100 exposures and 2 at
1,000 (Allen-Zhu and Li, arXiv 2404.05405), linear in log E between and constant outside, with a
band of a factor 2 either way. That is an anchor, not a measurement of this kind of text.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np

from memo_dist.config.schema import Config
from memo_dist.errors import UsageError
from memo_dist.io.hashing import short_hash
from memo_dist.models.base import BUILT_IN
from memo_dist.scaling.corpus_sample import CorpusSample, interval_of
from memo_dist.scaling.law_file import LawFile, read_law
from memo_dist.scaling.laws import Interval

BITS_BAND = (0.6, 1.3)
"""Around plan.bits_per_character: Shannon 1951, "Prediction and Entropy of Printed English"."""
WORDINGS_BAND = math.log(1.25)
"""How far the wordings a fact may be from those of a law, either way, before a plan says so."""
ANCHOR_BAND = 2.0
"""Either way around the published capacity."""


@dataclass(frozen=True)
class Size:
    """The parameters that a corpus needs.

    Attributes:
        parameters: over all shards.
        source: ``law`` or ``anchor``.
        assumptions: sentences for people.
    """

    parameters: Interval
    source: str
    assumptions: list[str]


def find_law(config: Config) -> LawFile | None:
    """The law of ``plan.law``, or the one shipped for ``memory.base``, or None.

    Raises:
        UsageError: the file is missing or holds no law.
    """
    if config.plan.law:
        return read_law(Path(config.plan.law))
    base = config.memory.base
    # A folder or hub id is no file name; its law is found by the hash of it.
    name = base if base in BUILT_IN else short_hash(base)
    shipped = Path(str(files("memo_dist.scaling"))) / "data" / f"{name}.json"
    return read_law(shipped) if shipped.exists() else None


def bits(sample: CorpusSample, config: Config) -> Interval:
    """Bits of the answers: characters times plan.bits_per_character, with both bands."""
    characters, rate = sample.totals["answer_characters"].interval, config.plan.bits_per_character
    low, high = BITS_BAND
    return Interval(
        characters.value * rate, characters.low * rate * low, characters.high * rate * high
    )


def needed_size(
    sample: CorpusSample, config: Config, law: LawFile | None, exposures: float
) -> Size:
    """Parameters for ``plan.recall``.

    Args:
        sample: of the corpus.
        config: ``plan`` and the seed.
        law: measured; None: the published capacity.
        exposures: readings of each fact in training, over all its wordings.

    Raises:
        UsageError: the law never reaches the wanted recall.
    """
    if law is None:
        return _by_anchor(bits(sample, config), config.plan.recall, exposures)
    return _by_law(sample, config, law)


def published_capacity(exposures: float) -> float:
    """Bits a parameter, from 1 (100 exposures or fewer) to 2 (1,000 or more)."""
    return 1 + min(1.0, max(0.0, math.log10(exposures / 100)))


def _by_anchor(wanted: Interval, recall: float, exposures: float) -> Size:
    capacity = published_capacity(exposures)
    scale = recall / capacity
    notes = [
        f"size: no recall law for this base, so an anchor and not a measurement: {capacity:.2f}"
        " bits a parameter (2 at 1,000 exposures, 1 at 100, arXiv 2404.05405), a factor"
        f" {ANCHOR_BAND:g} either way, for {recall:g} of the bits",
    ]
    if exposures < 100:
        notes.append(
            f"size: each fact is read {exposures:.0f} times; below 100 the published figure is"
            " optimistic, more is needed"
        )
    parameters = Interval(
        wanted.value * scale, wanted.low * scale / ANCHOR_BAND, wanted.high * scale * ANCHOR_BAND
    )
    return Size(parameters, "anchor", notes)


def promised_recall(
    sample: CorpusSample, config: Config, file: LawFile, parameters: int
) -> Interval:
    """Recall on unseen wordings that the law promises a memory of so many parameters."""
    facts = sample.totals["facts"]
    return file.law.promise(parameters / facts.value, parameters / facts.draws, config.run.seed)


def _by_law(sample: CorpusSample, config: Config, file: LawFile) -> Size:
    recall, law, about = config.plan.recall, file.law, file.about
    tops = 1 / (1 + np.exp(-law.draws[:, 0]))
    reached = law.draws[tops > recall]
    if recall >= law.top.value or not len(reached):
        raise UsageError(
            f"plan.recall={recall:g} is above what the law reaches with any size"
            f" ({law.top.value:.3g}, interval {law.top.low:.3g} to {law.top.high:.3g}): lower"
            " plan.recall, or name another law with plan.law"
        )
    best = float(_parameters_per_fact(law.best[None, :], recall)[0])
    facts = sample.totals["facts"]
    chance = np.random.default_rng(config.run.seed)
    drawn = _parameters_per_fact(reached, recall)[
        chance.integers(len(reached), size=len(facts.draws))
    ]
    notes = [
        f"size: {best:.3g} parameters a fact, by a law measured on base {about['base']}, corpus"
        f" {about['corpus']}, {about['exposures']:g} passes; another corpus is assumed to be alike"
    ]
    if about["base"] != config.memory.base:
        notes.append(
            f"size: the law is of base {about['base']}, memory.base is {config.memory.base}"
        )
    if len(reached) < len(law.draws):
        share = 100 * len(reached) / len(law.draws)
        notes.append(
            f"size: {share:.0f} % of the law's draws reach this recall at all; the interval is"
            " theirs"
        )
    notes += _outside(sample, config, file, best)
    return Size(interval_of(facts.value * best, facts.draws * drawn), "law", notes)


def _outside(sample: CorpusSample, config: Config, file: LawFile, ratio: float) -> list[str]:
    """Notes where the law is asked about what its memories were not."""
    measured, totals, notes = file.measured, sample.totals, []
    size = totals["facts"].value * ratio / config.corpus.shards
    for name, value, (low, high) in (
        ("parameters", size, measured.parameters),
        ("parameters a fact", ratio, measured.parameters_per_fact),
    ):
        if not low <= value <= high:
            notes.append(
                f"size: {value:,.0f} {name} are outside of what was measured ({low:,.0f} to"
                f" {high:,.0f}): an extrapolation"
            )
    wordings = totals["wordings"].value / totals["facts"].value
    if abs(math.log(wordings / measured.wordings)) > WORDINGS_BAND:
        notes.append(
            f"size: {wordings:.2g} wordings a fact, the law's memories read"
            f" {measured.wordings:.2g}: synthesis.phrasings of both should be the same"
        )
    return notes


def _parameters_per_fact(draws: np.ndarray, recall: float) -> np.ndarray:
    """x with R(x) = recall, of rows [logit r, log x0, log s] whose r is above it."""
    odds = 1 / (1 + np.exp(-draws[:, 0])) / recall - 1
    found: np.ndarray = np.exp(draws[:, 1] - np.log(odds) / np.exp(draws[:, 2]))
    return found
