"""The files of a comparison: JSON and CSV for machines, pictures and a report for people."""

from __future__ import annotations

import csv
import io
import platform
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from markupsafe import Markup

from memo_dist.compare.comparing import QUESTIONS_PER_DAY, Result
from memo_dist.compare.judge import Judgement
from memo_dist.compare.plots import PICTURES, write_plots
from memo_dist.compare.text import break_text, findings, judge_lines, number, p_text, sure
from memo_dist.evaluation.pages import render_page
from memo_dist.evaluation.scoring import by_type
from memo_dist.evaluation.statistics import wilson_interval
from memo_dist.evaluation.table import percent, right_fraction
from memo_dist.io import atomic
from memo_dist.io.hashing import hash_value

SCHEMA_VERSION = 1
_PACKAGES = ("memo-dist", "torch", "transformers", "bm25s", "sentence-transformers", "model2vec")


def write_comparison(result: Result) -> Path:
    """Write everything, the report last; returns its path."""
    folder = result.plan.run.compare(result.plan.name)
    lines = [
        verdict.to_json(method)
        for method, answered in result.answered.items()
        for verdict in answered.verdicts
    ]
    atomic.write_jsonl(folder / "results.jsonl", lines)
    atomic.write_text(folder / "rows.csv", _csv(result))
    atomic.write_json(folder / "comparison.json", as_json(result))
    drawn = write_plots(result, folder) if find_spec("matplotlib") else []
    report = folder / "report.html"
    atomic.write_text(report, _page(result, folder, drawn))
    return report


def as_json(result: Result) -> dict[str, Any]:
    """The comparison as JSON values."""
    plan = result.plan
    return {
        "schema_version": SCHEMA_VERSION,
        "questions": {
            "n": len(plan.questions),
            "sha256": hash_value([asdict(question) for question in plan.questions]),
        },
        "reader": {"name": plan.reader.label, "identity": plan.reader.identity},
        "currency": result.currency,
        "reference": result.reference,
        "rows": [asdict(row) for row in result.rows],
        "types": types(result),
        "pairs": [{**asdict(p.comparison), "p_holm": p.p_holm} for p in result.pairs],
        "break_even": [asdict(one) for one in result.breaks],
        "questions_per_day": QUESTIONS_PER_DAY,
        "judge": _judge(result.judgement),
        "no_judgement": result.no_judgement,
        "versions": versions(),
        "machine": machine(),
        "config": {
            "evaluate": asdict(plan.config.evaluate),
            "compare": asdict(plan.config.compare),
            "run.seed": plan.config.run.seed,
            "memory.max_answer_tokens": plan.config.memory.max_answer_tokens,
        },
    }


def _judge(judgement: Judgement | None) -> dict[str, Any] | None:
    if judgement is None:
        return None
    planted = {"false_accepts": judgement.false_accepts, "true_accepts": judgement.true_accepts}
    shares = {**{f"method {n}": s for n, s in judgement.methods.items()}, **planted}
    return {
        "model": judgement.model,
        **{n: {**asdict(s), "value": s.value, "ci95": s.interval} for n, s in shares.items()},
    }


def types(result: Result) -> dict[str, dict[str, dict[str, float | int]]]:
    """By question type and method: n, fraction right, 95 % Wilson interval."""
    table: dict[str, dict[str, dict[str, float | int]]] = {}
    for method, answered in result.answered.items():
        for name, verdicts in by_type(answered.verdicts).items():
            right = sum(v.right for v in verdicts)
            low, high = wilson_interval(right, len(verdicts))
            cell = {"n": len(verdicts), "right": right_fraction(verdicts) or 0.0}
            table.setdefault(name, {})[method] = {**cell, "low": low, "high": high}
    return table


def versions() -> dict[str, str]:
    """Of the packages that decide the figures."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def machine() -> dict[str, Any]:
    """The machine, in figures."""
    import os

    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    return {
        "system": platform.platform(),
        "processor": _processor(),
        "threads": len(os.sched_getaffinity(0)),
        "torch threads": torch.get_num_threads(),
        "gpu": gpu,
    }


def _processor() -> str:
    file = Path("/proc/cpuinfo")
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    named = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.machine())


def _csv(result: Result) -> str:
    """One line a method; nested values are left to the JSON file."""
    buffer = io.StringIO()
    nested = ("prepare", "forgetting")
    flat = [{k: v for k, v in asdict(row).items() if k not in nested} for row in result.rows]
    writer = csv.DictWriter(buffer, [*flat[0], "prepare_seconds", "trained_tokens"])
    writer.writeheader()
    for row, values in zip(result.rows, flat, strict=True):
        cost = row.prepare
        more = {
            "prepare_seconds": cost.seconds if cost else None,
            "trained_tokens": cost.trained_tokens if cost else None,
        }
        writer.writerow({key: _safe(value) for key, value in {**values, **more}.items()})
    return buffer.getvalue()


def _safe(value: Any) -> Any:
    """A text that a spreadsheet does not take for a formula."""
    return f"'{value}" if isinstance(value, str) and value[:1] in "=+-@" and value else value


def _page(result: Result, folder: Path, drawn: list[str]) -> str:
    pictures = [(name, PICTURES[name], _inline(folder / f"{name}.svg")) for name in drawn]
    return render_page(
        "compare.html.j2",
        "memo_dist.compare",
        result=result,
        findings=findings(result),
        types=_type_rows(result),
        pictures=pictures,
        sure=sure,
        number=number,
        p_text=p_text,
        judged=judge_lines(result),
        breaks=[break_text(one, result.currency) for one in result.breaks],
        machine=machine(),
        versions=versions(),
        per_day=QUESTIONS_PER_DAY,
    )


def _inline(path: Path) -> Markup:
    """A picture of our own inside the page, without the head that only a file of its own has."""
    text = path.read_text(encoding="utf-8")
    return Markup(text[text.index("<svg") :])  # noqa: S704


def _type_rows(result: Result) -> list[tuple[str, int, list[str]]]:
    """(type, n, right by method); none where there is one type only."""
    table = types(result)
    if len(table) < 2:
        return []
    methods = [row.method for row in result.rows if row.n]
    return [
        (name, max(int(cell["n"]) for cell in cells.values()), _type_cells(cells, methods))
        for name, cells in sorted(table.items())
    ]


def _type_cells(cells: Mapping[str, Mapping[str, float | int]], methods: list[str]) -> list[str]:
    return [percent(cells[name]["right"]) if name in cells else "-" for name in methods]
