"""Reading a request's body within limits, before anything looks at it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from memo_dist.serve.errors import ApiError, invalid

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]


class ClientGoneError(Exception):
    """The client closed the connection before its request was complete."""


async def read_body(receive: Receive, most: int, seconds: float) -> bytes:
    """The whole body.

    Args:
        receive: of ASGI.
        most: bytes.
        seconds: for all of it.

    Raises:
        ApiError: 413, it is larger; 408, it did not come in time.
        ClientGoneError: the client has closed the connection.
    """
    parts, size = [], 0
    try:
        async with asyncio.timeout(seconds):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientGoneError
                parts.append(message.get("body", b""))
                size += len(parts[-1])
                if size > most:
                    raise too_large(most)
                if not message.get("more_body", False):
                    return b"".join(parts)
    except TimeoutError:
        late = "the body did not arrive within serve.body_seconds"
        raise ApiError(408, "timeout", late) from None


def too_large(most: int) -> ApiError:
    """The refusal of a large body."""
    return ApiError(413, "too_large", f"the body is over {most // 1024} KiB (serve.max_body_kb)")


def check_json(body: bytes, depth: int) -> None:
    """Refuse what is no JSON text of UTF-8, is nested deeper than ``depth``, or holds half a
    surrogate pair, which no file can hold.

    Raises:
        ApiError: 400.
    """
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError:
        raise invalid("the body is not UTF-8") from None
    _check_depth(text, depth)
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        raise invalid("the body holds half a surrogate pair") from None
    except (ValueError, RecursionError):  # also numbers of more than 4300 digits
        raise invalid("the body is not JSON") from None


def _check_depth(text: str, most: int) -> None:
    depth, inside, escaped = 0, False, False
    for character in text:
        if inside:
            inside = escaped or character != '"'
            escaped = character == "\\" and not escaped
        elif character == '"':
            inside = True
        elif character in "[{":
            depth += 1
            if depth > most:
                raise invalid(f"the JSON is nested deeper than {most} (serve.max_json_depth)")
        elif character in "]}":
            depth -= 1


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON")
