"""A document's text as salted hashes of word runs, and the search for them in every file of a run.

A fingerprint tells whoever has the text whether a file still holds a run of its words. Without the
text, a run of eight words cannot be guessed from it.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from memo_dist.io import atomic

WORDS = 8
"""Length of a run of words."""
MOST = 512
"""Runs kept of one document, evenly over its text."""
_MOST_HEADER = 2**26
_WORD = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """Hashes of a text's word runs.

    Attributes:
        salt: 32 hexadecimal digits.
        words: words of each run.
        runs: 16 hexadecimal digits each, sorted.
    """

    salt: str
    words: int
    runs: tuple[str, ...]

    @classmethod
    def of(cls, text: str, others: Iterable[str] = ()) -> Fingerprint:
        """Of a text, without the runs that ``others`` (texts that stay) have too."""
        salt = secrets.token_hex(16)
        length = max(1, min(WORDS, len(_words(text))))
        shared = {run for other in others for run in _hashes(other, salt, length)}
        runs = [run for run in dict.fromkeys(_hashes(text, salt, length)) if run not in shared]
        step = max(1, len(runs) // MOST)
        return cls(salt, length, tuple(sorted(runs[::step][:MOST])))

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> Fingerprint:
        """The inverse of ``dataclasses.asdict``."""
        return cls(row["salt"], row["words"], tuple(row["runs"]))

    def without(self, others: Iterable[str]) -> Fingerprint:
        """Without the runs that ``others`` (texts that stay) have."""
        shared = {run for other in others for run in _hashes(other, self.salt, self.words)}
        return replace(self, runs=tuple(run for run in self.runs if run not in shared))

    def found_in(self, text: str) -> bool:
        """Whether one of the runs stands in a text."""
        wanted = frozenset(self.runs)
        return any(run in wanted for run in _hashes(text, self.salt, self.words))


def _words(text: str) -> list[str]:
    return _WORD.findall(text.casefold())


def _hashes(text: str, salt: str, length: int) -> Iterator[str]:
    words, key = _words(text), bytes.fromhex(salt)
    for start in range(len(words) - length + 1):
        run = " ".join(words[start : start + length]).encode()
        yield hashlib.blake2b(run, key=key, digest_size=8).hexdigest()


def search(
    root: Path,
    fingerprints: Iterable[Fingerprint],
    tokenizer: Path | None,
    left_out: Sequence[Path] = (),
) -> tuple[list[str], int]:
    """The files below ``root`` that hold a run of one of the texts, and how many were opened.

    Args:
        root: the run folder.
        fingerprints: what is searched for.
        tokenizer: a model folder, to read token ids as text; None: they are not read.
        left_out: folders that are not searched.
    """
    wanted = [one for one in fingerprints if one.runs]
    read = _decoder(tokenizer) if tokenizer else None
    found, opened = [], 0
    for path in sorted(path for path in root.rglob("*") if path.is_file()):
        if any(path.is_relative_to(folder) for folder in left_out):
            continue
        opened += 1
        if any(one.found_in(text) for text in _texts(path, read) for one in wanted):
            found.append(path.relative_to(root).as_posix())
    return found, opened


def _texts(path: Path, read: Any) -> Iterator[str]:
    """What a file says, in the form in which words can be searched."""
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        for column in pq.read_table(path).columns:
            yield from (str(value) for value in column.to_pylist())
        return
    if path.name == "examples.safetensors" and read is not None:
        from memo_dist.training.examples import Examples

        examples = Examples.load(path)
        yield from (read(examples.tokens(index)) for index in range(len(examples)))
        return
    if path.suffix in (".safetensors", ".npy"):  # beside the numbers only a header
        yield from _line_texts(_header(path))
        return
    packed = path.suffix == ".gz"
    with gzip.open(path, "rb") if packed else path.open("rb") as stream:
        for line in stream:  # binary files too: metadata and databases hold text as it is
            yield from _line_texts(line)


def _header(path: Path) -> bytes:
    """The JSON header of a safetensors file, or the first bytes of another one."""
    with path.open("rb") as stream:
        first = stream.read(8)
        size = int.from_bytes(first, "little") if path.suffix == ".safetensors" else 256
        return stream.read(min(size, _MOST_HEADER))


def _line_texts(line: bytes) -> Iterator[str]:
    text = line.decode("utf-8", "ignore")
    yield text
    if "\\" in text:  # escapes of JSON stand between words
        try:
            yield from _strings(json.loads(text))
        except ValueError:
            yield text.replace("\\n", " ").replace("\\t", " ")


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)


def _decoder(folder: Path) -> Callable[[np.ndarray], str]:
    """Gives the text of token ids; the tokenizer is loaded with the first ones."""

    @cache
    def tokenizer() -> Any:
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(folder)

    return lambda ids: str(tokenizer().decode(ids.tolist(), skip_special_tokens=True))


def drop_lines(path: Path, fingerprints: Iterable[Fingerprint]) -> int:
    """Rewrite a text file without the lines that hold a run; returns how many went."""
    lines = path.read_bytes().splitlines(keepends=True)
    wanted = list(fingerprints)
    kept = [
        line
        for line in lines
        if not any(one.found_in(text) for text in _line_texts(line) for one in wanted)
    ]
    if len(kept) < len(lines):
        atomic.write_bytes(path, b"".join(kept))
    return len(lines) - len(kept)
