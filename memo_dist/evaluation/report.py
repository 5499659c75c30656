"""``report.html``: the whole run on one page that needs no network and no script."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from memo_dist.evaluation.mistakes import CAUSES
from memo_dist.evaluation.pages import render_page
from memo_dist.evaluation.report_scores import (
    METRIC_NAMES,
    EvaluationSection,
    evaluation_section,
)
from memo_dist.evaluation.report_stages import (
    CorpusSection,
    SynthesisSection,
    TrainingSection,
    corpus_section,
    synthesis_section,
    training_section,
)
from memo_dist.evaluation.results import load_evaluations
from memo_dist.evaluation.table import percent
from memo_dist.io import atomic
from memo_dist.io.runfolder import RunFolder
from memo_dist.observability.progress import duration
from memo_dist.observability.redact import redact

_TEMPLATE = "report.html.j2"
_LAUNCH_FIELDS = {
    "argv": "Last command",
    "time": "Started",
    "versions": "Versions",
    "git": "Commit",
    "hardware": "Hardware",
}
"""What the report takes from ``run.json``; anything else (an environment, say) stays out."""


@dataclass(frozen=True, slots=True)
class Report:
    """All that the template shows; a section is None where its stage has not run.

    Attributes:
        name: the run folder's name.
        headline: the result in a sentence; empty without an evaluation.
        facts: (name, value) pairs of what was run.
        config: the resolved configuration as YAML text, secrets hidden; empty if missing.
    """

    name: str
    headline: str
    facts: list[tuple[str, str]]
    corpus: CorpusSection | None
    synthesis: SynthesisSection | None
    training: TrainingSection | None
    evaluations: list[EvaluationSection]
    config: str


def write_report(run: RunFolder) -> Path:
    """Write ``RUN/report.html`` from whatever stages the run has; returns its path.

    The same run folder gives the same bytes. Titles, questions and answers are escaped.

    Raises:
        OSError: the run folder cannot be written.
    """
    atomic.write_text(run.report, render(collect(run)))
    return run.report


def collect(run: RunFolder) -> Report:
    """Gather what the stages left in the run folder."""
    corpus = corpus_section(run)
    titles = corpus.titles if corpus else {}
    synthesis = synthesis_section(run, titles)
    training = training_section(run)
    counts = synthesis.by_document if synthesis else None
    evaluations = [evaluation_section(e, titles, counts) for e in load_evaluations(run)]
    return Report(
        name=run.root.resolve().name,
        headline=_headline(evaluations[0]) if evaluations else "",
        facts=_facts(run, training),
        corpus=corpus,
        synthesis=synthesis,
        training=training,
        evaluations=evaluations,
        config=redact(run.config.read_text(encoding="utf-8")) if run.config.exists() else "",
    )


def render(report: Report) -> str:
    """The report as one HTML page."""
    return render_page(
        _TEMPLATE, "memo_dist.evaluation", report=report, columns=METRIC_NAMES, causes=CAUSES
    )


def _headline(section: EvaluationSection) -> str:
    memory = section.scores[section.memory]
    parts = []
    if memory.contains is not None:
        others = [
            f"{name} {percent(entry.contains)} %"
            for name, entry in section.scores.items()
            if name != section.memory and entry.contains is not None
        ]
        beside = f" ({', '.join(others)})" if others else ""
        parts.append(
            f"answers {percent(memory.contains)} % of {memory.n_answerable} answerable"
            f" questions{beside}"
        )
    if memory.abstain_recall is not None:
        unanswerable = memory.n - memory.n_answerable
        parts.append(
            f"abstains on {percent(memory.abstain_recall)} % of {unanswerable} unanswerable ones"
        )
    return f"The memory ({section.memory}) {' and '.join(parts)}."


def _facts(run: RunFolder, training: TrainingSection | None) -> list[tuple[str, str]]:
    bank = _json(run.memory / "bank.json")
    facts = [
        ("Reflections by", _generator(run)),
        ("Base model", str(bank.get("base", {}).get("id", ""))),
        ("Bank", _bank(bank)),
        ("Training time", duration(sum(s.seconds for s in training.shards)) if training else ""),
    ]
    launch = _last_launch(run.run_json)
    facts += [(label, _plain(launch.get(field))) for field, label in _LAUNCH_FIELDS.items()]
    return [(name, redact(value)) for name, value in facts if value]


def _generator(run: RunFolder) -> str:
    """Who wrote the reflections; empty where there are none."""
    settings = _json(run.synth / "manifest.json").get("settings", {})
    recorded = settings.get("generator.kind") == "recorded"
    replies = " (recorded replies of this language model)" if recorded else ""
    return f"{settings.get('generator', '')}{replies}"


def _bank(bank: Mapping[str, Any]) -> str:
    shards = bank.get("shards", [])
    if not shards:
        return ""
    documents = sum(len(shard.get("documents", [])) for shard in shards)
    noun = "shard" if len(shards) == 1 else "shards"
    return f"{len(shards)} {noun} over {documents:,} documents"


def _last_launch(path: Path) -> Mapping[str, Any]:
    """The newest launch in ``run.json``, empty where there is none."""
    launches = _json(path).get("launches") or [{}]
    newest: Mapping[str, Any] = launches[-1]
    return newest


def _json(path: Path) -> Mapping[str, Any]:
    """An object from a file; empty where the file is missing."""
    value: Mapping[str, Any] = atomic.read_json(path) if path.exists() else {}
    return value


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(_pair(key, item) for key, item in value.items() if item)
    if isinstance(value, list):
        return " ".join(_plain(item) for item in value)
    return "" if value is None else str(value)


def _pair(key: str, value: Any) -> str:
    if key.endswith("_bytes") and isinstance(value, int):
        return f"{key.removesuffix('_bytes')} {value / 2**30:.1f} GiB"
    return f"{key} {_plain(value)}"
