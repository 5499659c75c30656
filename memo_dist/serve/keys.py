"""Who calls: keys, their rights and the scopes that they may use."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from memo_dist.errors import UsageError
from memo_dist.serve.errors import forbidden, invalid

VARIABLE = "MEMO_DIST_SERVE_KEYS"
RIGHTS = ("read", "write", "delete", "admin")
ENTITIES = ("user_id", "agent_id", "app_id", "run_id")
"""What a scope may name, by mem0's names."""
_FORM = "NAME:SECRET:RIGHT,RIGHT[:ENTITY=NAME,...], entries separated by ';'"
_SECRET = re.compile(r"[A-Za-z0-9_\-.~+/=]{16,}")
_MAX_NAME = 256

Scope = Mapping[str, str]
"""{entity: name}, of :data:`ENTITIES`; empty: shared."""


@dataclass(frozen=True)
class Caller:
    """Who made a request.

    Attributes:
        name: of the key, for logs and limits.
        rights: of :data:`RIGHTS`.
        scopes: pairs (entity, name) that it is limited to; empty: every scope.
    """

    name: str
    rights: frozenset[str] = frozenset(RIGHTS)
    scopes: frozenset[tuple[str, str]] = field(default_factory=frozenset)

    def need(self, right: str) -> None:
        """Refuse where the right is missing.

        Raises:
            ApiError: 403.
        """
        if right not in self.rights:
            raise forbidden(f"this key does not have the right '{right}'")

    def may_use(self, scope: Scope) -> bool:
        """Whether texts of this scope are the caller's."""
        return not self.scopes or any(scope.get(kind) == name for kind, name in self.scopes)

    def need_scope(self, scope: Scope) -> None:
        """Refuse a scope that is not the caller's.

        Raises:
            ApiError: 403.
        """
        if not self.may_use(scope):
            raise forbidden("this key is limited to other scopes: name one of its own")


ANYONE = Caller("anyone")
"""The caller of a server without keys."""


def clean_scope(values: Mapping[str, object]) -> dict[str, str]:
    """The entities that are given, checked.

    Raises:
        ApiError: 400; a name is no text of 1 to 256 printable characters.
    """
    found = {}
    for kind in ENTITIES:
        name = values.get(kind)
        if name is None:
            continue
        if not isinstance(name, str) or not (0 < len(name) <= _MAX_NAME and name.isprintable()):
            raise invalid(f"{kind} must be text of 1 to {_MAX_NAME} printable characters", kind)
        found[kind] = name
    return found


class KeyRing:
    """The keys of a server; secrets are kept as hashes only."""

    def __init__(self, entries: Sequence[tuple[bytes, Caller]] = ()) -> None:
        self._entries = list(entries)

    @classmethod
    def parse(cls, text: str) -> KeyRing:
        """The keys in the environment variable.

        Raises:
            UsageError: names the entry by its number; a secret is never printed.
        """
        rows = [row.strip() for row in re.split(r"[;\n]", text) if row.strip()]
        ring = cls([_entry(number, row) for number, row in enumerate(rows, start=1)])
        if len({digest for digest, _ in ring._entries}) < len(rows):
            raise UsageError(f"{VARIABLE}: the same secret comes twice")
        return ring

    def __len__(self) -> int:
        return len(self._entries)

    def find(self, secret: str) -> Caller | None:
        """Who has this secret; the time does not depend on which entry matches, or whether."""
        digest, found = _digest(secret), None
        for known, caller in self._entries:
            if hmac.compare_digest(known, digest):
                found = caller
        return found


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()


def _entry(number: int, row: str) -> tuple[bytes, Caller]:
    parts = row.split(":")
    where = f"{VARIABLE}, entry {number}"
    if len(parts) not in (3, 4) or not parts[0].isidentifier():
        raise UsageError(f"{where}: write {_FORM}")
    name, secret, rights, *scopes = parts
    if not _SECRET.fullmatch(secret):
        raise UsageError(
            f"{where}: the secret must have 16 or more characters of A-Z a-z 0-9 _ - . ~ + / ="
        )
    given = RIGHTS if rights == "all" else tuple(rights.split(","))
    unknown = [right for right in given if right not in RIGHTS]
    if unknown:
        raise UsageError(f"{where}: no such right; rights are {', '.join(RIGHTS)}, or all")
    return _digest(secret), Caller(name, frozenset(given), _scopes(where, scopes))


def _scopes(where: str, words: Sequence[str]) -> frozenset[tuple[str, str]]:
    found = set()
    for pair in ",".join(words).split(",") if words else ():
        kind, equals, name = pair.partition("=")
        if kind not in ENTITIES or not equals or not name:
            raise UsageError(f"{where}: a scope is {' or '.join(f'{k}=NAME' for k in ENTITIES)}")
        found.add((kind, name))
    return frozenset(found)
