"""Atomic files: a reader sees the old file or the new one, never half of one.

Every write goes to a temporary file in the same folder, is flushed to the disk, and is
renamed over the target; the folder is flushed last so that the rename survives a crash.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from memo_dist.errors import DamagedFileError
from memo_dist.io import processes

TEMP_PREFIX = ".tmp-"
_TEMP = re.compile(r"\.tmp-(?P<place>[0-9a-f]{8})-(?P<pid>\d+)-.*")
Record = TypeVar("Record")


def temp_prefix() -> str:
    """How the names of this process' temporary files begin, see :func:`is_abandoned`."""
    return f"{TEMP_PREFIX}{processes.here()}-{os.getpid()}-"


def is_abandoned(name: str) -> bool:
    """Whether a file has the name of a temporary one whose process has ended."""
    found = _TEMP.fullmatch(name)
    return found is not None and processes.is_dead(found["place"], found["pid"])


def fsync_folder(folder: Path) -> None:
    """Flush a folder's entries (renames, new files) to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_with(path: Path, writer: Callable[[BinaryIO], None]) -> None:
    """Call ``writer`` on a temporary binary file and rename it to ``path``.

    Raises:
        OSError: the disk is full or the folder cannot be written; ``path`` is untouched
            and no temporary file is left.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{temp_prefix()}{secrets.token_hex(8)}")
    # The kernel applies the umask: a process can only read its own by changing it for a moment,
    # which other threads would see. Not tempfile: its files are closed to the run's group.
    descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        with os.fdopen(descriptor, "w+b") as stream:
            writer(stream)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    fsync_folder(path.parent)


def write_bytes(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path`` atomically."""
    write_with(path, lambda stream: _write_all(stream, data))


def write_text(path: Path, text: str) -> None:
    """Write ``text`` (UTF-8) to ``path`` atomically."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON with sorted keys, atomically."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> int:
    """Write one JSON object a line, atomically; returns the number of lines."""
    count = 0

    def writer(stream: BinaryIO) -> None:
        nonlocal count
        for row in rows:
            stream.write(json_line(row))
            count += 1

    write_with(path, writer)
    return count


def json_line(row: dict[str, Any]) -> bytes:
    """One line of JSON (UTF-8, sorted keys, newline at the end): the same row, the same bytes."""
    return (json.dumps(row, sort_keys=True, ensure_ascii=False) + "\n").encode("utf-8")


class _MissingFieldError(DamagedFileError, KeyError):
    """Also a KeyError: templates and mappings take that for "not there"."""

    def __str__(self) -> str:
        return str(self.args[0])


class _Fields(dict[str, Any]):
    """An object of a JSON file; a field that is missing is an error that names the file."""

    source: Path | str = ""

    def __missing__(self, key: str) -> Any:
        raise _MissingFieldError.of(self.source, f"it has no field '{key}'")


def read_json(path: Path, kind: type = dict) -> Any:
    """Read one JSON value, an object where ``kind`` does not say otherwise.

    Raises:
        DamagedFileError: the file is empty, not UTF-8, not JSON, or of another kind; also, later,
            where a field is asked for that it does not have.
    """
    return parse_json(path.read_bytes(), path, kind)


def parse_json(data: bytes, source: Path | str, kind: type = dict) -> Any:
    """The JSON value in ``data``, see :func:`read_json`.

    Args:
        data: UTF-8.
        source: named in errors.
        kind: of the value.
    """

    def fields(pairs: list[tuple[str, Any]]) -> _Fields:
        found = _Fields(pairs)
        found.source = source
        return found

    try:
        value = json.loads(data, object_pairs_hook=fields)
    except (ValueError, RecursionError) as error:
        reason = "it is empty" if not data.strip() else f"it is not JSON ({error})"
        raise DamagedFileError.of(source, reason) from None
    if not isinstance(value, kind):
        raise DamagedFileError.of(source, f"it holds {value!r:.40}, not a {kind.__name__}")
    return value


def read_record(path: Path, make: Callable[..., Record]) -> Record:
    """``make(**fields)`` of the object in a JSON file.

    Raises:
        DamagedFileError: see :func:`read_json`; or the fields are not those of a record.
    """
    return as_record(read_json(path), path, make)


def as_record(values: dict[str, Any], source: Path | str, make: Callable[..., Record]) -> Record:
    """``make(**values)``; ``source`` is named where these are not its fields.

    Raises:
        DamagedFileError: a field is missing, unknown, or of a type that cannot be used.
    """
    try:
        return make(**values)
    except (TypeError, AttributeError) as error:
        raise DamagedFileError.of(source, f"it does not hold what it should ({error})") from None


def parse_line(line: bytes, path: Path, place: str) -> dict[str, Any]:
    """The object in a line of a file; ``place`` ("line 3") is named where there is none.

    Raises:
        DamagedFileError: the line is no JSON object.
    """
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        value = parse_json(line, f"{path}, {place},")  # raises
    return value  # type: ignore[no-any-return]


def read_jsonl(path: Path, sha256: str = "") -> Iterator[dict[str, Any]]:
    """Yield the objects of a JSON-lines file, one at a time.

    Args:
        path: of the file.
        sha256: hash that the whole file must have; compared behind the last line. Empty: any.

    Raises:
        DamagedFileError: a line is no JSON object; names it. Or the file has another hash.
    """
    hasher = hashlib.sha256() if sha256 else None
    with path.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            if hasher is not None:
                hasher.update(line)
            if line.strip():
                yield parse_line(line, path, f"line {number}")
    if hasher is not None and hasher.hexdigest() != sha256:
        found = hasher.hexdigest()
        raise DamagedFileError.of(path, f"its SHA-256 is {found[:16]}, not {sha256[:16]}")


def row_at(stream: BinaryIO, offset: int, path: Path) -> dict[str, Any]:
    """The object of the line that begins at a byte of an open JSON-lines file.

    Raises:
        DamagedFileError: there is none.
    """
    stream.seek(offset)
    return parse_line(stream.readline(), path, f"byte {offset}")


def whole_rows(path: Path) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """Each line of a file that grows, and its object, without a last one that a kill cut off.

    Raises:
        DamagedFileError: a line is no JSON object; names it.
    """
    with path.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            if line.endswith(b"\n"):
                yield line, parse_line(line, path, f"line {number}")


def jsonl_offsets(path: Path) -> Iterator[tuple[int, Any]]:
    """(byte offset, object) of each line of a JSON-lines file, to read single lines later.

    Raises:
        DamagedFileError: see :func:`read_jsonl`.
    """
    offset = 0
    with path.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            yield offset, parse_line(line, path, f"line {number}")
            offset += len(line)


def _write_all(stream: BinaryIO, data: bytes) -> None:
    stream.write(data)
