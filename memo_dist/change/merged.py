"""The record of a merged bank: what it was made of, and what that cost in recall."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from memo_dist.errors import UsageError
from memo_dist.io import atomic
from memo_dist.io.runfolder import RunFolder

FILE = "merge.json"
SCHEMA_VERSION = 1
UNION = "union"
_SHOWN = 5
Recall = Mapping[str, tuple[int, int]]
"""{document: (questions answered rightly, questions asked)}."""


@dataclass(frozen=True)
class Merged:
    """How banks were merged.

    Attributes:
        method: ``union``, or the method by which weights were merged.
        runs: names of the run folders.
        weights: hashes of the shards' weights before, by run.
        shards: of the result.
        asked: questions about what the banks were taught.
        equal: how many of them the union answers as the question's own bank does.
        union: recall of the union of the shards.
        recall: of the result; of a union the same.
        withheld: ids of older revisions of documents, which the result does not answer from.
    """

    method: str
    runs: Sequence[str]
    weights: Sequence[Sequence[str]]
    shards: int
    asked: int = 0
    equal: int = 0
    union: Recall = field(default_factory=dict)
    recall: Recall = field(default_factory=dict)
    withheld: Sequence[str] = ()

    def save(self, memory: Path) -> None:
        """Write the record beside the bank."""
        atomic.write_json(memory / FILE, {"schema_version": SCHEMA_VERSION, **asdict(self)})

    def lines(self) -> Iterator[str]:
        """For people."""
        before = sum(map(len, self.weights))
        yield f"{before} shards of {len(self.runs)} runs, {self.method}: {self.shards} shards"
        if self.withheld:
            yield f"withheld, an older revision: {', '.join(self.withheld)}"
        if not self.asked:
            return
        yield f"{self.equal} of {self.asked} taught questions: the union answers as their own bank"
        yield f"recall of the union {_share(self.union)}"
        if self.method == UNION:
            return
        loss = 100 * (_rate(self.union) - _rate(self.recall))
        yield f"recall after {self.method} {_share(self.recall)}: {loss:.1f} points lost"
        worst = sorted(self.recall, key=lambda name: self._gain(name))[:_SHOWN]
        for name in worst:
            (now, n), (then, _) = self.recall[name], self.union[name]
            yield f"  {name}: {now} of {n}, union {then}"

    def _gain(self, name: str) -> float:
        (now, n), (then, _) = self.recall[name], self.union[name]
        return (now - then) / n


def _rate(recall: Recall) -> float:
    asked = sum(n for _, n in recall.values())
    return sum(right for right, _ in recall.values()) / asked if asked else 0.0


def _share(recall: Recall) -> str:
    right, asked = (sum(part) for part in zip(*recall.values(), strict=True))
    return f"{right} of {asked} ({_rate(recall):.1%}), {len(recall)} documents"


def refuse_merged(run: RunFolder) -> None:
    """Refuse to change a merged bank: its run has no corpus, reflections or trainings.

    Raises:
        UsageError: names the runs that can be changed.
    """
    path = run.memory / FILE
    if not path.exists():
        return
    values: dict[str, Any] = atomic.read_json(path)
    raise UsageError(
        f"{run.root} holds a merged memory and no corpus: change {', '.join(values['runs'])}"
        " and run `memo-dist merge` again, which trains nothing"
    )
