"""Faults of the server that plays a model: which one a request gets, decided by its hash."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

FAULTS = {
    "429": "asks to come back later",
    "500": "an internal error",
    "timeout": "no answer, ever",
    "truncated": "half an answer with finish_reason length",
    "malformed": "text that is not JSON",
    "whitespace": "a brace and then blanks up to the token limit",
    "schema": "JSON that breaks the schema",
    "slow": "the body in small pieces, a little apart",
    "reset": "the connection closes without an answer",
}


FIRST_ONLY = "@0"


@dataclass(frozen=True)
class FaultPlan:
    """Fractions of the faults; they must not add up to more than 1."""

    fractions: Mapping[str, float]

    @classmethod
    def parse(cls, items: list[str]) -> FaultPlan:
        """From ``name=fraction`` items; ``name@0=fraction`` for first attempts only.

        Raises:
            ValueError: an unknown fault, or fractions that are none.
        """
        fractions = {}
        for item in items:
            name, _, fraction = item.partition("=")
            if name.removesuffix(FIRST_ONLY) not in FAULTS:
                raise ValueError(f"unknown fault '{name}'; faults are {', '.join(FAULTS)}")
            fractions[name] = float(fraction)
        if sum(fractions.values()) > 1 or min(fractions.values(), default=0.0) < 0:
            raise ValueError(f"fractions must be positive and add up to at most 1: {fractions}")
        return cls(fractions)

    def fault(self, key: str, attempt: int) -> str:
        """The fault of one attempt at one request; "" for none. Equal arguments, equal fault."""
        digest = hashlib.sha256(f"{key}-{attempt}".encode()).digest()
        left = int.from_bytes(digest[:8], "big") / 2**64
        for name, fraction in self.fractions.items():
            if left < fraction and (attempt == 0 or not name.endswith(FIRST_ONLY)):
                return name.removesuffix(FIRST_ONLY)
            left -= fraction
        return ""
