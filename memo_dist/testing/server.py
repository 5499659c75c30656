"""A server with OpenAI's (and Anthropic's) chat API that plays a model, for tests and benchmarks.

    python -m memo_dist.testing.server --port 0 --latency 2 --fault malformed=0.3

It prints its base URL as the first line and listens on the loopback only. Answers come from the
prompt's own sentences and obey the request's JSON schema. Answers and faults are functions of the
request and the attempt, which the client names in the ``Idempotency-Key`` header
(``<key>-<attempt>``; without one, the body's hash and 0).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiohttp import web

from memo_dist.testing.answers import answer_text
from memo_dist.testing.executive import ScriptedExecutive
from memo_dist.testing.faults import FAULTS, FaultPlan

CHARS_PER_TOKEN = 4
SLOW_PIECES = 20
MAX_BODY_BYTES = 64 * 2**20
NO_FAULTS = FaultPlan({})


@dataclass(frozen=True)
class Behaviour:
    """How the server behaves.

    Attributes:
        latency: seconds before an answer.
        tokens_per_second: speed of writing after that; 0: all at once.
        capacity: requests at a time, more get a 429; 0: no limit.
        retry_after: seconds that a 429 asks for.
        key: the key that it wants; "" for none.
        faults: which requests go wrong.
        executive: replies by script instead of making answers of the prompt's sentences.
    """

    latency: float = 0.0
    tokens_per_second: float = 0.0
    capacity: int = 0
    retry_after: float = 0.2
    key: str = ""
    faults: FaultPlan = NO_FAULTS
    executive: ScriptedExecutive | None = None


@dataclass(frozen=True)
class _Call:
    """One request, whichever API it came by.

    Attributes:
        key, attempt: from the ``Idempotency-Key``.
        asked: the user turns.
        tokens: of all turns.
        schema: that the answer must obey.
        max_tokens: limit of the answer.
    """

    key: str
    attempt: int
    asked: list[str]
    tokens: int
    schema: dict[str, Any] | None
    max_tokens: int

    def text(self, fault: str, executive: ScriptedExecutive | None) -> tuple[str, str]:
        """The answer's text and finish reason."""
        if executive is not None and self.schema is not None:
            text = executive.reply(self.asked, self.schema)
        else:  # made of the longest turn, which is not a repair turn
            text = answer_text(max(self.asked, key=len), self.schema, self.key)
        if fault == "truncated":
            return text[: len(text) // 2], "length"
        if fault == "malformed":
            return f"Sure! {text[:-2]}", "stop"
        if fault == "whitespace":
            return "{" + " \n" * self.max_tokens, "length"
        if fault == "schema":
            return json.dumps({"unexpected": text[:40]}), "stop"
        if len(text) > self.max_tokens * CHARS_PER_TOKEN:
            return text[: self.max_tokens * CHARS_PER_TOKEN], "length"
        return text, "stop"


class DummyServer:
    """The handlers, and the log of what they got: one JSON line a request and an answer."""

    def __init__(self, behaviour: Behaviour, log: Path | None) -> None:
        self._behaviour = behaviour
        self._in_flight = 0
        self._log_file: int | None = None
        if log is not None:
            self._log_file = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)

    def app(self) -> web.Application:
        """The routes."""
        app = web.Application(client_max_size=MAX_BODY_BYTES)
        app.router.add_post("/v1/chat/completions", self._openai)
        app.router.add_post("/v1/messages", self._anthropic)
        return app

    async def _openai(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        form = body.get("response_format") or {}
        schema = form.get("json_schema", {}).get("schema")
        call = _call(request, body, schema)
        given = request.headers.get("Authorization", "").removeprefix("Bearer ")

        def answer(text: str, finish: str) -> dict[str, Any]:
            message = {"role": "assistant", "content": text}
            return {
                "id": f"chatcmpl-{call.key[:12]}",
                "object": "chat.completion",
                "model": body["model"],
                "choices": [{"index": 0, "message": message, "finish_reason": finish}],
                "usage": {
                    "prompt_tokens": call.tokens,
                    "completion_tokens": _tokens(text),
                    "total_tokens": call.tokens + _tokens(text),
                },
            }

        return await self._serve(request, call, given, answer)

    async def _anthropic(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        tools = body.get("tools") or [{}]
        call = _call(request, body, tools[0].get("input_schema"))

        def answer(text: str, finish: str) -> dict[str, Any]:
            content = [{"type": "text", "text": text}]
            if call.schema is not None and finish == "stop":
                content = [{"type": "tool_use", "name": tools[0]["name"], "input": _value(text)}]
            return {
                "type": "message",
                "model": body["model"],
                "content": content,
                "stop_reason": "max_tokens" if finish == "length" else "end_turn",
                "usage": {
                    "input_tokens": call.tokens,
                    "output_tokens": _tokens(text),
                },
            }

        return await self._serve(request, call, request.headers.get("x-api-key", ""), answer)

    async def _serve(
        self, request: web.Request, call: _Call, given: str, answer: Any
    ) -> web.StreamResponse:
        """Log, wait, fail as planned or answer, log."""
        self._log(call, "received", "")
        behaviour = self._behaviour
        if behaviour.key and given != behaviour.key:
            return _error(401, f"Incorrect API key provided: {given}")
        fault = behaviour.faults.fault(call.key, call.attempt)
        if 0 < behaviour.capacity <= self._in_flight:
            fault = "429"
        self._in_flight += 1
        try:
            return await self._respond(request, call, fault, answer)
        finally:
            self._in_flight -= 1
            self._log(call, "done", fault)

    async def _respond(
        self, request: web.Request, call: _Call, fault: str, answer: Any
    ) -> web.StreamResponse:
        if fault == "429":
            return _error(429, "slow down", {"Retry-After": str(self._behaviour.retry_after)})
        if fault == "500":
            return _error(500, "internal error")
        if fault == "reset":
            assert request.transport is not None
            request.transport.close()
            return web.Response()
        if fault == "timeout":
            await asyncio.sleep(3600)
        text, finish = call.text(fault, self._behaviour.executive)
        speed = self._behaviour.tokens_per_second
        await asyncio.sleep(self._behaviour.latency + (_tokens(text) / speed if speed else 0))
        data = json.dumps(answer(text, finish)).encode()
        if fault == "slow":
            return await _drip(request, data)
        return web.Response(body=data, content_type="application/json")

    def _log(self, call: _Call, event: str, fault: str) -> None:
        if self._log_file is None:
            return
        row = {"time": time.time(), "key": call.key, "attempt": call.attempt, "event": event}
        os.write(self._log_file, (json.dumps({**row, "fault": fault}) + "\n").encode())


def _call(request: web.Request, body: dict[str, Any], schema: dict[str, Any] | None) -> _Call:
    tag = request.headers.get("Idempotency-Key")
    if tag is None:
        tag = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest() + "-0"
    key, _, attempt = tag.rpartition("-")
    turns = [turn["content"] for turn in body["messages"]]
    asked = [turn["content"] for turn in body["messages"] if turn["role"] == "user"]
    return _Call(
        key=key,
        attempt=int(attempt),
        asked=asked,
        tokens=sum(_tokens(turn) for turn in turns),
        schema=schema,
        max_tokens=int(body.get("max_tokens") or 1024),
    )


async def _drip(request: web.Request, data: bytes) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    await response.prepare(request)
    size = max(1, len(data) // SLOW_PIECES)
    for start in range(0, len(data), size):
        await response.write(data[start : start + size])
        await asyncio.sleep(0.05)
    await response.write_eof()
    return response


def _error(status: int, message: str, headers: dict[str, str] | None = None) -> web.Response:
    return web.json_response({"error": {"message": message}}, status=status, headers=headers)


def _tokens(text: str) -> int:
    return -(-len(text) // CHARS_PER_TOKEN)


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return {"text": text}


async def serve(behaviour: Behaviour, port: int, log: Path | None) -> None:
    """Listen on the loopback until cancelled; prints the base URL."""
    runner = web.AppRunner(DummyServer(behaviour, log).app(), access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port, backlog=4096, reuse_address=True)
    await site.start()
    print(f"http://127.0.0.1:{runner.addresses[0][1]}/v1", flush=True)
    try:
        await asyncio.Event().wait()
    finally:
        await runner.cleanup()


def main() -> None:
    """The command line."""
    faults = "; ".join(f"{name}: {text}" for name, text in FAULTS.items())
    parser = argparse.ArgumentParser(prog="python -m memo_dist.testing.server")
    parser.add_argument("--port", type=int, default=0, help="0: any free one")
    parser.add_argument("--latency", type=float, default=0.0, help="seconds")
    parser.add_argument("--tokens-per-second", type=float, default=0.0, help="0: all at once")
    parser.add_argument("--capacity", type=int, default=0, help="requests at a time; more get 429")
    parser.add_argument("--retry-after", type=float, default=0.2, help="seconds, of a 429")
    parser.add_argument("--key-env", default="", help="environment variable of the key it wants")
    parser.add_argument("--script", type=Path, help="questions with steps: plays the executive")
    parser.add_argument("--log", type=Path, help="append one line a request and answer")
    parser.add_argument("--fault", action="append", default=[], help=f"name=fraction; {faults}")
    options = parser.parse_args()
    try:
        plan = FaultPlan.parse(options.fault)
    except ValueError as error:
        parser.error(str(error))
    behaviour = Behaviour(
        latency=options.latency,
        tokens_per_second=options.tokens_per_second,
        capacity=options.capacity,
        retry_after=options.retry_after,
        key=os.environ[options.key_env] if options.key_env else "",
        faults=plan,
        executive=ScriptedExecutive(options.script) if options.script else None,
    )
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(behaviour, options.port, options.log))


if __name__ == "__main__":
    main()
