"""The data set card of a synthesis: what the reflections are, from what, by what, how many."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from memo_dist.synthesis.plan import Plan
from memo_dist.synthesis.types import KINDS, Reflection

SAMPLES_A_KIND = 2


def card_text(plan: Plan, summary: Mapping[str, Any], reflections: Sequence[Reflection]) -> str:
    """Markdown with the front matter of a Hugging Face data set card.

    Args:
        plan: settings, generator and its limits.
        summary: fields of :class:`memo_dist.synthesis.finish.SynthesisSummary`.
        reflections: the kept ones, sorted by id; the first of each kind serve as samples.
    """
    documents, without = len(summary["documents"]), len(summary["without_reflections"])
    lines = [
        "---",
        "task_categories: [question-answering]",
        "tags: [memo-dist, synthetic]",
        "configs:",
        # A name of its own: datasets keys its cache by the folder's name and this, not by rows.
        f"- config_name: reflections-{summary['fingerprint'][:16]}",
        "  data_files:",
        "  - split: train",
        "    path: data/*.parquet",
        "---",
        "# Reflections of a corpus",
        "",
        f"{summary['reflections']} question-answer pairs from {documents} documents; "
        f"{without} documents have none.",
        "",
        f"- Corpus fingerprint: `{plan.settings['fingerprint of the corpus']}`, "
        f"{plan.settings['corpus.shards']} shards",
        f"- Reflections (SHA-256): `{summary['fingerprint']}`",
        f"- Generator: {plan.generator}{_recorded(plan)}",
        f"- Plan: `{plan.hash}`",
    ]
    lines += _section("What the generator cannot do", [f"- {limit}" for limit in plan.limits])
    lines += _section("Reflections by kind", _table("kind", summary["by_kind"]))
    lines += _section("Reflections by step", _table("step", summary["by_step"]))
    lines += _section("Rejected by the generator", _table("reason", summary["rejected"]))
    lines += _section("Dropped by cleaning", _table("reason", summary["dropped"]))
    lines += _section("Samples", _samples(reflections))
    return "\n".join(lines) + "\n"


def _recorded(plan: Plan) -> str:
    replies = plan.settings["generator.kind"] == "recorded"
    return " (recorded replies of this language model)" if replies else ""


def _section(title: str, body: Sequence[str]) -> list[str]:
    return ["", f"## {title}", "", *(body or ["None."])]


def _table(label: str, counts: Mapping[str, int]) -> list[str]:
    if not counts:
        return []
    rows = [f"| {_cell(key)} | {counts[key]} |" for key in sorted(counts)]
    return [f"| {label} | count |", "|---|---:|", *rows]


def _samples(reflections: Sequence[Reflection]) -> list[str]:
    rows = []
    for kind in KINDS:
        chosen = [row for row in reflections if row.kind == kind][:SAMPLES_A_KIND]
        rows += [f"| {kind} | {_cell(row.question)} | {_cell(row.answer)} |" for row in chosen]
    return ["| kind | question | answer |", "|---|---|---|", *rows] if rows else []


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())
