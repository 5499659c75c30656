"""What a synthesis will ask and cost, before anything is sent.

The first step's requests are rendered, so their number and prompts are exact (but for further
rounds of its dialogues). Later steps depend on answers that are not there yet: they, and all
answers, are estimated by :data:`RATIOS`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from memo_dist.config.schema import Config, GeneratorConfig
from memo_dist.config.steps import StepName
from memo_dist.llm.limits import CHARS_PER_TOKEN
from memo_dist.llm.requests import Request
from memo_dist.llm.spending import Spending
from memo_dist.synthesis.dialogues import first_round
from memo_dist.synthesis.plan import Plan, UnitReader, make_plan
from memo_dist.synthesis.types import Generator, asks

STREAM_TOKENS_PER_SECOND = 50.0
"""Assumed writing speed of one request, for the hours."""


@dataclass(frozen=True, slots=True)
class StepRatio:
    """A step's work in proportion to the corpus.

    Attributes:
        calls: requests a chunk.
        prompt, completion: tokens read and written, per token of the corpus.
    """

    calls: float
    prompt: float
    completion: float


RATIOS: dict[StepName, StepRatio] = {
    "direct": StepRatio(calls=1.0, prompt=1.8, completion=1.5),
    "indirect": StepRatio(calls=1.0, prompt=1.8, completion=1.0),
    "consolidate": StepRatio(calls=0.5, prompt=2.5, completion=0.6),
    "verify": StepRatio(calls=0.5, prompt=4.0, completion=0.6),
    "entities": StepRatio(calls=0.5, prompt=2.5, completion=0.5),
    "cross": StepRatio(calls=0.3, prompt=1.0, completion=0.3),
    "paraphrase": StepRatio(calls=0.5, prompt=2.5, completion=3.0),
    "abstain": StepRatio(calls=0.3, prompt=1.2, completion=0.2),
}
"""Estimates, to be replaced by what was measured on a corpus of one's own (``synth/cost.json``)."""


@dataclass(frozen=True, slots=True)
class StepEstimate:
    """A step's requests and tokens; ``exact`` where calls and prompts were rendered."""

    name: StepName
    calls: int
    prompt: int
    completion: int
    exact: bool

    @property
    def spending(self) -> Spending:
        """As if all of it had been spent, each call once and nothing cached."""
        return Spending(self.calls, self.calls, 0, self.prompt, 0, self.completion)


def estimate(
    corpus: Path, config: Config, generator: Generator, known: Collection[str] = ()
) -> list[StepEstimate]:
    """One estimate for each step that asks a model.

    Args:
        corpus: a corpus folder (documents.jsonl, chunks.jsonl, manifest.json).
        config: steps and sizes of units.
        generator: whose requests.
        known: ids of units that are answered already, of an earlier revision.

    Raises:
        UsageError: no corpus, or a step that the generator does not have.
    """
    whole = make_plan(corpus, config, generator)
    plan = replace(whole, units=tuple(unit for unit in whole.units if unit.id not in known))
    steps = generator.steps()
    chunks, tokens = _size(corpus, plan, config.run.seed)
    rows = []
    for index, (name, _) in enumerate(plan.steps):
        step = steps[name]
        if not asks(step):
            continue
        ratio = RATIOS[name]
        calls, prompt = round(ratio.calls * chunks), round(ratio.prompt * tokens)
        if index == 0:
            calls, prompt = 0, 0
            for request in _first_requests(corpus, plan, config, generator):
                calls += 1
                prompt += prompt_tokens(request)
        rows.append(StepEstimate(name, calls, prompt, round(ratio.completion * tokens), index == 0))
    return rows


def hours(rows: list[StepEstimate], config: GeneratorConfig) -> float:
    """The longest of three: requests in flight, requests a minute, tokens a minute."""
    calls = sum(row.calls for row in rows)
    completion = sum(row.completion for row in rows)
    tokens = completion + sum(row.prompt for row in rows)
    minutes = [completion / STREAM_TOKENS_PER_SECOND / config.max_in_flight / 60]
    if config.requests_per_minute:
        minutes.append(calls / config.requests_per_minute)
    if config.tokens_per_minute:
        minutes.append(tokens / config.tokens_per_minute)
    return max(minutes) / 60


def prompt_tokens(request: Request) -> int:
    """Roughly: characters over four."""
    return round(sum(len(turn.content) for turn in request.messages) / CHARS_PER_TOKEN)


def _first_requests(
    corpus: Path, plan: Plan, config: Config, generator: Generator
) -> Iterator[Request]:
    step = generator.steps()[plan.steps[0][0]]
    assert asks(step)
    seen: set[str] = set()
    with UnitReader(corpus, config.run.seed) as reader:
        for spec in plan.units:
            for request in first_round(step, reader.read(spec), ()):
                if request.key not in seen:
                    seen.add(request.key)
                    yield request


def _size(corpus: Path, plan: Plan, seed: int) -> tuple[int, float]:
    """Chunks, and tokens of their text."""
    chunks, characters = 0, 0
    with UnitReader(corpus, seed) as reader:
        for spec in plan.units:
            for chunk in reader.read(spec).chunks:
                chunks += 1
                characters += len(chunk.text)
    return chunks, characters / CHARS_PER_TOKEN
