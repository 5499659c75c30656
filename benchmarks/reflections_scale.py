"""Reflections of many sizes through merge, clean and prepare: memory, seconds, bytes read.

    python benchmarks/reflections_scale.py [--rows 100000 300000] [--shards 16] [--out FILE]

For each size a run folder is written as a finished synthesis leaves it: a corpus, and the part
files of two steps in 64 partitions (a fact in one wording and three rewordings of it, one pair in
fifty with a fault that cleaning finds). Then two processes of their own do what the driver does:

- ``clean``: clean and merge the parts, up to ``reflections.jsonl`` and its marker;
- ``prepare``: split and tokenise the reflections of all shards, up to ``job.json``.

What the driver gives to Ray's workers goes to processes of a pool here, so that Ray's own start and
memory are left out. Reported for each stage: seconds, CPU seconds of the driver and of the workers
(their imports included), the driver's peak resident memory above its memory before the stage, the
largest resident memory of a worker, and the bytes that the workers read. The exponent is the slope
of log CPU seconds over log rows: a machine with other work distorts seconds.

For 100 million reflections the CPU seconds a row between the two largest sizes are extrapolated:
those of the driver as they are, those of the workers over 64.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import psutil
from machine import machine

from memo_dist.cluster.resources import Resources
from memo_dist.config.load import load_config
from memo_dist.config.schema import Config
from memo_dist.corpus.manifest import (
    CHUNKS,
    DOCUMENTS,
    SCHEMA_VERSION,
    CorpusManifest,
    document_row,
    save_manifest,
    shard_of,
)
from memo_dist.corpus.types import Chunk, Document
from memo_dist.io import atomic
from memo_dist.io.runfolder import RunFolder
from memo_dist.synthesis.finish import finish
from memo_dist.synthesis.generators import generator_factory
from memo_dist.synthesis.plan import Plan, StepUnits, UnitReader, make_plan
from memo_dist.synthesis.types import Reflection, Unit
from memo_dist.synthesis.worker import part_path, quarantine_path

STAGES = ("clean", "prepare")
CPU = ("driver_cpu_seconds", "worker_cpu_seconds")
WORKERS = 64
PARTITIONS = 64
FACTS, WORDINGS = 5, 4
ROWS_A_DOCUMENT = FACTS * WORDINGS
FAULTY = 50
"""One fact in so many is asked for with a pronoun that stands for nothing."""


def main() -> None:
    """Measure every size, or, in a process of its own, do one stage."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 300_000])
    parser.add_argument("--shards", type=int, default=16)
    parser.add_argument("--workers", type=int, default=1, help="processes beside the driver")
    parser.add_argument("--folder", type=Path, help="where the run folders are for a while")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--stage", choices=("make", *STAGES), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.stage:
        do_stage(options)
        return
    report: dict[str, Any] = {"shards": options.shards, "workers": options.workers, **machine()}
    if options.out and options.out.exists():
        report = {**atomic.read_json(options.out), **report}
    sizes = report.setdefault("sizes", {})
    for rows in options.rows:
        with tempfile.TemporaryDirectory(prefix="memo-scale-", dir=options.folder) as name:
            sizes[str(rows)] = measure_size(options, rows, Path(name))
        report["exponents"] = exponents(sizes)
        report["minutes_for_100_million_on_64_workers"] = extrapolated(sizes)
        print(json.dumps({"rows": rows, **sizes[str(rows)]}, indent=2), flush=True)
        if options.out:
            atomic.write_json(options.out, report)
    print(json.dumps({name: report[name] for name in report if name != "sizes"}, indent=2))


def measure_size(options: argparse.Namespace, rows: int, folder: Path) -> dict[str, Any]:
    """All stages of one size, each in a process of its own."""
    command = [sys.executable, __file__, "--rows", str(rows), "--shards", str(options.shards)]
    command += ["--workers", str(options.workers), "--folder", str(folder), "--stage"]
    found = {}
    for stage in ("make", *STAGES):
        subprocess.run([*command, stage], check=True)
        if stage in STAGES:
            found[stage] = atomic.read_json(folder / stage)
    return found


def exponents(sizes: dict[str, Any]) -> dict[str, float]:
    """Slope of log CPU seconds over log rows by least squares, for each stage."""
    found = {}
    for stage in STAGES:
        points = [
            (math.log(int(rows)), math.log(sum(row[stage][name] for name in CPU)))
            for rows, row in sizes.items()
        ]
        if len(points) > 1:
            x0, y0 = (sum(column) / len(points) for column in zip(*points, strict=True))
            over = sum((x - x0) * (y - y0) for x, y in points)
            found[stage] = round(over / sum((x - x0) ** 2 for x, _ in points), 3)
    return found


def extrapolated(sizes: dict[str, Any]) -> dict[str, float]:
    """Minutes of each stage for 100 million reflections on 64 workers."""
    if len(sizes) < 2:
        return {}
    small, large = sorted(map(int, sizes))[-2:]
    found = {}
    for stage in STAGES:
        less, more = sizes[str(small)][stage], sizes[str(large)][stage]
        driver, workers = ((more[name] - less[name]) / (large - small) for name in CPU)
        found[stage] = round(1e8 * (driver + workers / WORKERS) / 60, 1)
    return found


def do_stage(options: argparse.Namespace) -> None:
    """One stage in this process; what it took goes to a file."""
    (rows,) = options.rows
    run = RunFolder(options.folder / "run")
    config = configuration(options.shards)
    if options.stage == "make":
        make_run(run, config, rows)
        return
    with ProcessPoolExecutor(options.workers, get_context("spawn")) as pool:
        work = (
            clean_work(run, config, pool)
            if options.stage == "clean"
            else prepare_work(run, config, pool)
        )
        before, started, of_driver = _own_peak(), time.monotonic(), time.process_time()
        work()
        seconds, of_driver = time.monotonic() - started, time.process_time() - of_driver
        read = _read_by_workers()
    workers = resource.getrusage(resource.RUSAGE_CHILDREN)
    found = {
        "seconds": round(seconds, 2),
        "driver_cpu_seconds": round(of_driver, 2),
        "worker_cpu_seconds": round(workers.ru_utime + workers.ru_stime, 2),
        "driver_before_mib": round(before / 2**20, 1),
        "driver_growth_mib": round((_own_peak() - before) / 2**20, 1),
        "worker_peak_mib": round(workers.ru_maxrss / 2**10, 1),
        "workers_read_mib": round(read / 2**20, 1),
        "reflections_mib": round(run.reflections.stat().st_size / 2**20, 1),
        "corpus_mib": round((run.corpus / DOCUMENTS).stat().st_size / 2**20, 1),
    }
    atomic.write_json(options.folder / options.stage, found)


def clean_work(run: RunFolder, config: Config, pool: ProcessPoolExecutor) -> Callable[[], object]:
    """What the driver does at the end of a synthesis."""
    plan = make_plan(run.corpus, config, generator_factory(config)())
    return lambda: finish(run, plan, config.synthesis, lambda f, jobs: list(pool.map(f, jobs)))


def prepare_work(run: RunFolder, config: Config, pool: ProcessPoolExecutor) -> Callable[[], object]:
    """What the driver does at the beginning of a training."""
    from memo_dist.training import bank_work  # with torch, which no other stage needs

    bank_work.LARGE_BYTES = 0
    bank_work.on_workers = lambda f, jobs, doing: list(pool.map(f, jobs))
    work, have = bank_work.BankWork(), Resources(2, 0, 2**30)
    memory_base = bank_work.memory_base(run, config)  # its vocabulary takes the same time always
    assert memory_base.path.exists()
    return lambda: work.jobs(run, config, work.pending(run, config), have)


def _own_peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _read_by_workers() -> int:
    """Bytes that the workers have read, from the page cache too."""
    children = psutil.Process().children(recursive=True)
    return sum(child.io_counters().read_chars for child in children)


def configuration(shards: int) -> Config:
    """A scratch base whose vocabulary needs no corpus: preparing is what is measured."""
    overrides = (
        f"corpus.shards={shards}",
        f"synthesis.partitions={PARTITIONS}",
        "synthesis.steps=[direct,paraphrase]",
        "memory.base=scratch",
        "memory.scratch.tokenizer=general",
        "memory.scratch.vocabulary=8000",
        "memory.scratch.hidden_size=64",
        "memory.scratch.layers=2",
        "memory.scratch.heads=2",
        "memory.scratch.intermediate_size=128",
        "train.micro_batch_tokens=1024",
        "train.batch_tokens=4096",
    )
    return load_config([], overrides)


def make_run(run: RunFolder, config: Config, rows: int) -> None:
    """Write a corpus and the part files of a finished synthesis over it."""
    write_corpus(run.corpus, config, max(1, rows // ROWS_A_DOCUMENT))
    plan = make_plan(run.corpus, config, generator_factory(config)())
    units = StepUnits(plan.units, plan.partitions)
    with UnitReader(run.corpus, config.run.seed) as reader:
        for partition in range(plan.partitions):
            pairs = [
                facts for spec in units.partition(partition) for facts in taught(reader.read(spec))
            ]
            write_parts(run, plan, partition, pairs)


def write_parts(run: RunFolder, plan: Plan, partition: int, facts: list[list[Reflection]]) -> None:
    """The first wording of each fact is the first step's, its rewordings are the second's."""
    chosen = [[fact[:1] for fact in facts], [fact[1:] for fact in facts]]
    for (name, _), groups in zip(plan.steps, chosen, strict=True):
        atomic.write_jsonl(
            part_path(run, name, partition), (row.to_json() for group in groups for row in group)
        )
        atomic.write_jsonl(quarantine_path(run, name, partition), [])


def write_corpus(folder: Path, config: Config, count: int) -> None:
    """Documents of five facts each, one chunk a document."""
    folder.mkdir(parents=True)
    shards = config.corpus.shards
    names = [f"doc-{index:08}" for index in range(count)]
    atomic.write_jsonl(
        folder / DOCUMENTS, (document_row(document(name), shard_of(name, shards)) for name in names)
    )
    atomic.write_jsonl(folder / CHUNKS, (chunk(document(name)).to_json() for name in names))
    sizes = {name: (folder / name).stat().st_size for name in (DOCUMENTS, CHUNKS)}
    counts = [0] * shards
    for name in names:
        counts[shard_of(name, shards)] += 1
    manifest = CorpusManifest(
        SCHEMA_VERSION, "0", count, count, count, 0, 0, {}, {}, shards, counts,
        "synthetic", "synthetic", {"trusted": True}, sizes,
    )  # fmt: skip
    save_manifest(folder, manifest)


def chunk(whole: Document) -> Chunk:
    """All of a document."""
    return Chunk(whole.id, 0, len(whole.text), whole.text)


def document(name: str) -> Document:
    """A document of made-up words: the same name, the same text."""
    sentences = (f"{subject} has {words} at {value}." for subject, words, value in told(name))
    return Document(name, name, " ".join(sentences))


def told(name: str) -> Iterator[tuple[str, str, str]]:
    """(subject, words, value) of each fact of a document."""
    chance = random.Random(name)
    for index in range(FACTS):
        subject = f"{_word(chance).capitalize()} {_word(chance).capitalize()}-{index}"
        yield (
            subject,
            " ".join(_word(chance) for _ in range(3)),
            f"{chance.randrange(10_000)} litres",
        )


_SYLLABLES = [a + b for a in "bdfgklmnprstvz" for b in ("a", "e", "i", "o", "u", "an", "er")]


def _word(chance: random.Random) -> str:
    return "".join(chance.choice(_SYLLABLES) for _ in range(3))


def taught(unit: Unit) -> Iterator[list[Reflection]]:
    """The wordings of each fact of a unit's documents."""
    for one in unit.documents:
        for index, (subject, words, value) in enumerate(told(one.id)):
            faulty = (int(value.split()[0]) + index) % FAULTY == 0
            first = f"At what does {'it' if faulty else subject} have {words}?"
            source = (one.id,), (f"{one.id}:0-{len(one.text)}",), unit.shard
            fact = Reflection(first, value, "direct", *source, "synthetic 1", "1", unit.id)
            again = (
                f"How much {words} does {subject} have?",
                f"Please state the {words} of {subject}.",
                f"{subject} has {words}: at which value?",
            )
            yield [
                fact,
                *(
                    Reflection(
                        text, value, "paraphrase", *source, "synthetic 1", "1", unit.id, fact.id
                    )
                    for text in again
                ),
            ]


if __name__ == "__main__":
    main()
