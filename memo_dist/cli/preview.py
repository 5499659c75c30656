"""The output of ``--dry-run``: the plan of an encode for this corpus and machine."""

from __future__ import annotations

import tempfile
from functools import reduce
from pathlib import Path

import click

from memo_dist.cluster.resources import detect_resources
from memo_dist.config import Config
from memo_dist.config.model_schema import BUILT_IN, GeneratorConfig
from memo_dist.config.stages import corpus_settings
from memo_dist.corpus.build import build_corpus
from memo_dist.io.runfolder import RunFolder
from memo_dist.io.store import Place
from memo_dist.llm.spending import Spending, has_prices
from memo_dist.models.base import dry_check
from memo_dist.runs import check_open
from memo_dist.stages.records import EXPORT, SYNTHESIS, TRAIN
from memo_dist.stages.state import done_parts, is_done
from memo_dist.synthesis.estimate import (
    Speed,
    StepEstimate,
    estimate,
    hours,
    speed,
)
from memo_dist.synthesis.generators import generator_factory
from memo_dist.training import checkpoint
from memo_dist.training.deepspeed_seam import zero_stage
from memo_dist.training.memory_check import planned_need
from memo_dist.training.memory_need import MemoryNeed
from memo_dist.training.prepare import check_training


def print_preview(config: Config, run_folder: Path, corpus: Place | None) -> None:
    """Check everything that can be checked without writing, and print the plan.

    Fewer GPUs than requested are a remark here, not an error: a plan for 64 GPUs can be read
    on a laptop.
    """
    dry_check(config.memory.base)
    if config.train.teacher:
        dry_check(config.train.teacher, "train.teacher")
    check_training(config)
    check_open(RunFolder(run_folder), config)
    with tempfile.TemporaryDirectory(prefix="memo-preview-") as name:
        folder = None if corpus is None else Path(name) / "corpus"
        for label, text in _lines(config, run_folder, corpus, folder):
            click.echo(f"{label:<12} {text}")
    click.echo("no files were written (--dry-run)")


def print_need(need: MemoryNeed | None) -> None:
    """Print the memory need per training rank, before a run."""
    if need is not None:
        click.echo(f"memory need: {need}", err=True)


def _lines(
    config: Config, run_folder: Path, corpus: Place | None, folder: Path | None
) -> list[tuple[str, str]]:
    """(label, text) of each line; a corpus is read into ``folder``, once for all lines."""
    train, memory = config.train, config.memory
    lines = [("run", f"{run_folder} ({_state(RunFolder(run_folder), config)})")]
    if corpus is not None and folder is not None:
        manifest = build_corpus(corpus, folder, corpus_settings(config))
        lines.append(("corpus", f"{corpus}: {manifest.summary()}"))
    lines += [
        *_synthesis(config, RunFolder(run_folder), folder),
        ("memory", f"{config.corpus.shards} shard(s) on {memory.base}"),
        (
            "training",
            f"{train.epochs or '3, or 40 from scratch'} epochs,"
            f" {train.batch_tokens} tokens per step, lr {train.lr or 'derived from the size'},"
            f" ZeRO {zero_stage(train)}, {_limit(config)}",
        ),
        ("need", _need(config)),
        ("machine", _machine(config)),
    ]
    return lines


def _synthesis(config: Config, run: RunFolder, folder: Path | None) -> list[tuple[str, str]]:
    calls = "no API calls" if config.generator.kind in BUILT_IN else _endpoints(config)
    steps = ", ".join(config.synthesis.steps)
    text = f"{config.generator.kind} generator, steps {steps}"
    lines = [("synthesis", f"{text}, {config.synthesis.partitions} partitions, {calls}")]
    if config.generator.kind not in BUILT_IN and folder is not None:
        lines += _requests(config, run, folder)
    return lines


def _endpoints(config: Config) -> str:
    generator = config.generator
    if generator.kind == "recorded":
        return f"replies from {generator.recording}"
    where = ", ".join(generator.urls) or f"the service of generator.kind={generator.kind}"
    return f"{generator.model} at {where}, at most {generator.max_in_flight} requests in flight"


def _requests(config: Config, run: RunFolder, folder: Path) -> list[tuple[str, str]]:
    """Calls, tokens, cost and hours of each step that calls a model."""
    rows = estimate(folder, config, generator_factory(config)())
    return estimate_lines(rows, config.generator, speed(run, config.generator))


def _speed(config: GeneratorConfig, at: Speed) -> str:
    if at.measured:
        return f"{at.tokens:.3g} tokens/s, measured in this run"
    return (
        f"assumed: generator.tokens_per_second={config.tokens_per_second:g} for each of"
        f" {config.max_in_flight} requests in flight"
    )


def estimate_lines(
    rows: list[StepEstimate], config: GeneratorConfig, at: Speed
) -> list[tuple[str, str]]:
    """(label, text) of one line per step, then the total."""
    lines = []
    for row in rows:
        about = "" if row.exact else "about "
        tokens = f"{about}{row.prompt} prompt tokens, about {row.completion} answer tokens"
        lines.append((f"  {row.name}", f"{about}{row.calls} calls, {tokens}"))
    total = reduce(Spending.plus, (row.spending for row in rows), Spending())
    money = (
        f"{total.money(config):.2f} at the given prices" if has_prices(config) else "no prices set"
    )
    lines.append(
        (
            "  total",
            f"about {total.attempts} calls, {total.prompt} + {total.completion} tokens; {money};"
            f" {hours(rows, config, at):.2g} hours ({_speed(config, at)}, or the rate limits),"
            " without retries",
        )
    )
    return lines


def _need(config: Config) -> str:
    """Memory of one rank as configured; for a plan beyond this machine, as on GPUs."""
    have = detect_resources()
    gpu = bool(have.gpus) or config.train.precision == "bf16"
    need = planned_need(config, config.cluster.workers or max(1, have.gpus), gpu)
    return str(need) if need else f"unknown until {config.memory.base} is on this machine"


def _limit(config: Config) -> str:
    minutes = config.train.max_minutes
    return f"at most {minutes:g} minutes" if minutes else "no time limit"


def _machine(config: Config) -> str:
    have = detect_resources()
    want = config.cluster.workers
    text = f"{have}; Ray at {config.cluster.address or 'this machine'}"
    available = have.gpus or have.cores
    if want > available and not config.cluster.address:
        text += f"; cluster.workers={want} exceeds this machine ({available})"
    return text


def _state(run: RunFolder, config: Config) -> str:
    if not run.config.exists():
        return "new"
    trained = [part for part in done_parts(run, TRAIN) if checkpoint.is_complete(part.parent)]
    parts = [
        "reflections written" if is_done(run, SYNTHESIS) else "no reflections yet",
        f"{len(trained)} of {config.corpus.shards} shards trained",
        "bank exported" if is_done(run, EXPORT) else "no bank yet",
    ]
    return ", ".join(parts)
