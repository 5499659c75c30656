"""``reflections.jsonl`` and the data set from the files of all shards, in parts by id.

An id is a hash, so parts of equal ranges of ids are of about equal size, and can be merged in any
process. How many there are follows from the number of reflections alone: the same reflections
give the same bytes, whoever merges them.
"""

from __future__ import annotations

import hashlib
import heapq
import resource
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from memo_dist.errors import DamagedFileError
from memo_dist.io.atomic import parse_line, write_with
from memo_dist.io.hashing import SHORT_DIGITS
from memo_dist.io.runfolder import RunFolder
from memo_dist.io.sorted_lines import first_line, lines_between
from memo_dist.synthesis.card import SAMPLES_A_KIND
from memo_dist.synthesis.dataset import write_rows
from memo_dist.synthesis.shard_clean import merging_folder
from memo_dist.synthesis.shard_files import shard_path
from memo_dist.synthesis.types import Reflection

ROWS_A_PART = 1_000_000
"""Reflections in a part, about."""
_ID = b'"id": "'
"""Stands once in a line: inside of a string a quote has a backslash before it."""
_BLOCK = 2**20
_OTHER_FILES = 256


@dataclass(frozen=True, slots=True)
class MergeJob:
    """One part of the merge.

    Attributes:
        root: the run folder.
        shards: whose files are merged, in order.
        part, parts: this one (from 0), and how many there are.
        dataset: folder of the data set.
    """

    root: Path
    shards: tuple[int, ...]
    part: int
    parts: int
    dataset: Path


def parts_of(rows: int) -> int:
    """In how many parts so many reflections are merged."""
    return max(1, -(-rows // ROWS_A_PART))


def merged_path(run: RunFolder, part: int) -> Path:
    """The lines of one part of ``reflections.jsonl``, until that is written."""
    return merging_folder(run) / f"reflections-{part}.jsonl"


def merge_part(job: MergeJob) -> list[Reflection]:
    """Write the lines of one range of ids, as text and as a file of the data set.

    Memory: a group of rows of the data set.

    Returns:
        The first reflections of each kind, for the card.

    Raises:
        DamagedFileError: a line of a shard's file has no id.
        OSError: the run folder cannot be written.
    """
    run, samples = RunFolder(job.root), _Samples()
    _allow_files(len(job.shards))

    def write(stream: BinaryIO) -> None:
        with ExitStack() as stack:
            paths = [shard_path(run, shard) for shard in job.shards]
            files = [_lines(stack, path, job.part, job.parts) for path in paths]
            rows = samples.watched(_written(heapq.merge(*files, key=_id), stream))
            write_rows(job.dataset, job.part, job.parts, rows)

    write_with(merged_path(run, job.part), write)
    return samples.found


def join(paths: Iterable[Path], target: Path) -> str:
    """Write files one behind the other, atomically; returns the SHA-256 of the whole."""
    hasher = hashlib.sha256()

    def write(stream: BinaryIO) -> None:
        for path in paths:
            with path.open("rb") as source:
                while block := source.read(_BLOCK):
                    hasher.update(block)
                    stream.write(block)

    write_with(target, write)
    return hasher.hexdigest()


def _allow_files(count: int) -> None:
    """Raise this process's limit of open files, as far as it may, for ``count`` more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = count + _OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < needed:
        most = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


class _Samples:
    """The first rows of each kind among those that pass."""

    def __init__(self) -> None:
        self.found: list[Reflection] = []
        self._counts: dict[str, int] = {}

    def watched(self, rows: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        for row in rows:
            count = self._counts.get(row["kind"], 0)
            if count < SAMPLES_A_KIND:
                self._counts[row["kind"]] = count + 1
                self.found.append(Reflection.from_json(row))
            yield row


def _lines(stack: ExitStack, path: Path, part: int, parts: int) -> Iterator[bytes]:
    """The lines of a shard's file that belong to a part."""
    stream = stack.enter_context(path.open("rb"))
    first, last = (_border(index, parts) for index in (part, part + 1))
    size = path.stat().st_size
    start = first_line(stream, size, lambda line: _id(line) < first)
    end = first_line(stream, size, lambda line: _id(line) < last)
    return lines_between(stream, start, end)


def _border(part: int, parts: int) -> bytes:
    """Ids of a part are not below its border; behind the last part no id follows."""
    if part == parts:
        return b"g"
    return f"{(part << 4 * SHORT_DIGITS) // parts:0{SHORT_DIGITS}x}".encode()


def _id(line: bytes) -> bytes:
    start = line.find(_ID)
    if start < 0:
        raise DamagedFileError(f"a reflection without an id: {line[:80]!r}")
    start += len(_ID)
    return line[start : start + SHORT_DIGITS]


def _written(lines: Iterable[bytes], stream: BinaryIO) -> Iterator[dict[str, Any]]:
    """The objects of lines that are written on the way."""
    for line in lines:
        stream.write(line)
        yield parse_line(line, Path("reflections.jsonl"), "while merging")
