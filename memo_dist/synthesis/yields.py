"""What a synthesis yielded too little of, by name and with what to do.

Nothing at all, or nothing for a shard of the bank, is an error: there would be nothing to train.
A document or a language without reflections is told; the others go on.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from memo_dist.errors import RunError
from memo_dist.io.runfolder import RunFolder
from memo_dist.synthesis.failed_requests import FAILED_REQUEST
from memo_dist.synthesis.plan import Plan
from memo_dist.synthesis.rules.collect import FAILED_DOCUMENT, REFUSED_LANGUAGE

_SHOWN = 8
"""Names in a message; the manifest and the quarantine files have all."""
_MAX_QUOTE = 400
_FEW_A_THOUSAND_WORDS = 1.0


@dataclass(slots=True)
class Rejections:
    """Counts of the quarantine rows of all steps, and what a message needs of them.

    Attributes:
        counts: by reason, up to its first colon.
        quotes: the first full reason of each.
        documents: for reasons that cost whole documents, their ids.
    """

    counts: Counter[str] = field(default_factory=Counter)
    quotes: dict[str, str] = field(default_factory=dict)
    documents: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))

    def add(self, row: Mapping[str, Any]) -> None:
        """Count one row of a quarantine file."""
        reason = str(row["reason"])
        short = reason.partition(":")[0]
        self.counts[short] += 1
        self.quotes.setdefault(short, reason)
        if short in {FAILED_DOCUMENT, REFUSED_LANGUAGE}:
            self.documents[short].update(row["sources"])


def check_yield(run: RunFolder, plan: Plan, facts: Mapping[int, int], lost: Rejections) -> None:
    """Refuse a synthesis without facts, or with a shard that has documents and no fact.

    Args:
        run, plan: of the synthesis.
        facts: kept reflections of each shard that are no abstentions.
        lost: what the steps rejected.

    Raises:
        RunError: names the shards and the most frequent reasons, and says what to do.
    """
    names: dict[int, list[str]] = defaultdict(list)
    for unit in plan.units:
        names[unit.shard] += [name for name, _ in unit.documents]
    empty = sorted(
        shard for shard, documents in names.items() if documents and not facts.get(shard)
    )
    if not empty:
        return
    if len(empty) == len(names):
        count = sum(map(len, names.values()))
        what = f"no reflections: none of the {count} documents yielded a fact"
    else:
        shards = "; ".join(f"shard {shard} ({_listed(names[shard])})" for shard in empty[:_SHOWN])
        what = f"no reflections for {len(empty)} of {len(names)} shards: {shards}"
    raise RunError(f"{what}\n{_why(run, lost)}")


def notes(documents: Mapping[str, int], lost: Rejections, words: int) -> list[str]:
    """Sentences for people on what yielded nothing or little, each with what to do.

    Args:
        documents: reflections of each document.
        lost: what the steps rejected.
        words: of all documents.
    """
    return list(_notes(documents, lost, words))


def _notes(documents: Mapping[str, int], lost: Rejections, words: int) -> Iterator[str]:
    failed = lost.documents.get(FAILED_DOCUMENT, set())
    if failed:
        yield (
            f"documents on which the generator failed ({len(failed)} of {len(documents)}):"
            f" {_listed(failed)}; the first: {_quote(lost.quotes[FAILED_DOCUMENT])}. This is a"
            " fault of memo-dist: please report it with the sentence"
        )
    foreign = lost.documents.get(REFUSED_LANGUAGE, set())
    if foreign:
        yield (
            f"documents that are not English yield nothing ({len(foreign)} of {len(documents)}):"
            f" {_listed(foreign)}; generator.kind=rules reads English only, a language model reads"
            " other languages"
        )
    silent = {name for name, count in documents.items() if not count} - failed - foreign
    if silent:
        yield (
            f"documents without a reflection ({len(silent)} of {len(documents)}):"
            f" {_listed(silent)}; synth/*/quarantine has the reasons"
        )
    made = sum(documents.values())
    if made and made * 1000 < words * _FEW_A_THOUSAND_WORDS:
        yield (
            f"few reflections: {made} from {words} words. The generator can use little of this"
            " text; a language model finds more (generator.kind=openai, anthropic, transformers or"
            " recorded)"
        )


def _why(run: RunFolder, lost: Rejections) -> str:
    """The most frequent reasons with the first of each, and what to do."""
    lines = [
        f"  {count} x {_quote(lost.quotes[short])}" for short, count in lost.counts.most_common(3)
    ]
    if lost.counts[FAILED_REQUEST]:
        lines.append(
            "mend the server, or the keys of generator.* that it refuses, and run the same command:"
            " the failed requests are asked again"
        )
    elif lost.counts[REFUSED_LANGUAGE]:
        lines.append("generator.kind=rules reads English only: use a language model as generator")
    else:
        lines.append(
            "another generator (generator.kind) may read these documents, and fewer shards"
            " (corpus.shards) have more documents each"
        )
    return "\n".join([*lines, f"all reasons are in {run.synth}/*/quarantine"])


def _quote(reason: str) -> str:
    return reason if len(reason) <= _MAX_QUOTE else f"{reason[:_MAX_QUOTE]} ..."


def _listed(names: Iterable[str]) -> str:
    ordered = sorted(names)
    more = f" and {len(ordered) - _SHOWN} more" if len(ordered) > _SHOWN else ""
    return ", ".join(ordered[:_SHOWN]) + more
