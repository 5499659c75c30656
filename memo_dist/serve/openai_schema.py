"""Requests of the OpenAI API, by its reference; fields that mean nothing here are named."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from memo_dist.serve.errors import ApiError, invalid
from memo_dist.serve.keys import clean_scope

_MAX_STOPS = 4
Penalty = Annotated[float, Field(ge=-2, le=2)]


class Part(BaseModel):
    """A part of a message's content; others than text are refused later, by name."""

    model_config = ConfigDict(extra="allow")
    type: str
    text: str = ""


class Message(BaseModel):
    """A message of a chat."""

    model_config = ConfigDict(extra="allow")
    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[Part] | None = None

    def text(self) -> str:
        """The content as text.

        Raises:
            ApiError: 400; a part is no text.
        """
        if self.content is None or isinstance(self.content, str):
            return self.content or ""
        other = [part.type for part in self.content if part.type not in ("text", "input_text")]
        if other:
            raise unsupported("messages", f"content of type '{other[0][:40]}'")
        return "\n".join(part.text for part in self.content)


class StreamOptions(BaseModel):
    """Options of a stream."""

    model_config = ConfigDict(extra="ignore")
    include_usage: bool = False


class Common(BaseModel):
    """What both endpoints have in common.

    Accepted and without effect, as the answer is the likeliest one already: ``temperature``,
    ``top_p``, the penalties, ``seed``, and what labels a request.
    """

    model_config = ConfigDict(extra="forbid")
    model: str
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    stop: str | list[str] | None = None
    n: int | None = None
    seed: int | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    logit_bias: dict[str, float] | None = None
    user: str | None = None

    def scope(self) -> dict[str, str]:
        """Whose memories are asked, beside the shared ones.

        Raises:
            ApiError: 400; a wrong name.
        """
        return {}

    def stops(self) -> list[str]:
        """Texts at which an answer ends.

        Raises:
            ApiError: 400; more than four.
        """
        found = [self.stop] if isinstance(self.stop, str) else self.stop or []
        if len(found) > _MAX_STOPS:
            raise invalid(f"at most {_MAX_STOPS} stop sequences", "stop")
        return [text for text in found if text]

    def check(self) -> None:
        """Refuse what would change the answer and is not built.

        Raises:
            ApiError: 400.
        """
        if self.n not in (None, 1):
            raise unsupported("n", "more than one choice")
        if self.logit_bias:
            raise unsupported("logit_bias", "logit_bias")


class ChatRequest(Common):
    """``POST /v1/chat/completions``."""

    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    tools: list[Any] | None = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    functions: list[Any] | None = None
    function_call: Any = None
    response_format: dict[str, Any] | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    modalities: list[str] | None = None
    audio: Any = None
    prediction: Any = None
    web_search_options: Any = None
    reasoning_effort: str | None = None
    verbosity: str | None = None
    store: bool | None = None
    metadata: dict[str, str] | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None

    def check(self) -> None:
        """See :meth:`Common.check`."""
        super().check()
        for name in ("tools", "functions", "audio", "web_search_options", "top_logprobs",
                     "logprobs"):  # fmt: skip
            if getattr(self, name):
                raise unsupported(name, name)
        if (self.response_format or {}).get("type", "text") != "text":
            raise unsupported("response_format", "a response_format other than text")
        if self.modalities not in (None, ["text"]):
            raise unsupported("modalities", "a modality other than text")

    def scope(self) -> dict[str, str]:
        """See :meth:`Common.scope`: ``metadata`` may name a user, an agent, an app and a run."""
        return clean_scope(self.metadata or {})

    def question(self) -> str:
        """The last turn of the user.

        Raises:
            ApiError: 400; there is none.
        """
        turns = [message for message in self.messages if message.role == "user"]
        if not turns:
            raise invalid("there is no message of the role 'user'", "messages")
        return turns[-1].text()


class CompletionRequest(Common):
    """``POST /v1/completions``."""

    prompt: str | Annotated[list[str], Field(min_length=1, max_length=64)]
    suffix: str | None = None
    echo: bool | None = None
    best_of: int | None = None
    logprobs: int | None = None

    def check(self) -> None:
        """See :meth:`Common.check`."""
        super().check()
        for name in ("suffix", "echo", "logprobs"):
            if getattr(self, name):
                raise unsupported(name, name)
        if self.best_of not in (None, 1):
            raise unsupported("best_of", "best_of")

    def prompts(self) -> list[str]:
        """The questions."""
        return [self.prompt] if isinstance(self.prompt, str) else self.prompt


def unsupported(param: str, what: str) -> ApiError:
    """A field of OpenAI's API that this server does not have."""
    return ApiError(400, "unsupported_parameter", f"this server does not support {what}", param)
