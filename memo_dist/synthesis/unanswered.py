"""The end of a launch in which requests stay without a reply: who is told what to do.

With a folder of prompts and replies people answer, so the prompts are written and the run ends
as stopped. A recording never gets more replies, so the run fails and says what differs.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from memo_dist.config.model_schema import GeneratorConfig
from memo_dist.config.steps import StepName
from memo_dist.errors import AwaitingRepliesError, RunError
from memo_dist.llm.backends.recorded import is_folder, recorded_header
from memo_dist.llm.backends.reply_folder import ERROR_SUFFIX, Opened, ReplyFolder
from memo_dist.llm.requests import OpenRequest

_TOLD = 3
"""Faults and names that a message lists."""


def leave_open(
    config: GeneratorConfig,
    step: StepName,
    version: str,
    requests: Sequence[OpenRequest],
    settled: int,
) -> NoReturn:
    """End a step whose ``requests`` have no reply.

    Args:
        config: group ``generator``.
        step, version: the step.
        requests: all of them, in order; a request may stand there twice.
        settled: the step's requests that have a reply.

    Raises:
        AwaitingRepliesError: their prompts are in files now.
        RunError: the recording lacks the replies.
    """
    each = list({item.request.key: item for item in requests}.values())
    path = Path(config.recording)
    if not is_folder(path):
        raise RunError(_lacking(config, step, version, each, settled))
    folder = ReplyFolder(path)
    raise AwaitingRepliesError(_awaiting(folder, step, folder.leave_open(step, each), settled))


def settle(config: GeneratorConfig) -> None:
    """Nothing of a step is open any more."""
    path = Path(config.recording)
    if config.kind == "recorded" and is_folder(path):
        ReplyFolder(path).settle()


def _awaiting(folder: ReplyFolder, step: StepName, opened: Opened, settled: int) -> str:
    lines = [
        f"step {step} waits for replies: {opened.new} prompts written, {len(opened.names)} are"
        f" open, {settled} replies read.",
        f"Prompts: {folder.prompts}/NAME.md; the open ones are listed in {folder.open_list}",
        f"Put each reply into {folder.replies}/NAME.json (or .txt, .md)",
    ]
    if opened.faults:
        lines.append(f"{len(opened.faults)} replies cannot be used ({_beside(folder)}):")
        lines += _some(opened.faults)
    if opened.strange:
        lines.append(f"{len(opened.strange)} files in {folder.replies} name no prompt:")
        lines += _some(opened.strange)
    return "\n".join([*lines, "Then run the same command again"])


def _beside(folder: ReplyFolder) -> str:
    return f"each is noted in {folder.prompts}/NAME{ERROR_SUFFIX}"


def _some(items: Sequence[str]) -> list[str]:
    more = len(items) - _TOLD
    return [f"  {item}" for item in items[:_TOLD]] + ([f"  and {more} more"] if more > 0 else [])


def _lacking(
    config: GeneratorConfig,
    step: StepName,
    version: str,
    requests: Sequence[OpenRequest],
    settled: int,
) -> str:
    header = recorded_header(config)
    recorded = header.steps.get(step, "not recorded") if header else "not recorded"
    if recorded == version:
        why = "The prompts are the same; documents, corpus.* or synthesis.* are not"
    else:
        why = f"Prompt version of step {step}: recording {recorded}, this memo-dist {version}"
    faults = [item.reason for item in requests if item.reason]
    first = f"; not valid: {faults[0]}" if faults else ""
    return (
        f"generator.recording={config.recording} has no valid reply to {len(requests)} of"
        f" {settled + len(requests)} requests of step {step}{first}. {why}. Use what the recording"
        " was made with, or have the prompts answered anew: generator.recording=FOLDER"
    )
