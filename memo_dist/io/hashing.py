"""Hashes that identify content: canonical JSON, files, and stable integers from names."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import xxhash

SHORT_DIGITS = 16
SHA256, XXH3 = "sha256", "xxh3_128"
_HASHERS: dict[str, Callable[[], Any]] = {SHA256: hashlib.sha256, XXH3: xxhash.xxh3_128}
_BLOCK = 2**20


def canonical_json(value: Any) -> str:
    """JSON with sorted keys, no spaces and no escapes beyond JSON's own: one text a value."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def sha256_text(text: str) -> str:
    """SHA-256 of UTF-8 text, 64 hexadecimal digits."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def hash_value(value: Any) -> str:
    """SHA-256 of a value's canonical JSON, 64 hexadecimal digits."""
    return sha256_text(canonical_json(value))


def short_hash(value: Any) -> str:
    """The first 16 hexadecimal digits of :func:`hash_value`."""
    return hash_value(value)[:SHORT_DIGITS]


def hash_file(path: Path) -> str:
    """SHA-256 of a file's bytes, 64 hexadecimal digits."""
    return file_digests(path, [SHA256])[SHA256]


def file_digests(path: Path, kinds: Sequence[str] = (SHA256, XXH3)) -> dict[str, str]:
    """Hashes of a file's bytes in one reading, by kind, as hexadecimal digits.

    XXH3 (https://xxhash.com) tells accidents as surely as SHA-256 does (128 bits), at nearly twenty
    times its speed; against an attacker it proves nothing.

    Args:
        path: of the file.
        kinds: of :data:`SHA256` and :data:`XXH3`.

    Raises:
        OSError: the file cannot be read.
    """
    hashers = {kind: _HASHERS[kind]() for kind in kinds}
    view = memoryview(bytearray(_BLOCK))
    with path.open("rb", buffering=0) as stream:
        while size := stream.readinto(view):
            for hasher in hashers.values():
                hasher.update(view[:size])
    return {kind: hasher.hexdigest() for kind, hasher in hashers.items()}


def stable_modulo(name: str, modulus: int) -> int:
    """``sha256(name) mod modulus``: the same on every machine and Python version."""
    return int(sha256_text(name), 16) % modulus
