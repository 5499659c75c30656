"""``memo-dist ask RUN QUESTION``: an answer, its confidence and its sources."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from memo_dist.cli.options import config_options, resolve, run_argument
from memo_dist.config.schema import Config
from memo_dist.errors import UsageError
from memo_dist.io.hashing import short_hash
from memo_dist.io.runfolder import RunFolder
from memo_dist.memory.types import Answer
from memo_dist.observability.logs import quiet_libraries
from memo_dist.runs import existing_run

if TYPE_CHECKING:
    from memo_dist.memory.bank import Bank


@click.command("ask")
@run_argument
@click.argument("question")
@click.option(
    "--mode", type=click.Choice(["direct", "protocol"]), default="direct", show_default=True
)
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
    """Ask the memory of RUN one QUESTION.

    direct: the memory alone. protocol: an executive (executive.kind, .model, .urls) asks the
    memory turn by turn; the transcript is written below RUN/ask/.
    """
    if not question.strip():
        raise UsageError("the question is empty")
    run, _ = existing_run(run_folder)
    config = resolve(config_files, overrides, run_folder)
    quiet_libraries()
    more: dict[str, Any] = {}
    if mode == "direct":
        bank = _load_bank(run, config)
        started = time.monotonic()
        (answer,) = bank.answer([question])
        seconds = time.monotonic() - started
    else:
        answer, more = _by_protocol(run, config, question)
        seconds = answer.seconds
    click.echo(as_json_text(answer, mode, seconds, more) if as_json else as_text(answer, more))


def _load_bank(run: RunFolder, config: Config) -> Bank:
    from memo_dist.memory.bank import Bank

    return Bank.load(
        run.memory,
        run.reflections,
        config.memory.max_answer_tokens,
        loaded_gb=config.memory.loaded_gb,
    )


def _by_protocol(run: RunFolder, config: Config, question: str) -> tuple[Answer, dict[str, Any]]:
    """The answer and what else is told of it."""
    from memo_dist.protocol.session import ProtocolSession, check_executive

    check_executive(config)
    bank = _load_bank(run, config)
    started = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    folder = run.ask(f"{started}-{short_hash([question, time.time_ns()])[:8]}")
    with ProtocolSession(config, bank.answer, folder) as session:
        (outcome,) = session.answer([question])
    return outcome.answer, {
        "ended": outcome.ended,
        "limit": outcome.limit,
        "executive_calls": outcome.calls,
        "failed_calls": outcome.failed,
        "memory_questions": outcome.questions,
        "tokens": outcome.answer.tokens,
        "transcript": str(folder),
    }


def as_json_text(answer: Answer, mode: str, seconds: float, more: dict[str, Any]) -> str:
    """The machine-readable answer (design: ``ask --json``), and what the mode adds to it."""
    return json.dumps(
        {
            "answer": answer.text,
            "confidence": round(answer.confidence, 4),
            "abstained": answer.abstained,
            "sources": list(answer.sources),
            "mode": mode,
            "shards": list(answer.shards),
            "seconds": round(seconds, 3),
            **more,
        },
        ensure_ascii=False,
    )


def as_text(answer: Answer, more: dict[str, Any]) -> str:
    """The answer for people."""
    if answer.abstained:
        lines = [f"I don't know. (confidence {answer.confidence:.0%})"]
    else:
        sources = ", ".join(answer.sources) or "none found"
        lines = [answer.text, f"(confidence {answer.confidence:.0%}; sources: {sources})"]
    if more:
        limit = f", stopped by {more['limit']}" if more["limit"] else ""
        failed = f", {more['failed_calls']} without a valid reply" if more["failed_calls"] else ""
        lines.append(
            f"({more['ended']}{limit}; {more['executive_calls']} calls of the executive{failed},"
            f" {more['memory_questions']} questions to the memory;"
            f" transcript: {more['transcript']})"
        )
    return "\n".join(lines)
