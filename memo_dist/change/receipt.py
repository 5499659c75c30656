"""The receipt of a forgetting: what was removed from where, as JSON and as a page for people.

It holds ids and salted hashes, no text and no plain hash of what was forgotten.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from memo_dist.change.fingerprint import Fingerprint
from memo_dist.errors import UsageError
from memo_dist.io import atomic
from memo_dist.memory.tombstones import Tombstone

SCHEMA_VERSION = 1
FOLDER = "receipts"


@dataclass(frozen=True)
class Receipt:
    """What a ``forget`` did.

    Attributes:
        time, who, why: of the command.
        version: of memo_dist.
        documents: their tombstones.
        fingerprints: of their texts, of each revision that the run had.
        weights_before, weights_after: {shard: hash of its weights}.
        generation: the one that answers since.
        reflections: hash of the reflections since.
        seconds: {moment: seconds after the start}: answers withheld, weights clean, residue clear.
        cleared: {files: what was done}.
        out_of_reach: what only people can clear.
        searched: files that were opened in the search for the texts.
        found: files that still hold a run of their words; must be empty.
        audit: numbers of ``forget --audit``, no texts; empty: it was not asked for.
    """

    time: str
    who: str
    why: str
    version: str
    documents: Sequence[Tombstone]
    fingerprints: Sequence[Fingerprint]
    weights_before: Mapping[str, str]
    weights_after: Mapping[str, str]
    generation: int
    reflections: str
    seconds: Mapping[str, float]
    cleared: Mapping[str, str]
    out_of_reach: Sequence[str]
    searched: int
    found: Sequence[str]
    audit: Mapping[str, Any] = field(default_factory=dict)

    @property
    def shards(self) -> list[str]:
        """Shards whose weights differ since."""
        return [k for k, v in self.weights_after.items() if self.weights_before.get(k) != v]

    def save(self, folder: Path) -> Path:
        """Write both files; returns the JSON file."""
        path = folder / f"{self.time.replace(':', '').replace('-', '')}.json"
        atomic.write_text(path.with_suffix(".html"), self.page())
        atomic.write_json(path, {"schema_version": SCHEMA_VERSION, **asdict(self)})
        return path

    @classmethod
    def load(cls, path: Path) -> Receipt:
        """The inverse of :meth:`save`.

        Raises:
            UsageError: the file is no receipt.
        """
        try:
            values: dict[str, Any] = atomic.read_json(path)
            if values.pop("schema_version") != SCHEMA_VERSION:
                raise ValueError("another schema_version")
            values["documents"] = [Tombstone(**row) for row in values["documents"]]
            runs = [Fingerprint.from_json(row) for row in values["fingerprints"]]
            return cls(**{**values, "fingerprints": runs})
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UsageError(f"'{path}' is no receipt of `memo-dist forget`: {error!r}") from error

    def page(self) -> str:
        """For people; needs no network."""
        rows = [
            ("Documents", ", ".join(one.id for one in self.documents)),
            ("Why", self.why or "not given"),
            ("Who, when", f"{self.who}, {self.time}"),
            ("Shards trained again", ", ".join(self.shards) or "none"),
            ("Generation that answers", str(self.generation)),
            *((f"Seconds until {name}", f"{value:.1f}") for name, value in self.seconds.items()),
            ("Files searched for the texts", str(self.searched)),
            ("Files that still hold them", ", ".join(self.found) or "none"),
            *self.cleared.items(),
            ("Out of reach", "; ".join(self.out_of_reach)),
            *((f"Audit: {name}", str(value)) for name, value in self.audit.items()),
        ]
        cells = "\n".join(
            f"<tr><th>{html.escape(name)}</th><td>{html.escape(text)}</td></tr>"
            for name, text in rows
        )
        return (
            '<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>Receipt</title>'
            "<style>body{font:16px sans-serif;margin:2em}th{text-align:left;"
            "vertical-align:top;padding-right:2em}</style>\n"
            f"<h1>Documents forgotten</h1>\n<table>\n{cells}\n</table></html>\n"
        )
