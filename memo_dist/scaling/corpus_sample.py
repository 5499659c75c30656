"""What a corpus holds, from a sample of its documents.

The sampled documents are counted; the rest is extrapolated by characters,

    total = counted + (counted / characters sampled) * characters left,

and the interval is a percentile bootstrap over the sampled documents of that ratio. Where every
document is taken nothing is extrapolated, and the interval is the point.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from memo_dist.config.schema import Config
from memo_dist.config.steps import StepName
from memo_dist.corpus.manifest import iter_chunks, iter_documents, load_manifest
from memo_dist.corpus.types import Chunk, Document
from memo_dist.errors import UsageError
from memo_dist.io.hashing import sha256_text, short_hash
from memo_dist.llm.requests import CHARS_PER_TOKEN
from memo_dist.scaling.laws import Interval
from memo_dist.synthesis.rules import RulesGenerator
from memo_dist.synthesis.types import Reflection, Unit

TEMPLATE_TOKENS = 12
"""Assumed tokens of the chat template around one question and answer."""
COUNTED = ("facts", "wordings", "tokens", "answer_characters")
"""What is counted in each document."""
_STEPS: tuple[StepName, ...] = ("direct", "indirect", "paraphrase")


@dataclass(frozen=True)
class Quantity:
    """A total over the corpus.

    Attributes:
        value: the estimate.
        draws: of the bootstrap over documents.
    """

    value: float
    draws: np.ndarray

    @property
    def interval(self) -> Interval:
        """The estimate with its 95 % interval, widened to hold the estimate."""
        return interval_of(self.value, self.draws)


@dataclass(frozen=True)
class CorpusSample:
    """Totals of a corpus.

    Attributes:
        documents, chunks, characters: of the corpus as it is.
        planned_characters: what the totals are for (``plan.characters``, or the corpus').
        sampled: documents that were read.
        totals: by the names of :data:`COUNTED`.
    """

    documents: int
    chunks: int
    characters: int
    planned_characters: int
    sampled: int
    totals: dict[str, Quantity]


def interval_of(value: float, draws: np.ndarray) -> Interval:
    """A percentile interval of 95 %, widened where it misses the estimate."""
    low, high = np.percentile(draws, [2.5, 97.5])
    return Interval(float(value), float(min(low, value)), float(max(high, value)))


def sample_corpus(folder: Path, config: Config) -> CorpusSample:
    """Count a sample of the corpus in ``folder`` and extrapolate.

    Args:
        folder: a built corpus.
        config: ``plan``, ``synthesis`` and the seed.

    Raises:
        UsageError: the sample yields no fact, or plan.characters is below what was sampled.
    """
    manifest, plan = load_manifest(folder), config.plan
    ids = sorted((d.id for d in iter_documents(folder)), key=sha256_text)
    chosen = frozenset(ids[: plan.sample_documents])
    documents = [d for d in iter_documents(folder) if d.id in chosen]
    counts = _count(documents, iter_chunks(folder), config)
    sizes = np.array([len(d.text) for d in documents], float)
    planned = plan.characters or manifest.characters
    if planned < sizes.sum():
        raise UsageError(
            f"plan.characters={planned} is below the {sizes.sum():.0f} characters of the sample;"
            " raise it, or lower plan.sample_documents"
        )
    if not counts[:, 0].sum():
        raise UsageError(
            f"the rules generator found no fact in {len(documents)} documents of the corpus"
            " (it reads English only); raise"
            f" plan.sample_documents={plan.sample_documents}, or see its limits in"
            " docs/rules-generator.md"
        )
    return CorpusSample(
        documents=manifest.documents,
        chunks=manifest.chunks,
        characters=manifest.characters,
        planned_characters=planned,
        sampled=len(documents),
        totals=_extrapolate(counts, sizes, planned, config),
    )


def _count(documents: Sequence[Document], chunks: Iterable[Chunk], config: Config) -> np.ndarray:
    """[documents, COUNTED], in float."""
    wanted: dict[str, list[Chunk]] = {document.id: [] for document in documents}
    for chunk in chunks:
        if chunk.document in wanted:
            wanted[chunk.document].append(chunk)
    steps = RulesGenerator(config.synthesis, config.run.seed).steps()
    rows = []
    for document in documents:
        name = short_hash([document.id])
        unit = Unit(name, 0, (document,), tuple(wanted[document.id]), int(name, 16) >> 1)
        made: list[Reflection] = []
        for step in _STEPS:
            made += steps[step].run(unit, made).reflections
        rows.append(_numbers(made))
    return np.array(rows, float)


def _numbers(made: Sequence[Reflection]) -> list[float]:
    first = list({row.fact: row for row in reversed(made)}.values())
    characters = sum(len(row.question) + len(row.answer) for row in made)
    return [
        len(first),
        len(made),
        characters / CHARS_PER_TOKEN + TEMPLATE_TOKENS * len(made),
        sum(len(row.answer) for row in first),
    ]


def _extrapolate(
    counts: np.ndarray, sizes: np.ndarray, planned: int, config: Config
) -> dict[str, Quantity]:
    chance = np.random.default_rng(config.run.seed)
    chosen = chance.integers(len(sizes), size=(config.plan.bootstrap, len(sizes)))
    left = planned - sizes.sum()
    sampled = counts.sum(axis=0)
    totals = sampled + sampled / sizes.sum() * left
    ratios = counts[chosen].sum(axis=1) / sizes[chosen].sum(axis=1)[:, None]
    draws = sampled + ratios * left
    return {
        name: Quantity(float(totals[index]), draws[:, index]) for index, name in enumerate(COUNTED)
    }
