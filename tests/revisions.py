"""A corpus that is revised document by document, and what its synthesis asks of a server."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from memo_dist.io.atomic import write_jsonl

DOCUMENTS = 500
STEPS = (
    "direct",
    "indirect",
    "consolidate",
    "verify",
    "entities",
    "cross",
    "paraphrase",
    "abstain",
)
_STARTS = (
    "Bra",
    "Clo",
    "Dru",
    "Fri",
    "Gra",
    "Hal",
    "Jor",
    "Kel",
    "Lun",
    "Mor",
    "Ner",
    "Pla",
    "Ros",
    "Sta",
)
_ENDS = (
    "dor",
    "lin",
    "mark",
    "nett",
    "rand",
    "sby",
    "ston",
    "thal",
    "vik",
    "wold",
    "mere",
    "nik",
    "ron",
)
_WORDS = [start + end for start, end in product(_STARTS, _ENDS)]
_EMPLOYED = 4
"""Documents that a company joins."""


def people(count: int = DOCUMENTS) -> list[dict]:
    """Rows of a corpus: people, of whom a few work for the same company."""
    return [person(index) for index in range(count)]


def person(index: int, year: int = 1900) -> dict:
    """One document; another ``year`` changes one sentence."""
    chance = random.Random(index)
    name = (
        f"{_WORDS[index % len(_WORDS)]} {_WORDS[(7 * index + index // len(_WORDS)) % len(_WORDS)]}"
    )
    employer = index // _EMPLOYED % len(_WORDS)
    company = f"{_WORDS[employer]} {_WORDS[-1 - employer]} Works"
    text = (
        f"{name} works for {company} in the town of {chance.choice(_WORDS)}. "
        f"{name} was born in {chance.choice(_WORDS)} in {year + index % 90}. "
        f"{name} wrote {2 + index % 40} books about the river {chance.choice(_WORDS)}."
    )
    return {"id": f"person-{index:04}", "title": name, "text": text}


def inserted(rows: Sequence[dict], index: int) -> list[dict]:
    """The rows with one more document among them."""
    return [*rows[:index], {**person(DOCUMENTS + index), "id": f"person-{index:04}-b"},
            *rows[index:]]  # fmt: skip


def removed(rows: Sequence[dict], index: int) -> list[dict]:
    """The rows without one of them."""
    return [*rows[:index], *rows[index + 1 :]]


def changed(rows: Sequence[dict], index: int) -> list[dict]:
    """The rows with another sentence in one of them."""
    return [*rows[:index], person(index, year=1910), *rows[index + 1 :]]


REVISIONS = {"insert": inserted, "remove": removed, "change": changed}


@dataclass
class AskedRun:
    """A run whose generator is a server that logs what it is asked."""

    root: Path
    url: str
    log: Path

    @property
    def corpus(self) -> Path:
        return self.root / "people.jsonl"

    @property
    def run(self) -> Path:
        return self.root / "run"

    def write(self, rows: Sequence[dict]) -> None:
        """Bring the corpus to another state."""
        write_jsonl(self.corpus, rows)

    def arguments(self, *overrides: str) -> list[str]:
        """``memo-dist synthesize``, of all steps."""
        return [
            "synthesize",
            str(self.corpus),
            f"--run={self.run}",
            "generator.kind=openai",
            "generator.model=toy",
            f"generator.urls=[{self.url}]",
            f"synthesis.steps=[{', '.join(STEPS)}]",
            "synthesis.phrasings=2",
            "synthesis.coverage_rounds=0",
            *overrides,
        ]

    def asked(self) -> list[str]:
        """Keys of the requests that the server received, one for each attempt."""
        if not self.log.exists():
            return []
        rows = [json.loads(line) for line in self.log.read_text().splitlines()]
        return [row["key"] for row in rows if row["event"] == "received"]
