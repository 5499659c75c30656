"""What the demo says at its end: answers to read, the scores, and how to use own documents."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, zip_longest

from memo_dist.evaluation.results import Evaluation
from memo_dist.evaluation.scoring import Verdict, by_type

RIGHT_ANSWERS = 5

OWN_DOCUMENTS = """\
Your own documents, with a language model of any OpenAI-compatible server:
  memo-dist encode DOCUMENTS --run RUN --config configs/encode-laptop.yaml 'synthesis.steps=[direct,abstain]' generator.kind=openai generator.model=NAME 'generator.urls=[URL]'
or with a chat window, which gets prompts as files and gives replies as files (docs/chat-window.md):
  memo-dist encode DOCUMENTS --run RUN --config configs/encode-laptop.yaml 'synthesis.steps=[direct,abstain]' generator.kind=recorded generator.model=NAME generator.recording=FOLDER
"""  # noqa: E501 - commands to copy


def examples_text(evaluation: Evaluation, method: str = "direct") -> str:
    """Some right answers of the memory and one right abstention, for a terminal.

    The first question of each type, then the second of each, in the order of the file: the same
    scores show the same examples.

    Args:
        evaluation: a finished one.
        method: the memory's name among its methods.
    """
    verdicts = evaluation.verdicts[method]
    lines = _answers([row for row in verdicts if row.question.answerable])
    return "\n".join([*lines, *_refusal([r for r in verdicts if not r.question.answerable])]) + "\n"


def _answers(rows: Sequence[Verdict]) -> list[str]:
    right = [row for row in rows if row.right]
    shown = _mixed(right)[:RIGHT_ANSWERS]
    lines = [f"{len(shown)} of {len(right)} right answers (of {len(rows)} answerable questions):"]
    for row in shown:
        lines.append(f"  {row.question.question}")
        lines.append(f"    {row.answer.text}   [{_source(row)}]")
    return lines


def _refusal(rows: Sequence[Verdict]) -> list[str]:
    right = [row for row in rows if row.right]
    lines = [f"abstained on {len(right)} of {len(rows)} questions that no document answers:"]
    for row in right[:1]:
        lines += [f"  {row.question.question}", "    I don't know."]
    return lines


def _mixed(rows: Sequence[Verdict]) -> list[Verdict]:
    """One of each type in turn."""
    turns = chain.from_iterable(zip_longest(*by_type(rows).values()))
    return [row for row in turns if row is not None]


def _source(row: Verdict) -> str:
    """The document that the memory names for its answer."""
    return row.answer.sources[0] if row.answer.sources else "no source"
