"""What the report tells of the stages before the evaluation; a missing stage gives None."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from memo_dist.evaluation.charts import COLOURS, Series, line_chart
from memo_dist.io import atomic
from memo_dist.io.runfolder import RunFolder
from memo_dist.observability.status import read_status
from memo_dist.stages.records import CORPUS, TRAIN
from memo_dist.stages.state import done_parts, is_done, status_folders
from memo_dist.synthesis.coverage_report import CoverageSummary, coverage_summary

MAX_POINTS = 300
_FEWEST_SHOWN = 10
_REASONS_SHOWN = 12


@dataclass(frozen=True, slots=True)
class CorpusSection:
    """The corpus: its manifest's counts, and the title of every document by id."""

    counts: Mapping[str, Any]
    titles: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class SynthesisSection:
    """The reflections.

    Attributes:
        by_kind: accepted reflections by kind, most first.
        rejected: candidates in quarantine by reason, most first.
        hidden_reasons: further reasons that ``rejected`` leaves out.
        by_document: accepted reflections by document id, every document included.
        fewest: (title, reflections) of the documents with the fewest.
        without: documents without any reflection.
        coverage: sentences that the reflections cover, and where they do not.
    """

    total: int
    by_kind: list[tuple[str, int]]
    rejected_total: int
    rejected: list[tuple[str, int]]
    hidden_reasons: int
    by_document: Mapping[str, int]
    fewest: list[tuple[str, int]]
    without: int
    coverage: CoverageSummary | None


@dataclass(frozen=True, slots=True)
class ShardTraining:
    """One shard's training; the losses are nats per trained token."""

    name: str
    state: str
    steps: int
    first_loss: float
    last_loss: float
    trained_tokens: int
    tokens_per_second: float
    seconds: float


@dataclass(frozen=True, slots=True)
class TrainingSection:
    """All shards' training, and their loss curves in one chart."""

    shards: list[ShardTraining]
    chart: Markup
    legend: list[str]


def corpus_section(run: RunFolder) -> CorpusSection | None:
    """The corpus stage, or None where it has not finished."""
    if not is_done(run, CORPUS):
        return None
    (manifest,) = done_parts(run, CORPUS)
    rows = _rows(run.corpus / "documents.jsonl")
    titles = {str(row["id"]): str(row.get("title") or row["id"]) for row in rows}
    return CorpusSection(atomic.read_json(manifest), titles)


def synthesis_section(run: RunFolder, titles: Mapping[str, str]) -> SynthesisSection | None:
    """The accepted and rejected reflections, or None where there are none yet."""
    if not run.reflections.exists():
        return None
    kinds: Counter[str] = Counter()
    documents: Counter[str] = Counter(dict.fromkeys(titles, 0))
    for row in atomic.read_jsonl(run.reflections):
        kinds[row["kind"]] += 1
        documents.update(set(row["sources"]))
    reasons = _rejected(run)
    fewest = sorted(documents.items(), key=lambda item: (item[1], item[0]))
    return SynthesisSection(
        total=kinds.total(),
        by_kind=kinds.most_common(),
        rejected_total=reasons.total(),
        rejected=reasons.most_common(_REASONS_SHOWN),
        hidden_reasons=max(0, len(reasons) - _REASONS_SHOWN),
        by_document=documents,
        fewest=[(titles.get(name, name), n) for name, n in fewest[:_FEWEST_SHOWN]],
        without=sum(1 for count in documents.values() if count == 0),
        coverage=_coverage(run),
    )


def _coverage(run: RunFolder) -> CoverageSummary | None:
    """None where the corpus is not whole."""
    return coverage_summary(run) if is_done(run, CORPUS) else None


def _rejected(run: RunFolder) -> Counter[str]:
    """Quarantined candidates by the first line of their reason, over all steps and cleaning."""
    paths = [*sorted(run.synth.glob("*/quarantine/*.jsonl")), run.synth / "quarantine.jsonl"]
    reasons = (str(row.get("reason", "")) for path in paths for row in _rows(path))
    return Counter((reason.splitlines() or ["(no reason)"])[0][:80] for reason in reasons)


def training_section(run: RunFolder) -> TrainingSection | None:
    """The training of every shard that has taken a step, or None where none has."""
    curves: list[Series] = []
    shards: list[ShardTraining] = []
    for folder in status_folders(run, TRAIN):
        # A resumed training repeats steps: the last row of a step is the one that counts.
        steps = {int(row["step"]): row for row in _rows(folder / "metrics.jsonl") if "loss" in row}
        if steps:
            rows = [steps[step] for step in sorted(steps)]
            points = [(float(row["step"]), float(row["loss"])) for row in rows]
            curves.append(Series(folder.name, downsample(points, MAX_POINTS)))
            shards.append(_shard(folder, rows))
    if not curves:
        return None
    legend = [curve.name for curve in curves] if 1 < len(curves) <= COLOURS else []
    chart = line_chart(curves, "optimizer step", "loss (nats per trained token)")
    return TrainingSection(shards, chart, legend)


def _shard(folder: Path, rows: Sequence[Mapping[str, Any]]) -> ShardTraining:
    status = read_status(folder) or {}
    tail = rows[-max(1, len(rows) // 10) :]
    return ShardTraining(
        name=folder.name,
        state=str(status.get("state", "unknown")),
        steps=int(rows[-1]["step"]),
        first_loss=float(rows[0]["loss"]),
        last_loss=sum(float(row["loss"]) for row in tail) / len(tail),
        trained_tokens=int(rows[-1].get("trained_tokens", 0)),
        tokens_per_second=float(rows[-1].get("tokens_per_second", 0.0)),
        seconds=float(rows[-1].get("seconds", 0.0)),
    )


def downsample(points: Sequence[tuple[float, float]], most: int) -> list[tuple[float, float]]:
    """At most ``most`` points: means over equal runs of neighbours."""
    if len(points) <= most:
        return list(points)
    edges = [len(points) * index // most for index in range(most + 1)]
    runs = [points[low:high] for low, high in itertools.pairwise(edges)]
    return [(sum(x for x, _ in r) / len(r), sum(y for _, y in r) / len(r)) for r in runs]


def _rows(path: Path) -> list[dict[str, Any]]:
    """The whole rows of a file that may be missing, or that a stage may be writing just now."""
    if not path.exists():
        return []
    rows = []
    for line in path.read_bytes().splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            rows.append(row)
    return rows
