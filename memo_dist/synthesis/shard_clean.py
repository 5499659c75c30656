"""The cleaning of one shard, in any process: its lines of all part files to a file of its own.

A part file has the lines of a shard together, and the shards in order, because units are planned
shard by shard. So a shard's lines are found by binary search, and the cleaning of all shards reads
each line once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from memo_dist.config.schema import SynthesisConfig
from memo_dist.config.steps import StepName
from memo_dist.errors import DamagedFileError
from memo_dist.io.atomic import parse_line, write_jsonl
from memo_dist.io.hashing import hash_file, hash_value
from memo_dist.io.runfolder import RunFolder
from memo_dist.io.sorted_lines import first_line, lines_between
from memo_dist.synthesis.clean import Candidate, Cleaned, clean, no_ground
from memo_dist.synthesis.shard_files import ShardFile, shard_path
from memo_dist.synthesis.source_texts import SourceTexts
from memo_dist.synthesis.types import Reflection
from memo_dist.synthesis.worker import part_path


@dataclass(frozen=True, slots=True)
class ShardJob:
    """One shard to clean.

    Attributes:
        root: the run folder.
        shard: which one.
        steps: index and name of each step whose reflections count, in order.
        partitions: number of them.
        documents: byte offset of the line of each of the shard's documents, by id.
        limits: what is clean.
        trusted: whether the documents are the user's own.
    """

    root: Path
    shard: int
    steps: tuple[tuple[int, StepName], ...]
    partitions: int
    documents: dict[str, int]
    limits: SynthesisConfig
    trusted: bool


@dataclass(frozen=True, slots=True)
class ShardCleaned:
    """What a shard's cleaning yielded.

    Attributes:
        file: of what is kept.
        facts: reflections kept that are no abstentions.
        by_step: reflections kept, by the index of their step.
        dropped: reflections dropped, by reason.
        documents: reflections kept of each document that has some.
        words: of the shard's documents.
    """

    file: ShardFile
    facts: int
    by_step: Counter[int]
    dropped: Counter[str]
    documents: Counter[str]
    words: int


def dropped_path(run: RunFolder, shard: int) -> Path:
    """The lines of one shard in ``synth/quarantine.jsonl``, until that is written."""
    return merging_folder(run) / f"quarantine-{shard}.jsonl"


def merging_folder(run: RunFolder) -> Path:
    """Files that are gone once the synthesis is complete."""
    return run.synth / "merging"


def clean_shard(job: ShardJob) -> ShardCleaned:
    """Write the shard's file, and that of its dropped reflections but for exact duplicates.

    Memory: all reflections of the shard, a few kilobytes each.

    Raises:
        DamagedFileError: a part file has another shard's line among those of this one.
        OSError: the run folder cannot be written.
    """
    run = RunFolder(job.root)
    with SourceTexts(run.corpus, job.documents) as ground:
        stated = no_ground if job.trusted else ground.whole
        cleaned = clean(_candidates(run, job), job.limits, ground, stated)
        words = ground.words()
    write_jsonl(shard_path(run, job.shard), (row.to_json() for row in cleaned.kept))
    told = (row.to_json() for row in cleaned.dropped if row.reason != "duplicate")
    write_jsonl(dropped_path(run, job.shard), told)
    return _counted(run, job, cleaned, words)


def _counted(run: RunFolder, job: ShardJob, cleaned: Cleaned, words: int) -> ShardCleaned:
    kinds = Counter[str](row.kind for row in cleaned.kept)
    file = ShardFile(
        shard=job.shard,
        rows=len(cleaned.kept),
        sha256=hash_file(shard_path(run, job.shard)),
        ids=hash_value([row.id for row in cleaned.kept]),
        kinds=dict(kinds),
    )
    return ShardCleaned(
        file=file,
        facts=file.rows - kinds["abstain"],
        by_step=cleaned.by_step,
        dropped=Counter(row.reason for row in cleaned.dropped),
        documents=Counter(source for row in cleaned.kept for source in row.sources),
        words=words,
    )


def _candidates(run: RunFolder, job: ShardJob) -> Iterator[Candidate]:
    for index, name in job.steps:
        for partition in range(job.partitions):
            for row in shard_rows(part_path(run, name, partition), job.shard):
                yield Candidate(index, row)


def shard_rows(path: Path, shard: int) -> Iterator[Reflection]:
    """The reflections of one shard in a part file, which is opened once.

    Raises:
        DamagedFileError: the file does not have its shards in order.
    """
    with path.open("rb") as stream:
        size = path.stat().st_size
        start = first_line(stream, size, lambda line: _shard(line, path) < shard)
        end = first_line(stream, size, lambda line: _shard(line, path) <= shard)
        for line in lines_between(stream, start, end):
            row = Reflection.from_own(parse_line(line, path, f"behind byte {start}"))
            if row.shard != shard:
                raise DamagedFileError.of(
                    path, f"a line of shard {row.shard} stands among those of shard {shard}"
                )
            yield row


def _shard(line: bytes, path: Path) -> int:
    return int(parse_line(line, path, "in its middle")["shard"])
