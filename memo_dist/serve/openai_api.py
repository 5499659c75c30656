"""OpenAI's API over the memory: any of its clients can use it as a model."""

from __future__ import annotations

import asyncio
import json
import re
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from memo_dist.answers.text import ABSTAIN_ANSWER
from memo_dist.serve.errors import ApiError
from memo_dist.serve.keys import Caller
from memo_dist.serve.merging import Reply
from memo_dist.serve.native import caller_of, reply_json
from memo_dist.serve.openai_schema import ChatRequest, CompletionRequest
from memo_dist.serve.service import Service

_PIECE = re.compile(r"\s*\S+\s*")


@dataclass(frozen=True, slots=True)
class _Choice:
    """An answer in OpenAI's terms."""

    text: str
    finish: str
    prompt_tokens: int
    completion_tokens: int
    memo: dict[str, Any]


def model_name(service: Service, mode: str) -> str:
    """The name by which clients choose a mode; the default one has the bank's name alone."""
    base = f"memo:{service.bank_name}"
    return base if mode == service.engine.modes[0] else f"{base}:{mode}"


def router(service: Service) -> APIRouter:
    """The endpoints."""
    api = APIRouter(tags=["openai"])
    created = int(time.time())

    def model(mode: str) -> dict[str, Any]:
        return {
            "id": model_name(service, mode),
            "object": "model",
            "created": created,
            "owned_by": "memo-dist",
        }

    @api.get("/v1/models")
    async def models(request: Request) -> dict[str, Any]:
        """The memory, once for each mode."""
        caller_of(request).need("read")
        return {"object": "list", "data": [model(mode) for mode in service.engine.modes]}

    @api.get("/v1/models/{name:path}")
    async def one_model(name: str, request: Request) -> dict[str, Any]:
        """One of them."""
        caller_of(request).need("read")
        return model(_mode(service, name))

    @api.post("/v1/chat/completions")
    async def chat(body: ChatRequest, request: Request) -> Response:
        """Answer the last turn of the user."""
        body.check()
        most = body.max_completion_tokens or body.max_tokens
        choices = await _answers(service, caller_of(request), [body.question()], body, most)
        head = _head(service, "chatcmpl", "chat.completion", body.model)
        if not body.stream:
            (choice,) = choices
            message = {"role": "assistant", "content": choice.text, "refusal": None}
            row = {"index": 0, "message": message, "logprobs": None}
            return _whole(head, choices, [{**row, "finish_reason": choice.finish}])
        return _stream(_chat_chunks(head, choices[0]), head, choices, body)

    @api.post("/v1/completions")
    async def completions(body: CompletionRequest, request: Request) -> Response:
        """Answer each prompt as a question."""
        body.check()
        choices = await _answers(service, caller_of(request), body.prompts(), body, body.max_tokens)
        head = _head(service, "cmpl", "text_completion", body.model)
        rows = [
            {"index": n, "text": one.text, "logprobs": None, "finish_reason": one.finish}
            for n, one in enumerate(choices)
        ]
        if not body.stream:
            return _whole(head, choices, rows)
        return _stream(_text_chunks(head, choices), head, choices, body)

    return api


def _mode(service: Service, model: str) -> str:
    """The mode that a model's name chooses.

    Raises:
        ApiError: 404.
    """
    names = {model_name(service, mode): mode for mode in service.engine.modes}
    first = service.engine.modes[0]
    names[f"memo:{service.bank_name}:{first}"] = first
    if model not in names:
        known = ", ".join(model_name(service, mode) for mode in service.engine.modes)
        raise ApiError(404, "model_not_found", f"there is no such model; there are {known}",
                       "model")  # fmt: skip
    return names[model]


async def _answers(
    service: Service,
    caller: Caller,
    questions: Sequence[str],
    body: ChatRequest | CompletionRequest,
    most: int | None,
) -> list[_Choice]:
    mode, stops, scope = _mode(service, body.model), body.stops(), body.scope()
    started = time.monotonic()
    replies = await asyncio.gather(*(service.ask(caller, q, mode, scope) for q in questions))
    seconds = time.monotonic() - started
    return [
        _choice(service, question, reply, stops, most, seconds)
        for question, reply in zip(questions, replies, strict=True)
    ]


def _choice(  # noqa: PLR0913
    service: Service,
    question: str,
    reply: Reply,
    stops: Sequence[str],
    most: int | None,
    seconds: float,
) -> _Choice:
    text, finish = ABSTAIN_ANSWER if reply.abstained else reply.text, "stop"
    ends = [at for at in (text.find(stop) for stop in stops) if at >= 0]
    if ends:
        text = text[: min(ends)]
    if most is not None:
        text, cut = service.first_tokens(text, most)
        finish = "length" if cut else "stop"
    written = service.count_tokens(text)
    read = max(reply.tokens - written, service.count_tokens(question))
    memo = reply_json(reply, seconds)
    return _Choice(text, finish, read, written, memo)


def _head(service: Service, prefix: str, kind: str, model: str) -> dict[str, Any]:
    return {
        "id": f"{prefix}-{uuid.uuid4().hex}",
        "object": kind,
        "created": int(time.time()),
        "model": model,
        "system_fingerprint": f"gen-{service.engine.number}",
    }


def _usage(choices: Sequence[_Choice]) -> dict[str, int]:
    read = sum(one.prompt_tokens for one in choices)
    written = sum(one.completion_tokens for one in choices)
    return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}


def _memo(choices: Sequence[_Choice]) -> Any:
    """Confidence, sources and abstention: of the one choice, or of each."""
    return choices[0].memo if len(choices) == 1 else [one.memo for one in choices]


def _whole(
    head: dict[str, Any], choices: Sequence[_Choice], rows: list[dict[str, Any]]
) -> Response:
    body = {**head, "choices": rows, "usage": _usage(choices), "memo": _memo(choices)}
    return JSONResponse(body)


def _chat_chunks(head: dict[str, Any], choice: _Choice) -> Iterator[dict[str, Any]]:
    head = {**head, "object": "chat.completion.chunk"}

    def chunk(delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
        row = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return {**head, "choices": [row]}

    yield chunk({"role": "assistant", "content": ""})
    for piece in _PIECE.findall(choice.text):
        yield chunk({"content": piece})
    yield {**chunk({}, choice.finish), "memo": choice.memo}


def _text_chunks(head: dict[str, Any], choices: Sequence[_Choice]) -> Iterator[dict[str, Any]]:
    for number, choice in enumerate(choices):
        row = {"index": number, "logprobs": None}
        for piece in _PIECE.findall(choice.text):
            yield {**head, "choices": [{**row, "text": piece, "finish_reason": None}]}
        last = [{**row, "text": "", "finish_reason": choice.finish}]
        yield {**head, "choices": last, "memo": choice.memo}


def _stream(
    chunks: Iterator[dict[str, Any]],
    head: dict[str, Any],
    choices: Sequence[_Choice],
    body: ChatRequest | CompletionRequest,
) -> Response:
    """Server-sent events. The answer is complete before the first one: only then is it known
    whether the memory abstains."""
    usage = body.stream_options is not None and body.stream_options.include_usage

    def lines() -> Iterator[str]:
        kind = None
        for chunk in chunks:
            kind = chunk["object"]
            yield _event({**chunk, "usage": None} if usage else chunk)
        if usage:
            yield _event({**head, "object": kind, "choices": [], "usage": _usage(choices)})
        yield "data: [DONE]\n\n"

    return StreamingResponse(lines(), media_type="text/event-stream")


def _event(value: dict[str, Any]) -> str:
    return f"data: {json.dumps(value)}\n\n"
