"""``memo-dist ask RUN QUESTION``: an answer, its confidence and its sources."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from memo_dist.answering import MODES, open_answerer
from memo_dist.answers.answer import Answer
from memo_dist.cli.options import config_options, resolve, run_argument
from memo_dist.errors import UsageError
from memo_dist.observability.logs import quiet_libraries
from memo_dist.runs import existing_run

_STREAMED = tuple(name for name, mode in MODES.items() if mode.streams)


@click.command("ask")
@run_argument
@click.argument("question")
@click.option(
    "--mode",
    type=click.Choice(list(MODES)),
    default="direct",
    show_default=True,
    help="How the answer is generated.",
)
@click.option(
    "--stream",
    is_flag=True,
    help=f"Print the text while it is generated (modes {' and '.join(_STREAMED)}).",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@config_options
def command(  # noqa: PLR0913
    run_folder: Path,
    question: str,
    mode: str,
    stream: bool,
    as_json: bool,
    config_files: tuple[Path, ...],
    overrides: tuple[str, ...],
) -> None:
    """Answer QUESTION from the memory of RUN.

    direct: the memory answers alone.

    hybrid: the memory gets the trained question that a search index finds nearest to QUESTION.

    protocol: a frozen LLM (keys executive.*) queries the memory turn by turn; the transcript is in
    RUN/ask. protocol-full, protocol-one-turn and protocol-multi-turn set protocol.variant.

    logits: the token probabilities of the memory and of a frozen LLM (fusion.backbone) are
    combined.

    latent: the frozen LLM attends to the hidden states of the memory.
    """
    if not question.strip():
        raise UsageError("the question is empty")
    if stream and (mode not in _STREAMED or as_json):
        raise UsageError(f"--stream goes with --mode {' or '.join(_STREAMED)}, and without --json")
    run, _ = existing_run(run_folder)
    config = resolve(config_files, overrides, run_folder)
    quiet_libraries()
    with open_answerer(run, config, mode) as answerer:
        if stream:
            for piece in answerer.stream(question):
                click.echo(piece, nl=False)
            click.echo()
            return
        started = time.monotonic()
        (answered,) = answerer.answer([question])
        seconds = time.monotonic() - started
    answer, details = answered.answer, answered.details
    if as_json:
        click.echo(as_json_text(answer, mode, seconds, details))
    else:
        click.echo(as_text(answer, details))


def as_json_text(answer: Answer, mode: str, seconds: float, more: Mapping[str, Any]) -> str:
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


def as_text(answer: Answer, more: Mapping[str, Any]) -> str:
    """The answer for people."""
    if answer.abstained:
        lines = [f"I don't know. (confidence {answer.confidence:.0%})"]
    else:
        sources = ", ".join(answer.sources) or "none found"
        lines = [answer.text, f"(confidence {answer.confidence:.0%}; sources: {sources})"]
    if "ended" in more:
        lines.append(_protocol_line(more))
    if "memory_weight" in more:
        lines.append(
            f"(the memory decided {more['memory_weight']:.0%};"
            f" {more['backbone_forwards']} forwards of the backbone)"
        )
    return "\n".join(lines)


def _protocol_line(more: Mapping[str, Any]) -> str:
    limit = f", stopped by {more['limit']}" if more["limit"] else ""
    failed = f", {more['failed_calls']} without a valid reply" if more["failed_calls"] else ""
    return (
        f"({more['ended']}{limit}; {more['executive_calls']} calls of the executive{failed},"
        f" {more['memory_questions']} questions to the memory;"
        f" transcript: {more['transcript']})"
    )
