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
from memo_dist.synthesis.types import Reflection

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


def write_dataset(folder: Path, reflections: Iterable[Reflection], card: str) -> None:
    """Write ``data/train-00000-of-00001.parquet`` and ``README.md``, each atomically.

    Rows go to the disk in groups, so memory does not grow with their number.

    Raises:
        OSError: the folder cannot be written.
    """

    def write(stream: BinaryIO) -> None:
        with pyarrow.parquet.ParquetWriter(stream, SCHEMA, compression="zstd") as writer:
            for rows in _groups(row.to_json() for row in reflections):
                writer.write_table(pyarrow.Table.from_pylist(rows, schema=SCHEMA))

    write_with(folder / "data" / "train-00000-of-00001.parquet", write)
    write_text(folder / "README.md", card)


def _groups(rows: Iterator[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    while group := list(islice(rows, ROWS_A_GROUP)):
        yield group
