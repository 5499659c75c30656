"""``memo-dist ask RUN QUESTION``: an answer, its confidence and its sources."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from memo_dist.answers.answer import Answer
from memo_dist.cli.options import config_options, resolve, run_argument
from memo_dist.config.schema import Config
from memo_dist.errors import UsageError
from memo_dist.io.hashing import short_hash
from memo_dist.io.runfolder import RunFolder
from memo_dist.observability.logs import quiet_libraries
from memo_dist.runs import existing_run

if TYPE_CHECKING:
    from memo_dist.fusion.latent.answering import LatentBank
    from memo_dist.fusion.logits.answering import FusedBank
    from memo_dist.memory.bank import Bank


@click.command("ask")
@run_argument
@click.argument("question")
@click.option(
    "--mode",
    type=click.Choice(["direct", "protocol", "logits", "latent"]),
    default="direct",
    show_default=True,
    help="How the answer is generated.",
)
@click.option(
    "--stream", is_flag=True, help="Print the text while it is generated (logits, latent)."
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

    direct: the memory answers alone. protocol: a frozen LLM (executive.kind, .model, .urls)
    queries the memory turn by turn; its transcript is in RUN/ask. logits: a frozen backbone
    (fusion.backbone) and the memory combine their distributions on each token. latent: the
    backbone attends to the hidden states of the memory.
    """
    if not question.strip():
        raise UsageError("the question is empty")
    if stream and (mode not in _LOADING or as_json):
        raise UsageError("--stream goes with --mode logits or latent, and without --json")
    run, _ = existing_run(run_folder)
    config = resolve(config_files, overrides, run_folder)
    quiet_libraries()
    if stream:
        for piece in _LOADING[mode](run, config).stream(question):
            click.echo(piece, nl=False)
        click.echo()
        return
    answer, more, seconds = _ASKING[mode](run, config, question)
    click.echo(as_json_text(answer, mode, seconds, more) if as_json else as_text(answer, more))


def _directly(
    run: RunFolder, config: Config, question: str
) -> tuple[Answer, dict[str, Any], float]:
    bank = _load_bank(run, config)
    started = time.monotonic()
    (answer,) = bank.answer([question])
    return answer, {}, time.monotonic() - started


def _by_logits(
    run: RunFolder, config: Config, question: str
) -> tuple[Answer, dict[str, Any], float]:
    fused = _fused(run, config)
    started = time.monotonic()
    (answer,) = fused.answer([question])
    seconds = time.monotonic() - started
    (text,) = fused.last
    share = sum(text.memory_weights) / max(len(text.memory_weights), 1)
    more = {"memory_weight": round(share, 4), "backbone_forwards": text.forwards}
    if text.lost:
        more["lost"] = round(text.lost, 4)
    return answer, more, seconds


def _by_latent(
    run: RunFolder, config: Config, question: str
) -> tuple[Answer, dict[str, Any], float]:
    fused = _latent(run, config)
    started = time.monotonic()
    (answer,) = fused.answer([question])
    (text,) = fused.last
    return answer, {"backbone_forwards": text.forwards}, time.monotonic() - started


def _latent(run: RunFolder, config: Config) -> LatentBank:
    from memo_dist.fusion.latent.answering import LatentBank

    return LatentBank.load(run, config, _load_bank(run, config))


def _fused(run: RunFolder, config: Config) -> FusedBank:
    from memo_dist.fusion.logits.answering import FusedBank

    return FusedBank.load(run, config, _load_bank(run, config))


def _load_bank(run: RunFolder, config: Config) -> Bank:
    from memo_dist.memory.bank import Bank

    return Bank.load(
        run.memory,
        run.reflections,
        config.memory.max_answer_tokens,
        loaded_gb=config.memory.loaded_gb,
    )


def _by_protocol(
    run: RunFolder, config: Config, question: str
) -> tuple[Answer, dict[str, Any], float]:
    from memo_dist.protocol.session import ProtocolSession, check_executive

    check_executive(config)
    bank = _load_bank(run, config)
    started = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    folder = run.ask(f"{started}-{short_hash([question, time.time_ns()])[:8]}")
    with ProtocolSession(config, bank.answer, folder) as session:
        (outcome,) = session.answer([question])
    more = {
        "ended": outcome.ended,
        "limit": outcome.limit,
        "executive_calls": outcome.calls,
        "failed_calls": outcome.failed,
        "memory_questions": outcome.questions,
        "tokens": outcome.answer.tokens,
        "transcript": str(folder),
    }
    return outcome.answer, more, outcome.answer.seconds


_ASKING = {
    "direct": _directly,
    "protocol": _by_protocol,
    "logits": _by_logits,
    "latent": _by_latent,
}
_LOADING: dict[str, Callable[[RunFolder, Config], FusedBank | LatentBank]] = {
    "logits": _fused,
    "latent": _latent,
}
"""For each mode: the answer, what else is told of it, and seconds without loading."""


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
    if "ended" in more:
        lines.append(_protocol_line(more))
    if "memory_weight" in more:
        lines.append(
            f"(the memory decided {more['memory_weight']:.0%};"
            f" {more['backbone_forwards']} forwards of the backbone)"
        )
    return "\n".join(lines)


def _protocol_line(more: dict[str, Any]) -> str:
    limit = f", stopped by {more['limit']}" if more["limit"] else ""
    failed = f", {more['failed_calls']} without a valid reply" if more["failed_calls"] else ""
    return (
        f"({more['ended']}{limit}; {more['executive_calls']} calls of the executive{failed},"
        f" {more['memory_questions']} questions to the memory;"
        f" transcript: {more['transcript']})"
    )
