"""What a report about a machine consists of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "warn", "bad"]


@dataclass(frozen=True)
class Finding:
    """One line of the report; ``bad`` would stop a run."""

    level: Level
    name: str
    text: str
