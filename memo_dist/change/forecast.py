"""What a change of the corpus will cost, before anything is done: ``update --dry-run``.

Documents, shards and the generator's first calls are exact. Tokens and minutes of training are
those that this run's own trainings took, in proportion to the text of each shard.
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from memo_dist.change.difference import Difference, bank_documents, corpus_documents, difference
from memo_dist.change.request import Request, preview
from memo_dist.config.model_schema import BUILT_IN
from memo_dist.config.schema import Config
from memo_dist.config.stages import corpus_settings
from memo_dist.corpus.edit import edit_corpus
from memo_dist.corpus.manifest import located_documents
from memo_dist.io.generations import link_folder
from memo_dist.io.runfolder import RunFolder
from memo_dist.memory.manifest import load_manifest
from memo_dist.models.base import SCRATCH_NAME
from memo_dist.synthesis.estimate import StepEstimate, estimate, hours, speed
from memo_dist.synthesis.generators import generator_factory
from memo_dist.synthesis.plan import make_plan
from memo_dist.training import checkpoint

WHOLE_BASE = (
    "the vocabulary of the scratch base is learned from the corpus, so every shard is trained"
    " again; memory.scratch.tokenizer=general, set at the first encode, avoids that"
)


@dataclass(frozen=True)
class Forecast:
    """A change and its cost.

    Attributes:
        difference: the documents.
        shards: shards that are trained again.
        of: number of shards.
        reason: why shards without a changed document are among them; empty: none is.
        units: units that the generator works on again, of ``all_units``.
        steps: calls and tokens of a generator that is a model; empty: none is asked.
        tokens, all_tokens: read by the trainings of ``shards`` and of all shards.
        minutes: of the trainings and of the generator.
    """

    difference: Difference
    shards: Sequence[int]
    of: int
    reason: str
    units: int
    all_units: int
    steps: Sequence[StepEstimate]
    tokens: float
    all_tokens: float
    minutes: float

    def lines(self) -> Iterator[tuple[str, str]]:
        """(label, text) for people."""
        yield "documents", "; ".join(self.difference.lines())
        named = ", ".join(map(str, self.shards)) or "none"
        yield "shards", f"{len(self.shards)} of {self.of} trained again: {named}"
        if self.reason:
            yield "", self.reason
        calls = sum(step.calls for step in self.steps)
        asked = sum(step.prompt + step.completion for step in self.steps)
        text = f"about {calls} calls, about {asked} tokens" if self.steps else "no calls"
        yield "generator", f"{self.units} of {self.all_units} units again: {text}"
        share = self.tokens / self.all_tokens if self.all_tokens else 0.0
        yield "training", f"about {self.tokens:.0f} tokens, {share:.1%} of a full encode's"
        yield "minutes", f"about {self.minutes:.2g} of training and of the generator"


def forecast(run: RunFolder, config: Config, request: Request) -> Forecast:
    """What ``request`` will change and cost; the run is only read.

    Raises:
        UsageError: the run has no bank, or see :func:`memo_dist.change.request.apply`.
    """
    with preview(run, config, request) as folder:
        return _forecast(run, config, folder)


def forecast_without(run: RunFolder, config: Config, ids: Sequence[str]) -> Forecast:
    """What forgetting the documents ``ids`` will cost; the run is only read.

    Raises:
        UsageError: a shard would have no document.
    """
    with tempfile.TemporaryDirectory(prefix="memo-preview-") as name:
        folder = Path(name) / "corpus"
        link_folder(run.corpus, folder)
        edit_corpus(folder, corpus_settings(config), remove=ids)
        return _forecast(run, config, folder)


def _forecast(run: RunFolder, config: Config, folder: Path) -> Forecast:
    now = bank_documents(load_manifest(run.memory))
    changes = difference(now, corpus_documents(folder))
    shards, reason = _shards(run, config, folder, changes)
    make = generator_factory(config)
    before = {unit.id for unit in make_plan(run.corpus, config, make()).units}
    after = [unit.id for unit in make_plan(folder, config, make()).units]
    asked = config.generator.kind not in BUILT_IN
    steps = estimate(folder, config, make(), before) if asked else []
    tokens, seconds = _training(run, config, folder)
    again = _again(config, folder, changes.touched())
    asking = hours(steps, config.generator, speed(run, config.generator))
    minutes = sum(again[k] * seconds[k] for k in shards) / 60 + 60 * asking
    return Forecast(
        difference=changes,
        shards=shards,
        of=config.corpus.shards,
        reason=reason,
        units=sum(1 for unit in after if unit not in before),
        all_units=len(after),
        steps=steps,
        tokens=sum(again[shard] * tokens[shard] for shard in shards),
        all_tokens=sum(tokens),
        minutes=minutes,
    )


def _shards(
    run: RunFolder, config: Config, folder: Path, changes: Difference
) -> tuple[list[int], str]:
    """Shards that lose, get or keep a changed document, or all where the base changes."""
    if changes.empty:
        return [], ""
    scratch = config.memory.base == SCRATCH_NAME
    if scratch and config.memory.scratch.tokenizer == "corpus":
        return list(range(config.corpus.shards)), WHOLE_BASE
    homes = {
        row.document.id: row.shard
        for corpus in (run.corpus, folder)
        for row in located_documents(corpus)
    }
    homes = {row.id: entry.id for entry in load_manifest(run.memory).shards
             for row in entry.documents} | homes  # fmt: skip
    return sorted({homes[name] for name in changes.touched()}), ""


def _training(run: RunFolder, config: Config, folder: Path) -> tuple[list[float], list[float]]:
    """Tokens and seconds of every shard's training over the new corpus."""
    before, after = _characters(run.corpus, config), _characters(folder, config)
    tokens, seconds = [], []
    for shard in range(config.corpus.shards):
        final = run.train(shard) / "final"
        growth = after[shard] / max(before[shard], 1)
        known = checkpoint.is_complete(final)
        state = checkpoint.read_state(final) if known else None
        tokens.append(state.consumed_tokens * growth if state else 0.0)
        seconds.append(state.seconds * growth if state else 0.0)
    return tokens, seconds


def _again(config: Config, folder: Path, touched: Collection[str]) -> list[float]:
    """The fraction of each shard's training that is done again, by ``update.policy``."""
    shards = config.corpus.shards
    if config.update.policy == "retrain":
        return [1.0] * shards
    new = _characters(folder, config, touched)
    share = [n / max(a, 1) for n, a in zip(new, _characters(folder, config), strict=True)]
    return [one + config.update.replay * (1 - one) for one in share]


def _characters(corpus: Path, config: Config, only: Collection[str] | None = None) -> list[int]:
    """Characters of each shard's documents, all or those named."""
    counts = [0] * config.corpus.shards
    for row in located_documents(corpus):
        if only is None or row.document.id in only:
            counts[row.shard] += len(row.document.text)
    return counts
