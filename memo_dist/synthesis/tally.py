"""What the driver counts of a step, from the journals that its workers write."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

from memo_dist.config.model_schema import GeneratorConfig
from memo_dist.config.steps import StepName
from memo_dist.io.checked_lines import LineTail
from memo_dist.io.runfolder import RunFolder
from memo_dist.llm.spending import Spending, has_prices
from memo_dist.synthesis.journal import JournalTail, Record
from memo_dist.synthesis.worker import journal_path, requests_path, store_path


class Tally:
    """Counts over the latest record of each of some units; others are of earlier revisions."""

    def __init__(
        self, run: RunFolder, step: StepName, partitions: int, units: Collection[str]
    ) -> None:
        paths = [journal_path(run, step, index) for index in range(partitions)]
        self._tails = [JournalTail(path) for path in paths]
        self._units = frozenset(units)
        self._records: dict[str, tuple[int, int, str]] = {}
        self._reflections = 0
        self._rejected = 0

    def __contains__(self, unit: str) -> bool:
        return unit in self._records

    def read(self, partitions: Iterable[int]) -> None:
        """Count what was journaled in some partitions since they were read last."""
        for index in partitions:
            for record in self._tails[index].new_records():
                if record.unit in self._units:
                    self._add(record)

    @property
    def units(self) -> int:
        """Units that are done, failed ones included."""
        return len(self._records)

    @property
    def failures(self) -> list[str]:
        """The exceptions of the failed units."""
        return [failure for _, _, failure in self._records.values() if failure]

    def numbers(self) -> dict[str, int]:
        """The numbers to show."""
        return {
            "reflections": self._reflections,
            "rejected": self._rejected,
            "failed": len(self.failures),
        }

    def forget_failed(self) -> None:
        """Take out the failed units: a new launch tries them again."""
        for unit in [unit for unit, row in self._records.items() if row[2]]:
            self._remove(unit)

    def _add(self, record: Record) -> None:
        """Count a record instead of the unit's earlier one, if any."""
        self._remove(record.unit)
        failure = record.rejected[0]["reason"] if record.failed else ""
        row = len(record.reflections), 0 if failure else len(record.rejected), failure
        self._records[record.unit] = row
        self._reflections += row[0]
        self._rejected += row[1]

    def _remove(self, unit: str) -> None:
        reflections, rejected, _ = self._records.pop(unit, (0, 0, ""))
        self._reflections -= reflections
        self._rejected -= rejected


class RequestTally:
    """Tokens, money and failures of a step's requests, those of earlier launches included.

    Requests of earlier revisions of the corpus count as spent; their failures end nothing.
    """

    def __init__(self, run: RunFolder, step: StepName, partitions: int, before: Spending) -> None:
        self._tails = [LineTail(requests_path(run, step, index)) for index in range(partitions)]
        self._before = before
        self._closed = _closed_spending(run, step)
        self.step = Spending()
        self.first_failure = ""

    def read(self, partitions: Iterable[int]) -> None:
        """Count what was journaled in some partitions since they were read last."""
        for index in partitions:
            for row in self._tails[index].new_rows():
                self.step.add_row(row)
                if row["final"] and row["outcome"] != "ok" and not self.first_failure:
                    self.first_failure = row["reason"]

    @property
    def spent(self) -> Spending:
        """Of all steps up to now."""
        return self._before.plus(self.whole_step)

    @property
    def whole_step(self) -> Spending:
        """Of this step, earlier revisions included."""
        return self._closed.plus(self.step)

    def numbers(self, prices: GeneratorConfig, fraction: float) -> dict[str, float | int]:
        """The numbers to show; ``fraction`` of the step's units are done."""
        spent = self.spent
        numbers: dict[str, float | int] = {
            "requests": self.step.requests,
            "failed_requests": self.step.failed,
            "tokens": spent.tokens,
        }
        if has_prices(prices):
            numbers["spent"] = round(spent.money(prices), 6)
            if fraction:
                step = self.step.money(prices) / fraction
                before = self._before.plus(self._closed)
                numbers["projected"] = round(before.money(prices) + step, 6)
        return numbers


def step_spending(run: RunFolder, step: StepName, partitions: int) -> Spending:
    """What a step has cost, from its request journals."""
    tally = RequestTally(run, step, partitions, Spending())
    tally.read(range(partitions))
    return tally.whole_step


def _closed_spending(run: RunFolder, step: StepName) -> Spending:
    """What earlier revisions of the corpus have cost in a step."""
    spent = Spending()
    for row in LineTail(store_path(run, step)).new_rows():
        spent.add_row(row)
    return spent


def spending_row(spent: Spending, prices: GeneratorConfig) -> dict[str, Any]:
    """One entry of ``synth/cost.json``."""
    row = {name: getattr(spent, name) for name in Spending.__slots__}
    return {**row, "money": round(spent.money(prices), 6)} if has_prices(prices) else row
