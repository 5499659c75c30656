"""What a synthesis will ask and cost, before anything is sent.

The first step's requests are rendered, so their number and prompts are exact (but for further
rounds of its dialogues). Later steps depend on answers that are not there yet: they, and all
answers, are estimated by :func:`expected_work`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from math import ceil
from pathlib import Path

from memo_dist.config.model_schema import GeneratorConfig
from memo_dist.config.schema import Config, SynthesisConfig
from memo_dist.config.steps import StepName
from memo_dist.io.checked_lines import LineTail
from memo_dist.io.runfolder import RunFolder
from memo_dist.llm.requests import CHARS_PER_TOKEN, Request
from memo_dist.llm.spending import Spending
from memo_dist.synthesis.dialogues import first_round
from memo_dist.synthesis.plan import Plan, UnitReader, make_plan
from memo_dist.synthesis.prompted.manners import PER_CALL, questions_per_fact
from memo_dist.synthesis.prompted.reading import readings
from memo_dist.synthesis.types import Generator, asks

LEAST_REPLIES = 20
"""Replies in a run's journals from which their speed counts."""

TASK_TOKENS = 950
"""Tokens of a request beside its passages and pairs: rules and task."""
CHARS_A_FACT = 30
"""Text of one fact, turned around facts included, as a large model writes them."""
QUESTION_TOKENS, ANSWER_TOKENS = 20, 15
"""Tokens of a question and of the rest of a row; measured on replies of a large model."""
_FACTS_A_READING = 8
"""Facts of a reading that follow, join or describe, on average."""


@dataclass(frozen=True, slots=True)
class Size:
    """What there is to read.

    Attributes:
        readings: calls that would read everything once.
        tokens: of the text.
        words: of the text.
        facts: that a model will state, roughly.
    """

    readings: int
    tokens: float
    words: int
    facts: float


@dataclass(frozen=True, slots=True)
class StepWork:
    """Expected work of a step: requests, tokens read and tokens written."""

    calls: float
    prompt: float
    completion: float


def expected_work(name: StepName, size: Size, settings: SynthesisConfig) -> StepWork:
    """The work of a step by its form: which of facts, readings and pairs decide its calls.

    Estimates, to be replaced by what was measured on a corpus of one's own (``synth/cost.json``).
    """
    row = ANSWER_TOKENS + QUESTION_TOKENS * questions_per_fact(settings)
    reading = TASK_TOKENS + size.tokens / max(1, size.readings)
    if name in ("direct", "indirect", "entities"):
        calls = max(1, size.facts / settings.facts_per_call) if name == "direct" else size.readings
        rows = size.facts if name == "direct" else _FACTS_A_READING * size.readings
        return StepWork(calls, calls * reading, rows * row)
    if name == "abstain":
        by_words = settings.abstain_per_1000_words * size.words / 1000
        rows = max(settings.abstain_fraction * size.facts, by_words)
        return StepWork(size.readings, size.readings * reading, rows * QUESTION_TOKENS)
    if name == "paraphrase":
        return _paraphrases(size, settings, row)
    if name == "cross":
        calls = size.readings / settings.group_documents * settings.groups_per_document
        return StepWork(calls, calls * 2 * TASK_TOKENS, calls * _FACTS_A_READING * row)
    pairs = size.facts * (settings.phrasings if name == "roundtrip" else 1)
    calls = max(size.readings, pairs / settings.pairs_per_call)
    return StepWork(calls, calls * reading + pairs * 2 * QUESTION_TOKENS, pairs * ANSWER_TOKENS)


def _paraphrases(size: Size, settings: SynthesisConfig, row: int) -> StepWork:
    """The step tops up one fact in ten, and every fact where a call cannot write all wordings."""
    missing = max(0, settings.phrasings - PER_CALL)
    if not missing:
        rows, calls = size.facts / 10, size.readings / 2
        return StepWork(calls, calls * TASK_TOKENS + rows * row, rows * row)
    rounds = ceil(missing / PER_CALL)
    calls = rounds * max(size.readings, size.facts / settings.pairs_per_call)
    read = rounds * size.facts * (row + QUESTION_TOKENS * missing / 2)
    return StepWork(calls, calls * TASK_TOKENS + read, size.facts * QUESTION_TOKENS * missing)


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
    size = _size(corpus, plan, config)
    rows = []
    for index, (name, _) in enumerate(plan.steps):
        if not asks(steps[name]):
            continue
        work = expected_work(name, size, config.synthesis)
        calls, prompt = round(work.calls), round(work.prompt)
        if index == 0:
            calls, prompt = 0, 0
            for request in _first_requests(corpus, plan, config, generator):
                calls += 1
                prompt += prompt_tokens(request)
        rows.append(StepEstimate(name, calls, prompt, round(work.completion), index == 0))
    return rows


@dataclass(frozen=True, slots=True)
class Speed:
    """Reply tokens per second of all endpoints together, and whether they were measured."""

    tokens: float
    measured: bool


def speed(run: RunFolder, config: GeneratorConfig) -> Speed:
    """The speed that a run's request journals show, else what the configuration assumes."""
    times: list[float] = []
    tokens = 0
    for path in sorted(run.synth.glob("*/journal/requests-*.jsonl")):
        for row in LineTail(path).new_rows():
            if row.get("at"):
                times.append(row["at"])
                tokens += row["usage"][2]
    times.sort()
    gaps = [later - earlier for earlier, later in pairwise(times)]
    busy = sum(gap for gap in gaps if gap <= config.request_timeout)  # longer: nothing ran
    if len(times) < LEAST_REPLIES or busy <= 0 or not tokens:  # recorded replies count none
        return assumed_speed(config)
    return Speed(tokens / busy, measured=True)


def assumed_speed(config: GeneratorConfig) -> Speed:
    """``generator.tokens_per_second`` for each request in flight."""
    return Speed(config.tokens_per_second * config.max_in_flight, measured=False)


def hours(rows: list[StepEstimate], config: GeneratorConfig, at: Speed) -> float:
    """The longest of three: replies at a speed, requests a minute, tokens a minute."""
    calls = sum(row.calls for row in rows)
    completion = sum(row.completion for row in rows)
    tokens = completion + sum(row.prompt for row in rows)
    minutes = [completion / at.tokens / 60]
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


def _size(corpus: Path, plan: Plan, config: Config) -> Size:
    count, characters, words = 0, 0, 0
    with UnitReader(corpus, config.run.seed) as reader:
        for spec in plan.units:
            unit = reader.read(spec)
            count += len(readings(unit, config.synthesis.call_chars))
            characters += sum(len(chunk.text) for chunk in unit.chunks)
            words += sum(len(chunk.text.split()) for chunk in unit.chunks)
    return Size(count, characters / CHARS_PER_TOKEN, words, characters / CHARS_A_FACT)
