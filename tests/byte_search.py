"""A search for words in every file of some folders, whatever its format; no code of the package."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import re
import sqlite3
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from safetensors import safe_open

_LARGE = 1 << 26
"""Bytes of a file that is searched as it is."""


def holders(roots: Sequence[Path], words: Sequence[str], tokenizer: Any = None) -> set[Path]:
    """Files below ``roots`` that hold one of the words, in any case.

    Args:
        roots: folders and files; files that vanish meanwhile are left out.
        words: lower case.
        tokenizer: turns the token ids of examples into text.
    """
    found = set()
    for path in (file for root in roots for file in _files(root)):
        with suppress(FileNotFoundError):
            if _holds(path, words, tokenizer):
                found.add(path)
    return found


def _holds(path: Path, words: Sequence[str], tokenizer: Any) -> bool:
    if path.stat().st_size > _LARGE and path.suffix != ".safetensors":
        pattern = re.compile(b"|".join(re.escape(word.encode()) for word in words), re.IGNORECASE)
        with path.open("rb") as stream, mmap(stream.fileno(), 0, access=ACCESS_READ) as data:
            return pattern.search(data) is not None
    texts = _texts(path, path.read_bytes(), tokenizer)
    return any(word in text.casefold() for text in texts for word in words)


def _files(root: Path) -> Iterator[Path]:
    found = [root] if root.is_file() else sorted(root.rglob("*"))
    return (path for path in found if path.is_file() and not path.is_symlink())


def _texts(path: Path, data: bytes, tokenizer: Any) -> Iterator[str]:
    if path.suffix == ".safetensors":  # beside the numbers only what its header says
        yield from _safetensors(path, tokenizer)
        return
    yield data.decode("utf-8", "ignore")
    yield data.decode("utf-16-le", "ignore")
    if b"\\u" in data:
        yield data.decode("unicode_escape", "ignore")
    for magic, read in _FORMATS.items():
        if data.startswith(magic):
            yield from read(path, data)


def _parquet(path: Path, data: bytes) -> Iterator[str]:
    yield json.dumps(pq.read_table(io.BytesIO(data)).to_pylist(), ensure_ascii=False, default=str)
    yield str(pq.read_metadata(io.BytesIO(data)).metadata)


def _npy(path: Path, data: bytes) -> Iterator[str]:
    array = np.load(io.BytesIO(data), allow_pickle=False)
    if array.dtype.kind in "US":
        yield " ".join(map(str, array.ravel().tolist()))


def _sqlite(path: Path, data: bytes) -> Iterator[str]:
    with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as database:
        for (name,) in database.execute("select name from sqlite_master where type='table'"):
            for row in database.execute(f'select * from "{name}"'):
                yield " ".join(map(str, row))


def _unpacked(read: Callable[[bytes], bytes]) -> Callable[[Path, bytes], Iterator[str]]:
    def texts(path: Path, data: bytes) -> Iterator[str]:
        inner = read(data)
        yield from _texts(path.with_suffix(""), inner, None)
        if inner[257:262] == b"ustar":
            with tarfile.open(fileobj=io.BytesIO(inner)) as archive:
                for member in archive:
                    stream = archive.extractfile(member)
                    if stream:
                        yield from _texts(Path(member.name), stream.read(), None)

    return texts


def _zip(path: Path, data: bytes) -> Iterator[str]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        for name in archive.namelist():
            yield from _texts(Path(name), archive.read(name), None)


def _safetensors(path: Path, tokenizer: Any) -> Iterator[str]:
    with safe_open(path, framework="np") as stream:
        names = list(stream.keys())
        yield f"{stream.metadata()} {names}"
        if tokenizer is not None and "ids" in names:
            yield tokenizer.decode(stream.get_tensor("ids").tolist())


_FORMATS: dict[bytes, Callable[[Path, bytes], Iterator[str]]] = {
    b"PAR1": _parquet,
    b"\x93NUMPY": _npy,
    b"SQLite format 3\0": _sqlite,
    b"\x1f\x8b": _unpacked(gzip.decompress),
    b"BZh": _unpacked(bz2.decompress),
    b"\xfd7zXZ": _unpacked(lzma.decompress),
    b"PK\x03\x04": _zip,
}
