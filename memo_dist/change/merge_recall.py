"""What banks recall of the questions that they were taught, by document."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from memo_dist.answers.answer import Answer
from memo_dist.answers.text import contains
from memo_dist.change.merged import Recall
from memo_dist.config.schema import Config
from memo_dist.io.hashing import stable_modulo
from memo_dist.io.runfolder import RunFolder
from memo_dist.memory.bank import Bank
from memo_dist.synthesis.types import Reflection

_BUCKETS = 1 << 32
_BATCH = 32


def taught_questions(reflections: Iterable[Reflection], count: int) -> list[Reflection]:
    """A fixed sample of ``count`` taught questions of each document."""
    by_document: dict[str, list[Reflection]] = {}
    for row in reflections:
        if row.sources and row.kind != "abstain":
            by_document.setdefault(row.sources[0], []).append(row)
    ordered = (sorted(rows, key=_order) for _, rows in sorted(by_document.items()))
    return [row for rows in ordered for row in rows[:count]]


def _order(row: Reflection) -> int:
    return stable_modulo(f"merge:{row.id}", _BUCKETS)


def ask(run: RunFolder, config: Config, rows: Sequence[Reflection]) -> list[Answer]:
    """What the bank of a run answers to the questions of reflections."""
    bank = Bank.of_run(run, config)
    return bank.answer([row.question for row in rows], _BATCH)


def document_recall(rows: Sequence[Reflection], texts: Sequence[str]) -> Recall:
    """By document. What a memory wrote counts, also below the threshold of its confidence."""
    found: dict[str, tuple[int, int]] = {}
    for row, text in zip(rows, texts, strict=True):
        right, asked = found.get(row.sources[0], (0, 0))
        found[row.sources[0]] = right + int(contains(text, [row.answer])), asked + 1
    return found
