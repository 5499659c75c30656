"""The reflections as a Hugging Face data set: parquet files with provenance columns, and a card.

``datasets.load_dataset("RUN/synth/dataset", split="train")`` reads it; so does anything that
reads parquet.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow
import pyarrow.parquet

from memo_dist.io.atomic import write_text, write_with

ROWS_A_GROUP = 10_000
"""Rows in memory at once."""

_TEXT = ("id", "question", "answer", "kind")
_PROVENANCE = ("generator", "prompt_version", "request", "parent", "as_of")
SCHEMA = pyarrow.schema(
    [
        *((name, pyarrow.string()) for name in _TEXT),
        ("sources", pyarrow.list_(pyarrow.string())),
        ("chunks", pyarrow.list_(pyarrow.string())),
        ("shard", pyarrow.int64()),
        *((name, pyarrow.string()) for name in _PROVENANCE),
    ]
)
"""The columns: the fields of ``reflections.jsonl``; parent and as_of may be null."""


def write_rows(folder: Path, part: int, parts: int, rows: Iterable[dict[str, Any]]) -> None:
    """Write one of the data set's files, ``data/train-00000-of-00001.parquet``, atomically.

    Rows go to the disk in groups, so memory does not grow with their number.

    Args:
        folder: of the data set.
        part, parts: this file (from 0), and how many there are.
        rows: lines of ``reflections.jsonl``.

    Raises:
        OSError: the folder cannot be written.
    """

    def write(stream: BinaryIO) -> None:
        with pyarrow.parquet.ParquetWriter(stream, SCHEMA, compression="zstd") as writer:
            for group in _groups(iter(rows)):
                writer.write_table(pyarrow.Table.from_pylist(group, schema=SCHEMA))

    write_with(_rows_path(folder, part, parts), write)


def write_card(folder: Path, parts: int, card: str) -> None:
    """Write ``README.md``, and remove files of another number of parts, which it would name too."""
    own = {_rows_path(folder, part, parts) for part in range(parts)}
    for path in set((folder / "data").glob("*.parquet")) - own:
        path.unlink()
    write_text(folder / "README.md", card)


def _rows_path(folder: Path, part: int, parts: int) -> Path:
    return folder / "data" / f"train-{part:05}-of-{parts:05}.parquet"


def _groups(rows: Iterator[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    while group := list(islice(rows, ROWS_A_GROUP)):
        yield group
