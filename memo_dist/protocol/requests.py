"""The executive's calls: prompt files and the schemas of their replies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from memo_dist.config.model_schema import ExecutiveConfig, ProtocolConfig
from memo_dist.io.hashing import short_hash
from memo_dist.llm.prompt_files import PromptFiles
from memo_dist.llm.requests import Message, Request
from memo_dist.llm.schemas import NUMBER, TEXT, Schema, array, record, text_of
from memo_dist.protocol.types import Note

_FILES = PromptFiles("memo_dist.protocol")
_NAMES = (
    "system",
    "state",
    "notes",
    "wordings",
    "grounding",
    "identify",
    "seek",
    "synthesis",
    "conversation",
    "replies",
)
_BOOLEAN: Schema = {"type": "boolean"}
MAX_CANDIDATES = 12
MAX_SUPPORT = 32


@dataclass(frozen=True)
class Calls:
    """Renders the calls of one question.

    Attributes:
        question: the user's.
        executive: model and limits.
        protocol: wordings and questions a turn.
        seed: passed on to the executive.
    """

    question: str
    executive: ExecutiveConfig
    protocol: ProtocolConfig
    seed: int

    def grounding(self) -> Request:
        """Which questions can be asked at once."""
        return self._task("grounding", record(questions=self._questions()), self._state(()))

    def identify(
        self, notes: Sequence[Note], alive: Sequence[str], dropped: Sequence[str], turns_left: int
    ) -> Request:
        """Candidates, questions that tell them apart, the entity once it is clear."""
        names = {**array(TEXT), "maxItems": MAX_CANDIDATES}
        schema = record(candidates=names, questions=self._questions(), entity=TEXT)
        state = self._state(notes, alive, dropped)
        return self._task("identify", schema, state, turns_left=turns_left)

    def seek(
        self,
        notes: Sequence[Note],
        alive: Sequence[str],
        dropped: Sequence[str],
        turns_left: int,
        entity: str,
    ) -> Request:
        """Questions about the entity, whether all is there, another candidate."""
        schema = record(questions=self._questions(), ready=_BOOLEAN, pivot=TEXT)
        state = self._state(notes, alive, dropped)
        return self._task("seek", schema, state, turns_left=turns_left, entity=entity)

    def synthesis(self, notes: Sequence[Note]) -> Request:
        """The answer and what it rests on."""
        support = {**array(NUMBER), "maxItems": MAX_SUPPORT}
        schema = record(support=support, known=_BOOLEAN, answer=TEXT)
        return self._request(schema, (self._user(self._state(notes) + _render("synthesis")),))

    def conversation(self, turns: tuple[Message, ...]) -> Request:
        """The next reply of a plain conversation; see :meth:`opening` and :meth:`replies`."""
        questions = {**array(TEXT), "maxItems": self.protocol.questions}
        schema = record(questions=questions, done=_BOOLEAN, answer=TEXT)
        return self._request(schema, turns)

    def opening(self) -> Message:
        """The first turn of a conversation."""
        task = _render("conversation", most=self.protocol.questions)
        return self._user(self._state(()) + task)

    def replies(self, notes: Sequence[Note], problem: str, last: bool) -> Message:
        """What the memory said to a turn's questions, or what was wrong with the turn."""
        return self._user(_render("replies", notes=notes, problem=problem, last=last))

    def _questions(self) -> Schema:
        wordings = {**array(TEXT), "maxItems": self.protocol.wordings - 1}
        return {
            **array(record(about=TEXT, question=TEXT, wordings=wordings)),
            "maxItems": self.protocol.questions,
        }

    def _state(
        self, notes: Sequence[Note], alive: Sequence[str] = (), dropped: Sequence[str] = ()
    ) -> str:
        return _render(
            "state", question=self.question, notes=notes, candidates=alive, dropped=dropped
        )

    def _task(self, name: str, schema: Schema, state: str, **values: Any) -> Request:
        limits = _render("wordings", wordings=self.protocol.wordings, most=self.protocol.questions)
        return self._request(schema, (self._user(state + _render(name, **values) + limits),))

    def _user(self, text: str) -> Message:
        return Message("user", text.strip())

    def _request(self, schema: Schema, turns: tuple[Message, ...]) -> Request:
        return Request(
            model=self.executive.model,
            messages=(Message("system", _render("system").strip()), *turns),
            schema=text_of(schema),
            max_tokens=self.executive.max_reply_tokens,
            temperature=self.executive.temperature,
            seed=self.seed,
        )


def prompts_version() -> str:
    """Changes with every character of the prompts."""
    return short_hash({name: _FILES.source(name) for name in _NAMES})


def _render(name: str, **values: Any) -> str:
    return _FILES.render(name, **values)
