"""A chat as token ids, by a model's own chat template."""

from __future__ import annotations

from typing import Any

import jinja2

Messages = list[dict[str, str]]
"""A chat: turns of ``role`` (system, user, assistant) and ``content``."""


def render_chat(tokenizer: Any, messages: Messages) -> list[int]:
    """Token ids of a chat up to where the answer begins; the tokenizer is only read.

    A model without a chat template reads the turns as paragraphs; one whose template has no
    system turn reads its text at the head of the user's.
    """
    if tokenizer.chat_template is None:
        text = "\n\n".join(turn["content"] for turn in messages) + "\nAnswer:"
        return list(tokenizer.encode(text))
    try:
        text = _template(tokenizer, messages)
    except jinja2.TemplateError:
        text = _template(tokenizer, _without_system(messages))
    return list(tokenizer.encode(text, add_special_tokens=False))


def _template(tokenizer: Any, messages: Messages) -> str:
    return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))


def _without_system(messages: Messages) -> Messages:
    system = [turn["content"] for turn in messages if turn["role"] == "system"]
    rest = [dict(turn) for turn in messages if turn["role"] != "system"]
    rest[0]["content"] = "\n\n".join([*system, rest[0]["content"]])
    return rest
