"""One partition of a synthesis in a process of its own, without Ray: an array task of a scheduler.

The files are those that the driver's workers write (memo_dist.synthesis.worker); when all
partitions are done, ``synthesize`` finds their journals complete and merges them. Only for steps
that ask no language model: those share requests, limits and a budget over all partitions, which a
driver keeps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

from memo_dist.cluster.stop import STOP
from memo_dist.config.schema import Config
from memo_dist.config.stages import corpus_settings
from memo_dist.config.steps import StepName
from memo_dist.corpus.build import build_corpus
from memo_dist.errors import RunError, StoppedError, UsageError
from memo_dist.io.locks import file_lock
from memo_dist.io.runfolder import RunFolder
from memo_dist.io.store import Place
from memo_dist.runs import shared_run
from memo_dist.synthesis.generators import generator_factory
from memo_dist.synthesis.plan import Plan, StepUnits, make_plan
from memo_dist.synthesis.stages import check_planned, write_planned
from memo_dist.synthesis.types import Generator, Step, asks, groups_documents, in_force
from memo_dist.synthesis.worker import PartitionJob, PartResult, planned_step, run_partition


def run_partition_alone(root: Path, config: Config, source: Place, partition: int) -> str:
    """Do one partition in this process, while others do theirs; the first of them reads the corpus.

    Returns:
        A line for people. Raises what :func:`synthesize_partition` and ``open_run`` do.
    """
    factory = generator_factory(config)

    def prepare(run: RunFolder) -> None:
        build_corpus(source, run.corpus, corpus_settings(config))
        prepare_partitions(run, config, factory())

    def ready(run: RunFolder) -> bool:
        return partitions_are_prepared(run, config)

    with shared_run(root, config, ready, prepare) as run:
        return synthesize_partition(run, config, factory(), partition, STOP)


def prepare_partitions(run: RunFolder, config: Config, generator: Generator) -> None:
    """Write the steps' manifests; inside the lock of the run's only writer.

    Raises:
        UsageError: a step asks a language model or joins documents; other settings are there.
    """
    plan = make_plan(run.corpus, config, generator)
    steps = generator.steps()
    names = [name for name, _ in plan.steps]
    together = [name for name in names if asks(steps[name]) or groups_documents(steps[name])]
    if together:
        raise UsageError(
            f"--only-partition cannot do step(s) {', '.join(together)}, which ask a language model"
            " with limits and a budget over all partitions: run `synthesize` without it (on Slurm"
            " launch.recipe=ray)"
        )
    write_planned(run, plan)


def partitions_are_prepared(run: RunFolder, config: Config) -> bool:
    """Whether :func:`prepare_partitions` has been done."""
    return all((run.step(name) / "manifest.json").exists() for name in config.synthesis.steps)


def synthesize_partition(
    run: RunFolder,
    config: Config,
    generator: Generator,
    partition: int,
    should_stop: Callable[[], bool],
) -> str:
    """Do all steps of one partition; what its journals hold is not done again.

    Args:
        run: the run folder, prepared.
        config: the resolved configuration.
        generator: writes the reflections.
        partition: 0-based.
        should_stop: asked before each unit.

    Returns:
        A line for people: reflections and failed units.

    Raises:
        UsageError: no such partition, or the plan on disk has other settings.
        RunError: another process does this partition; too many units failed.
        StoppedError: a stop was requested; what is journaled is kept.
    """
    if partition >= config.synthesis.partitions:
        raise UsageError(
            f"--only-partition {partition}: synthesis.partitions={config.synthesis.partitions} has"
            f" 0 to {config.synthesis.partitions - 1}"
        )
    plan = make_plan(run.corpus, config, generator)
    check_planned(run, plan)

    def check_stop() -> None:
        if should_stop():
            raise StoppedError(
                f"partition {partition} stopped; its journals are kept: run the same command again"
            )

    done: list[tuple[StepName, PartResult]] = []
    with _sole_worker(run.synth / f".lock-part-{partition}"):
        for name, version in plan.steps:
            job = _job(run, config, plan, name, version, partition, done)
            step = cast(Step, planned_step(job, generator))  # none asks: prepare_partitions
            part = run_partition(job, step, check_stop)
            _check_failures(config, name, part, len(job.units))
            done.append((name, part))
    rows = sum(sum(part.rows) for _, part in done)
    failed = sum(part.failed for _, part in done)
    return f"partition {partition} of {plan.partitions}: {rows} reflections, {failed} failed units"


def _job(  # noqa: PLR0913
    run: RunFolder,
    config: Config,
    plan: Plan,
    name: StepName,
    version: str,
    partition: int,
    done: list[tuple[StepName, PartResult]],
) -> PartitionJob:
    earlier = in_force([(step, part.rows) for step, part in done], lambda row: row[0])
    return PartitionJob(
        root=run.root.absolute(),
        step=name,
        version=version,
        partition=partition,
        units=StepUnits(plan.units, plan.partitions).partition(partition),
        earlier=tuple(earlier),
        recipe=plan.recipe,
        seed=config.run.seed,
    )


def _check_failures(config: Config, name: StepName, part: PartResult, units: int) -> None:
    limit = config.synthesis.max_rejected_fraction
    if part.failed > limit * units:
        raise RunError(
            f"step {name}: {part.failed} of the partition's {units} units failed, more than"
            f" synthesis.max_rejected_fraction={limit}"
        )


@contextmanager
def _sole_worker(path: Path) -> Iterator[None]:
    """Refuse a partition that another process is at (a task that was started twice)."""
    busy = RunError(f"another process works on this partition ({path})")
    with file_lock(path, 0.0, lambda holder: busy):
        yield
