"""Corpora of rows: JSON lines and Parquet, read as a stream."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from memo_dist.answers.characters import clean_characters
from memo_dist.corpus.boilerplate import drop_navigation
from memo_dist.corpus.language import language_of
from memo_dist.corpus.listing import SourceFile
from memo_dist.corpus.parsed import MARK
from memo_dist.corpus.text import check_text, decode, readable_date, tidy
from memo_dist.corpus.types import Document, Quarantined, UnreadableError, check_size
from memo_dist.corpus.wrapping import mark_encoding, open_plain, unpacking

REQUIRED = ("id", "title", "text")
_COLUMNS = (*REQUIRED, "date")
_HEAD = 64
_BATCH_ROWS = 64
"""Few: rows that a file packs well may be large."""
_ESCAPED = 6
"""Bytes that JSON may spend on one character (``\\u0041``)."""


def read_jsonl_rows(file: SourceFile, max_bytes: int) -> Iterator[Document | Quarantined]:
    """Yield one document, or the reason against it, for each line that is not blank."""
    with unpacking(), open_plain(file.path) as stream:
        head = stream.read(_HEAD)
        stream.seek(0)
        if mark_encoding(head) or head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"["):
            yield from _whole_rows(stream.read(max_bytes + 1), file.origin, max_bytes)
            return
        for number, line in enumerate(_lines(stream, max_bytes * _ESCAPED), start=1):
            if line.strip():
                yield _try_line(line, f"{file.origin}:{number}", max_bytes)


def read_parquet_rows(file: SourceFile, max_bytes: int) -> Iterator[Document | Quarantined]:
    """Yield one document, or the reason against it, for each row; row groups are streamed."""
    try:
        yield from _parquet(file, max_bytes)
    except MemoryError:  # Arrow's is an ArrowException too
        raise
    except (pa.ArrowException, OSError) as error:
        yield Quarantined(file.origin, "broken_parquet", str(error).splitlines()[0][:200])


def row_document(row: dict[str, Any], origin: str, max_bytes: int) -> Document:
    """Check one row and turn it into a document.

    Raises:
        UnreadableError: ``missing_field``, ``bad_field``, ``too_large``,
            ``empty``, ``binary`` or ``not_utf8``.
    """
    for name in REQUIRED:
        if row.get(name) is None:
            raise UnreadableError("missing_field", f"field {name!r} is missing")
    identity = row["id"]
    if isinstance(identity, int) and not isinstance(identity, bool):
        identity = str(identity)
    title, text = row["title"], row["text"]
    for name, value in (("id", identity), ("title", title), ("text", text)):
        if not isinstance(value, str):
            raise UnreadableError("bad_field", f"field {name!r} is not text: {value!r:.60}")
        check_text(value)
    check_size(len(text.encode("utf-8")), max_bytes)
    if not identity.strip() or not identity.isprintable():
        raise UnreadableError("bad_field", f"field 'id' is empty or unprintable: {identity!r:.60}")
    clean_title = " ".join(clean_characters(title).split()) or identity
    lines = tidy(text.replace(MARK, ""), wrapped=True).split("\n")
    tidied = "\n".join(drop_navigation(lines, (clean_title,))).strip()
    if not tidied:
        raise UnreadableError("empty", "no text but navigation")
    day = readable_date(row.get("date"))
    return Document(identity, clean_title, tidied, day, origin, language_of(tidied))


def _whole_rows(data: bytes, origin: str, max_bytes: int) -> Iterator[Document | Quarantined]:
    """The rows of a file that may be no lines of UTF-8: one JSON list, or UTF-16."""
    check_size(len(data), max_bytes)
    text = decode(data)
    rows = _listed(text)
    if rows:
        for number, row in enumerate(rows, start=1):
            yield _try_row(row, f"{origin}:{number}", max_bytes)
        return
    for number, line in enumerate(text.encode().split(b"\n"), start=1):
        if line.strip():
            yield _try_line(line, f"{origin}:{number}", max_bytes)


def _listed(text: str) -> list[dict[str, Any]]:
    """The objects of a text that is one list of them; empty where it is not."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return []
    found = value if isinstance(value, list) else []
    return found if all(isinstance(row, dict) for row in found) else []


def _lines(stream: BinaryIO, limit: int) -> Iterator[bytes]:
    """Lines of at most ``limit`` bytes; of a longer one only the start (it is refused later)."""
    while line := stream.readline(limit):
        rest = line
        while len(rest) == limit and not rest.endswith(b"\n"):
            rest = stream.readline(limit)
        yield line


def _try_line(line: bytes, origin: str, max_bytes: int) -> Document | Quarantined:
    try:
        if len(line) >= max_bytes * _ESCAPED:
            check_size(len(line), max_bytes)
        return row_document(_parse(decode(line)), origin, max_bytes)
    except UnreadableError as error:
        return error.at(origin)


def _parse(line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:  # ValueError: also numbers of 4300 digits
        raise UnreadableError("malformed_json", str(error)) from error
    if not isinstance(row, dict):
        raise UnreadableError("malformed_json", f"not an object but {type(row).__name__}")
    return row


def _parquet(file: SourceFile, max_bytes: int) -> Iterator[Document | Quarantined]:
    with pq.ParquetFile(file.path) as table:
        names = table.schema_arrow.names
        missing = [name for name in REQUIRED if name not in names]
        if missing:
            detail = f"column {missing[0]!r} is missing; there are: {', '.join(names)}"
            yield Quarantined(file.origin, "missing_field", detail)
            return
        columns = [name for name in _COLUMNS if name in names]
        _check_declared(table, columns, max_bytes)
        number = 0
        batches = table.iter_batches(batch_size=_BATCH_ROWS, columns=columns, use_threads=False)
        for batch in batches:
            for row in batch.to_pylist():
                number += 1
                yield _try_row(row, f"{file.origin}:{number}", max_bytes)


def _check_declared(table: pq.ParquetFile, columns: list[str], max_bytes: int) -> None:
    """Refuse a file by the sizes that it declares before anything of it is unpacked.

    Raises:
        UnreadableError: ``too_large``: a page of a group's texts alone is over the limit of a
            document for each of its rows.
    """
    for index in range(table.metadata.num_row_groups):
        group = table.metadata.row_group(index)
        sizes = (group.column(at) for at in range(group.num_columns))
        size = sum(c.total_uncompressed_size for c in sizes if c.path_in_schema in columns)
        check_size(size // max(group.num_rows, 1), max_bytes)


def _try_row(row: dict[str, Any], origin: str, max_bytes: int) -> Document | Quarantined:
    try:
        return row_document(row, origin, max_bytes)
    except UnreadableError as error:
        return error.at(origin)
