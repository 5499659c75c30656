"""What a backbone can still do: its score on questions that have nothing to do with the corpus.

The set is 100 questions of general knowledge, written for this package (``unrelated.jsonl``); the
backbone gets each as it gets questions without documents. A small model that keeps its answers but
grows unsure shows it first in the second measure: nats of the gold answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import as_file, files
from typing import Any

from memo_dist.answers.text import holds
from memo_dist.compare.method import Forgetting, Setting
from memo_dist.errors import RunError
from memo_dist.evaluation.baselines import closed_book
from memo_dist.evaluation.questions import Question, load_questions
from memo_dist.models.base import find_base
from memo_dist.models.identity import hash_weights
from memo_dist.models.reader import Reader

QUESTIONS = "100 questions of general knowledge"
_UNASKED = "none asked"
_TOKENS = 24
_BATCH = 16


@dataclass(frozen=True, slots=True)
class Ability:
    """What a model can do with the unrelated questions.

    Attributes:
        right: number of answers that hold a gold answer.
        nats: mean cross-entropy of the gold answers' tokens, in nats per token.
    """

    right: int
    nats: float


def unrelated_questions() -> list[Question]:
    """The shipped set, in its order."""
    with as_file(files("memo_dist.compare") / "unrelated.jsonl") as path:
        return load_questions(path)


def ability(model: Any, tokenizer: Any, questions: Sequence[Question]) -> Ability:
    """Ask a model; it must be in evaluation mode.

    Args:
        model: a causal language model as transformers loads it.
        tokenizer: the backbone's own, with its own chat template.
        questions: the set.
    """
    reader = Reader(model, tokenizer)
    prompts = [closed_book(question.question) for question in questions]
    answers = reader.generate(prompts, _TOKENS, _BATCH)
    pairs = zip(answers, questions, strict=True)
    right = sum(holds(answer.text, question.golds) for answer, question in pairs)
    costs = [
        reader.surprise(prompt, question.answer)
        for prompt, question in zip(prompts, questions, strict=True)
    ]
    return Ability(right, sum(nats for nats, _ in costs) / sum(tokens for _, tokens in costs))


def forgotten(before: Ability, after: Ability, n: int) -> Forgetting:
    """The row of the forgetting table."""
    return Forgetting(
        QUESTIONS,
        n,
        before.right,
        after.right,
        f"asked without documents; gold answers cost {before.nats:.2f} nats a token before and"
        f" {after.nats:.2f} after",
    )


def untouched(setting: Setting) -> Forgetting:
    """The row of a method that leaves the backbone alone, proved by the bytes of its weights.

    Raises:
        RunError: they are not what they were when the comparison began.
    """
    if not setting.is_local:
        return Forgetting(_UNASKED, 0, 0, 0, "the backbone is behind an endpoint: not changed")
    folder = find_base(setting.reader_name, key="--reader")
    now = hash_weights(folder)
    if now != setting.reader_identity:
        raise RunError(
            f"the weights in {folder} have changed since the comparison began:"
            f" {setting.reader_identity[:16]} then, {now[:16]} now"
        )
    detail = f"nothing can be: the backbone's weights have the hash {now[:16]} before and after"
    return Forgetting(_UNASKED, 0, 0, 0, detail)
