"""``memo-dist ask RUN QUESTION``: the memory's answer, its confidence and its sources."""

from __future__ import annotations

import json
import time
from pathlib import Path

import click

from memo_dist.cli.options import config_options, resolve, run_argument
from memo_dist.errors import UsageError
from memo_dist.memory.types import Answer
from memo_dist.observability.logs import quiet_libraries
from memo_dist.runs import existing_run


@click.command("ask")
@run_argument
@click.argument("question")
@click.option("--mode", type=click.Choice(["direct"]), default="direct", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="One JSON object for machines.")
@config_options
def command(  # noqa: PLR0913
    run_folder: Path,
    question: str,
    mode: str,
    as_json: bool,
    config_files: tuple[Path, ...],
    overrides: tuple[str, ...],
) -> None:
    """Ask the memory of RUN one QUESTION."""
    if not question.strip():
        raise UsageError("the question is empty")
    run, _ = existing_run(run_folder)
    config = resolve(config_files, overrides, run_folder)
    quiet_libraries()
    from memo_dist.memory.bank import Bank

    bank = Bank.load(
        run.memory,
        run.reflections,
        config.memory.max_answer_tokens,
        loaded_gb=config.memory.loaded_gb,
    )
    started = time.monotonic()
    (answer,) = bank.answer([question])
    seconds = time.monotonic() - started
    click.echo(as_json_text(answer, mode, seconds) if as_json else as_text(answer))


def as_json_text(answer: Answer, mode: str, seconds: float) -> str:
    """The machine-readable answer (design: ``ask --json``)."""
    return json.dumps(
        {
            "answer": answer.text,
            "confidence": round(answer.confidence, 4),
            "abstained": answer.abstained,
            "sources": list(answer.sources),
            "mode": mode,
            "shards": list(answer.shards),
            "seconds": round(seconds, 3),
        },
        ensure_ascii=False,
    )


def as_text(answer: Answer) -> str:
    """The answer for people."""
    if answer.abstained:
        return f"I don't know. (confidence {answer.confidence:.0%})"
    sources = ", ".join(answer.sources) or "none found"
    return f"{answer.text}\n(confidence {answer.confidence:.0%}; sources: {sources})"
