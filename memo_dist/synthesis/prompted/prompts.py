"""Prompts: Jinja files, rendered to requests whose beginning is the same for every step.

A request is one system turn (the same everywhere) and one user turn: passages, then pairs where a
step looks at some, then the task. A server with a prefix cache reads the passages once for all
steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from memo_dist.io.hashing import hash_value
from memo_dist.llm.prompt_files import PromptFiles
from memo_dist.llm.requests import Message, Request, Role
from memo_dist.llm.schemas import Schema, limited, text_of
from memo_dist.synthesis.prompted.reading import Reading

_SHARED = ("system", "passages", "pairs", "facts")
_VERSION_DIGITS = 8
_BASE_TOKENS = 64
_FILES = PromptFiles("memo_dist.synthesis.prompted")
render = _FILES.render
source = _FILES.source


@dataclass(frozen=True, slots=True)
class Prompt:
    """A task: its Jinja files (joined in order) and the schema of its reply.

    Attributes:
        files: names without the suffix.
        schema: what the reply must obey.
        item_tokens: room for one item of the reply's list, in tokens.
        example: files of a worked example, shown as a user turn and its reply; empty: none. It
            ends the sharing of the prompt's beginning with other steps.
    """

    files: tuple[str, ...]
    schema: Schema
    item_tokens: int
    example: tuple[str, ...] = ()

    @property
    def version(self) -> str:
        """Changes with every character of the prompt, of the shared parts, and of the schema."""
        sources = {name: source(name) for name in (*_SHARED, *self.files, *self.example)}
        digest = hash_value([sources, text_of(self.schema)])[:_VERSION_DIGITS]
        return f"{self.files[0]}-{digest}"

    def task(self, **values: Any) -> str:
        """The rendered end of the user turn."""
        return "".join(render(name, **values) for name in self.files)


@dataclass(frozen=True, slots=True)
class Prompter:
    """Builds requests for one model.

    Attributes:
        model: its name at the endpoint.
        seed: passed on; one seed for the whole run, so that equal requests have equal keys.
        max_reply_tokens: no reply may be longer.
    """

    model: str
    seed: int
    max_reply_tokens: int

    def request(self, prompt: Prompt, body: str, most: int, numbers: int, **values: Any) -> Request:
        """The request of one task.

        Args:
            prompt: the task.
            body: passages and pairs, as :func:`passages_text` and :func:`pairs_text` give them.
            most: items that a useful reply lists at most.
            numbers: passages, pairs or answers that the prompt lists, from 1 on.
            values: for the task's template.
        """
        roles: tuple[Role, ...] = ("user", "assistant")
        turns = zip(roles, prompt.example, strict=False)  # the example may be empty
        example = [Message(role, render(name).strip()) for role, name in turns]
        user = Message("user", (body + prompt.task(**values)).strip())
        system = Message("system", render("system").strip())
        return Request(
            model=self.model,
            messages=(system, *example, user),
            schema=text_of(limited(prompt.schema, most, numbers)),
            max_tokens=min(self.max_reply_tokens, _BASE_TOKENS + prompt.item_tokens * most),
            seed=self.seed,
        )


@dataclass(frozen=True, slots=True)
class ListedPair:
    """A pair as a prompt lists it.

    Attributes:
        passage: number of its passage, None where the prompt has no passages.
        title: of its document, in prompts without passages.
        fault: a suspected fault, empty when there is none.
    """

    question: str
    answer: str
    passage: int | None = None
    title: str = ""
    fault: str = ""


def passages_text(reading: Reading) -> str:
    """The passages of a reading: the same text for every step."""
    return render("passages", passages=reading.passages)


def pairs_text(pairs: Sequence[ListedPair]) -> str:
    """A numbered list of pairs of the passages above it."""
    return render("pairs", pairs=pairs)


def facts_text(pairs: Sequence[ListedPair]) -> str:
    """A numbered list of pairs with their documents' titles."""
    return render("facts", pairs=pairs)
