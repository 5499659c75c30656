"""What a corpus needs before any money is spent: ``memo-dist plan``.

docs/planning.md has the formulas and their sources.
"""

from __future__ import annotations

import shlex
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path
from typing import Any

from memo_dist.change.measures import deletion_rate
from memo_dist.config.model_schema import BUILT_IN
from memo_dist.config.schema import Config
from memo_dist.config.stages import corpus_settings
from memo_dist.corpus.build import build_corpus
from memo_dist.io.store import Place
from memo_dist.llm.requests import CHARS_PER_TOKEN
from memo_dist.llm.spending import Spending, has_prices
from memo_dist.models.base import SCRATCH_NAME
from memo_dist.scaling.corpus_sample import TEMPLATE_TOKENS, CorpusSample, sample_corpus
from memo_dist.scaling.law_file import LawFile
from memo_dist.scaling.laws import Interval
from memo_dist.scaling.plan_models import (
    HALF_BYTES,
    LEAST_LAYERS,
    MemoryChoice,
    backbone,
    choose_memory,
)
from memo_dist.scaling.plan_size import (
    BITS_BAND,
    Size,
    bits,
    find_law,
    needed_size,
    promised_recall,
)
from memo_dist.synthesis.estimate import assumed_speed, estimate, hours
from memo_dist.synthesis.generators import generator_factory
from memo_dist.training.flops import PEAK
from memo_dist.training.memory_need import training_need
from memo_dist.training.schedule import passes

SCHEMA_VERSION = 1
_STAGES = range(4)


@dataclass(frozen=True)
class Row:
    """One number of a plan.

    Attributes:
        key: its name for machines.
        label: its name for people.
        unit: of the number; empty for counts.
        interval: the number; low equals high where nothing is estimated.
    """

    key: str
    label: str
    unit: str
    interval: Interval


@dataclass(frozen=True)
class CorpusPlan:
    """A plan.

    Attributes:
        corpus: where it was read.
        rows: numbers in the order of the table.
        verdict: whether the base is enough, or the shape that is proposed.
        overrides: ``key=value``, ready to paste.
        source: of the size: ``law`` or ``anchor``.
        law: the fit that it rests on, for machines; None without one.
        assumptions: one sentence each.
    """

    corpus: str
    rows: list[Row]
    verdict: str
    overrides: list[str]
    source: str
    law: dict[str, Any] | None
    assumptions: list[str]

    def to_json(self) -> dict[str, Any]:
        """The plan for machines: quantities by key as {value, low, high, unit, label}."""
        return {
            "schema_version": SCHEMA_VERSION,
            "corpus": self.corpus,
            "quantities": {
                row.key: {
                    "value": row.interval.value,
                    "low": row.interval.low,
                    "high": row.interval.high,
                    "unit": row.unit,
                    "label": row.label,
                }
                for row in self.rows
            },
            "verdict": self.verdict,
            "overrides": self.overrides,
            "size_source": self.source,
            "law": self.law,
            "assumptions": self.assumptions,
        }


def plan_corpus(corpus: Place, config: Config) -> CorpusPlan:
    """Read a corpus and plan its memory; writes no files and calls no service.

    Args:
        corpus: a folder or file of documents, also in an object store.
        config: the whole configuration.

    Raises:
        UsageError: nothing to read, no fact found, a law that is broken or never reaches
            plan.recall, or a base that is not on this machine.
    """
    law = find_law(config)
    config = _as_measured(config, law)
    with tempfile.TemporaryDirectory(prefix="memo-plan-") as name:
        folder = Path(name) / "corpus"
        manifest = build_corpus(corpus, folder, corpus_settings(config))
        sample = sample_corpus(folder, config)
        spending = list(_generator_rows(folder, config, sample))
    epochs = _epochs(config, law)
    totals = sample.totals
    per_fact = totals["wordings"].value / totals["facts"].value
    size = needed_size(sample, config, law, per_fact * epochs)
    recipe = law.recipe if law and _is_of_base(config, law) else None
    memory = choose_memory(size.parameters, config, recipe.least_layers if recipe else LEAST_LAYERS)
    follow = recipe.overrides(memory.model.shape.parameters, epochs) if recipe else []
    doubts = _doubts(config, law, epochs, memory.shards) if law else []
    rows = [
        *_corpus_rows(sample, config),
        Row("parameters", "parameters needed", "", size.parameters),
        *(_promise_rows(sample, memory, config, law) if law and not doubts else ()),
        *_training_rows(sample, memory, config, epochs),
        *_inference_rows(memory, config),
        *spending,
    ]
    return CorpusPlan(
        corpus=str(corpus),
        rows=rows,
        verdict=memory.verdict,
        overrides=[*memory.overrides, *follow],
        source=size.source,
        law=law.to_json() if law else None,
        assumptions=_assumptions(sample, size, config, epochs)
        + [f"corpus: not in the plan: {remark}" for remark in manifest.remarks()]
        + [f"recall: nothing is promised: {reason}" for reason in doubts],
    )


def _exact(key: str, label: str, unit: str, value: float) -> Row:
    return Row(key, label, unit, Interval(value, value, value))


def _times(interval: Interval, factor: float) -> Interval:
    return Interval(*(factor * number for number in interval.to_json()))


def _epochs(config: Config, law: LawFile | None) -> int:
    """Passes over the reflections: asked for, else the law's, else the recipe's."""
    if law is not None and _is_of_base(config, law) and not config.train.epochs:
        return max(1, round(float(law.about["exposures"])))
    return passes(config.train, config.memory.base == SCRATCH_NAME)


def _is_of_base(config: Config, law: LawFile) -> bool:
    """Whether memories from scratch are planned, by a law of such."""
    return bool(law.about["base"] == config.memory.base == SCRATCH_NAME)


def _doubts(config: Config, law: LawFile, epochs: int, shards: int) -> list[str]:
    """Why a law says nothing about the recall of the memory that is planned."""
    passes = float(law.about["exposures"])
    found = []
    if not _is_of_base(config, law):
        found.append(f"the law is of base {law.about['base']}")
    elif epochs != round(passes):
        found.append(f"the law is of {passes:g} passes, train.epochs={epochs}")
    if shards > 1:
        found.append(f"the law is of one memory, a bank of {shards} must also find the shard")
    return found


def _as_measured(config: Config, law: LawFile | None) -> Config:
    """The configuration, with the vocabulary that the law's memories had."""
    if law is None or not _is_of_base(config, law):
        return config
    scratch = replace(config.memory.scratch, vocabulary=law.recipe.vocabulary)
    return replace(config, memory=replace(config.memory, scratch=scratch))


def _promise_rows(
    sample: CorpusSample, memory: MemoryChoice, config: Config, law: LawFile
) -> Iterator[Row]:
    """What the law promises the proposed memory, which may be larger than what is needed."""
    promised = promised_recall(sample, config, law, memory.model.shape.parameters)
    yield Row("recall", "recall on unseen wordings, promised", "fraction", promised)


def _corpus_rows(sample: CorpusSample, config: Config) -> Iterator[Row]:
    totals = sample.totals
    yield _exact("documents", "documents", "", sample.documents)
    yield _exact("chunks", "chunks", "", sample.chunks)
    yield _exact("characters", "characters planned for", "", sample.planned_characters)
    yield Row("facts", "facts", "", totals["facts"].interval)
    yield Row("wordings", "wordings", "", totals["wordings"].interval)
    yield Row("reflection_tokens", "tokens of reflections", "", totals["tokens"].interval)
    yield Row("bits", "bits of the answers", "", bits(sample, config))


def _training_rows(
    sample: CorpusSample, memory: MemoryChoice, config: Config, epochs: int
) -> Iterator[Row]:
    shape, totals = memory.model.shape, sample.totals
    tokens = _times(totals["tokens"].interval, epochs)
    length = totals["tokens"].value / totals["wordings"].value
    flops = _times(tokens, 6.0 * shape.parameters + 6.0 * shape.layers * shape.hidden * length)
    yield _exact("shards", "shards", "", memory.shards)
    yield _exact("change_share", "training again per changed document", "", 1 / memory.shards)
    again = deletion_rate(memory.shards)
    yield _exact("deletions", "random deletions until all shards trained again", "", again)
    yield _exact("shard_parameters", "parameters of a shard", "", shape.parameters)
    yield Row("training_tokens", f"training tokens, {epochs} passes", "", tokens)
    yield Row("training_flops", "operations of training", "FLOP", flops)
    for name, peak in PEAK.items():
        spent = _times(flops, 1 / (peak * config.plan.utilization * 3600))
        yield Row(f"hours_{name}", f"training on one {name}", "h", spent)
    ranks, bf16 = config.plan.ranks, config.train.precision != "fp32"
    for stage in _STAGES:
        train = replace(config.train, zero_stage=stage, deepspeed="")
        adapters = train.lora_rank if train.method == "lora" else 0
        need = training_need(shape, train, ranks, bf16=bf16, gpu=True, adapter_rank=adapters)
        label = f"GPU memory per rank, ZeRO {stage}, {ranks} rank(s)"
        yield _exact(f"rank_bytes_zero{stage}", label, "B", need.device_bytes)


def _inference_rows(memory: MemoryChoice, config: Config) -> Iterator[Row]:
    size, cache, name = backbone(config)
    positions = config.plan.batch * config.plan.context
    model, shards = memory.model, memory.shards
    weights = HALF_BYTES * shards * model.shape.parameters
    parts = [
        ("memory", "weights of the memory", weights),
        ("memory_cache", "KV cache of the memory", shards * model.cache_bytes * positions),
        ("backbone", f"weights of the backbone ({name})", HALF_BYTES * size),
        ("backbone_cache", "KV cache of the backbone", cache * positions),
    ]
    for key, label, value in parts:
        yield _exact(f"inference_{key}_bytes", label, "B", value)
    total = sum(value for _, _, value in parts)
    yield _exact("inference_bytes", "GPU memory at inference", "B", total)


def _generator_rows(folder: Path, config: Config, sample: CorpusSample) -> Iterator[Row]:
    rows = estimate(folder, config, generator_factory(config)())
    factor = sample.planned_characters / sample.characters
    total = reduce(Spending.plus, (row.spending for row in rows), Spending())
    yield _exact("generator_calls", "generator calls", "", factor * total.attempts)
    yield _exact("generator_prompt_tokens", "generator prompt tokens", "", factor * total.prompt)
    yield _exact(
        "generator_answer_tokens", "generator answer tokens", "", factor * total.completion
    )
    if rows:
        spent = factor * hours(rows, config.generator, assumed_speed(config.generator))
        yield _exact("generator_hours", "generator time", "h", spent)
    if has_prices(config.generator):
        money = factor * total.money(config.generator)
        yield _exact("generator_money", "generator money", "in the unit of the prices", money)


def _assumptions(sample: CorpusSample, size: Size, config: Config, epochs: int) -> list[str]:
    plan = config.plan
    low, high = (plan.bits_per_character * factor for factor in BITS_BAND)
    many = "all documents" if sample.sampled == sample.documents else "by hash of id"
    lines = [
        f"facts: {sample.sampled} of {sample.documents} documents read ({many}) by the rules"
        " generator, the rest by characters; 95 % bootstrap over documents; a language model finds"
        " more facts, and equal facts of several documents count each time",
        f"tokens: {CHARS_PER_TOKEN:g} characters each and {TEMPLATE_TOKENS} of the chat template a"
        " wording; abstention questions not counted",
        f"bits: text statistics, not a measurement: {plan.bits_per_character:g} bits a character of"
        f" the answers ({low:.2g} to {high:.2g}, Shannon 1951)",
        *size.assumptions,
        f"training: {epochs} passes; 6 FLOP a parameter and token, and attention; the point of the"
        " size, not its interval, enters shape, FLOP, hours and memory",
        f"hours: {100 * plan.utilization:g} % of the dense bf16 peak, assumed, not measured",
        "inference: weights and caches in bf16, every shard loaded,"
        f" {plan.batch} questions of {plan.context} tokens; runtime and activations not counted",
    ]
    if config.generator.kind in BUILT_IN:
        lines.append("generator: it makes no calls; generator.kind decides the calls")
    else:
        lines.append(
            "generator: estimated as in docs/synthesis-steps.md (--dry-run); without retries"
        )
    if sample.planned_characters != sample.characters:
        lines.append(
            f"corpus: planned for plan.characters={plan.characters}, this one has"
            f" {sample.characters}; documents and chunks are this one's"
        )
    return lines


def plan_text(plan: CorpusPlan) -> str:
    """The plan for a terminal: an aligned table, then the proposal and the assumptions."""
    width = max(len(row.label) for row in plan.rows)
    lines = [f"{plan.corpus}", f"{'':<{width}} {'estimate':>12} {'95 % interval':>24}"]
    for row in plan.rows:
        value, low, high = (_number(n, row.unit) for n in row.interval.to_json())
        span = "" if row.interval.low == row.interval.high else f"{low} - {high}"
        unit = "" if row.unit == "B" else row.unit
        lines.append(f"{row.label:<{width}} {value:>12} {span:>24} {unit}".rstrip())
    lines += ["", plan.verdict, "overrides: " + shlex.join(plan.overrides), "", "assumptions:"]
    return "\n".join([*lines, *(f"- {line}" for line in plan.assumptions)]) + "\n"


def _number(value: float, unit: str) -> str:
    if unit == "B":
        return f"{value / 2**30:.3g} GiB"
    if unit == "" and value < 1e12:
        return f"{value:,.0f}"
    return f"{value:.3g}"
