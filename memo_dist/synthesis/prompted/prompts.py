"""Prompts: Jinja files, rendered to requests whose beginning is the same for every step.

A request is one system turn (the same everywhere) and one user turn: blocks of data (passages,
then pairs where a step looks at some), then the task. A server with a prefix cache reads the
passages once for all steps.

Whatever comes from documents or replies stands in blocks between lines with the code of the
message, a hash of what it holds: a text cannot name the code that it gets, so it cannot end its
block. The system turn says that a block is data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from memo_dist.io.hashing import hash_value
from memo_dist.llm.prompt_files import PromptFiles
from memo_dist.llm.requests import Message, Request, Role
from memo_dist.llm.schemas import Schema, limited, text_of
from memo_dist.synthesis.prompted.disarm import disarm
from memo_dist.synthesis.prompted.reading import Reading

_SHARED = ("system", "passages", "pairs", "facts", "sentences", "answers", "questions")
_VERSION_DIGITS = 8
_CODE_DIGITS, _LONG_CODE_DIGITS = 8, 32
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
        text_tokens: room for one text of a list inside an item, in tokens.
        uses: further files that its values come from.
        example: files of a worked example, shown as a user turn and its reply; empty: none. It
            ends the sharing of the prompt's beginning with other steps.
    """

    files: tuple[str, ...]
    schema: Schema
    item_tokens: int
    text_tokens: int = 0
    uses: tuple[str, ...] = ()
    example: tuple[str, ...] = ()

    @property
    def version(self) -> str:
        """Changes with every character of the prompt, of the shared parts, and of the schema."""
        files = (*_SHARED, *self.files, *self.uses, *self.example)
        digest = hash_value([{name: source(name) for name in files}, text_of(self.schema)])
        return f"{self.files[0]}-{digest[:_VERSION_DIGITS]}"

    def task(self, **values: Any) -> str:
        """The rendered end of the user turn."""
        return "".join(render(name, **values) for name in self.files)


@dataclass(frozen=True, slots=True)
class Body:
    """The data of a user turn: blocks under one code.

    Attributes:
        code: of the message; hexadecimal digits that no text in its blocks keeps.
        text: the blocks.
        trusted: whether the texts come from the user's own documents.
    """

    code: str
    text: str = ""
    trusted: bool = True

    def block(self, name: str, **values: Any) -> Body:
        """The body with one more block, rendered from the prompt file ``name``."""
        more = render(name, code=self.code, text=self._text, line=self.line, **values)
        return replace(self, text=self.text + more)

    def pairs(self, pairs: Sequence[ListedPair]) -> Body:
        """The body with a numbered list of pairs of its passages."""
        return self.block("pairs", pairs=pairs)

    @property
    def turn(self) -> int:
        """A number that decides what calls take in turn."""
        return int(self.code[:_CODE_DIGITS], 16)

    def line(self, text: str) -> str:
        """``text`` as one line of a block."""
        return " ".join(self._text(text).split())

    def _text(self, text: str) -> str:
        text = text if self.trusted else disarm(text)
        while self.code in text:  # what is left may join to the code again
            text = text.replace(self.code, "")
        return text


@dataclass(frozen=True, slots=True)
class Prompter:
    """Builds requests for one model.

    Attributes:
        model: its name at the endpoint.
        seed: passed on; one seed for the whole run, so that equal requests have equal keys.
        max_reply_tokens: no reply may be longer.
        trusted: whether the documents are the user's own; texts of others are disarmed, and get
            codes too long to be found by trying.
    """

    model: str
    seed: int
    max_reply_tokens: int
    trusted: bool = True

    def passages(self, reading: Reading) -> Body:
        """The passages of a reading: the same blocks for every step."""
        rows = [
            [p.number, p.chunk.id, p.document.title, p.document.date, p.chunk.section, p.chunk.text]
            for p in reading.passages
        ]
        return self._body(rows).block("passages", passages=reading.passages)

    def facts(self, pairs: Sequence[ListedPair]) -> Body:
        """A numbered list of pairs with their documents' titles, without passages."""
        rows = [[pair.question, pair.answer, pair.title] for pair in pairs]
        return self._body(rows).block("facts", pairs=pairs)

    def request(
        self, prompt: Prompt, body: Body, most: int, numbers: int, texts: int = 1, **values: Any
    ) -> Request:
        """The request of one task.

        Args:
            prompt: the task.
            body: its data.
            most: items that a useful reply lists at most.
            numbers: passages, pairs or questions that the body lists, from 1 on.
            texts: items that a list of texts inside an item has at most.
            values: for the task's template.
        """
        roles: tuple[Role, ...] = ("user", "assistant")
        turns = zip(roles, prompt.example, strict=False)  # the example may be empty
        example = [Message(role, render(name).strip()) for role, name in turns]
        user = Message("user", (body.text + prompt.task(most=most, **values)).strip())
        system = Message("system", render("system").strip())
        tokens = _BASE_TOKENS + (prompt.item_tokens + prompt.text_tokens * texts) * most
        return Request(
            model=self.model,
            messages=(system, *example, user),
            schema=text_of(limited(prompt.schema, most, numbers, texts)),
            max_tokens=min(self.max_reply_tokens, tokens),
            seed=self.seed,
        )

    def _body(self, rows: Sequence[Sequence[object]]) -> Body:
        digits = _CODE_DIGITS if self.trusted else _LONG_CODE_DIGITS
        return Body(hash_value([self.seed, rows])[:digits], trusted=self.trusted)


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
