"""The door of the server: who may come in, with how much, and what an error looks like.

An ASGI middleware around the whole application. Nothing behind it sees a request without a known
caller, a compressed or oversized body, or a browser's request from another site.
"""

from __future__ import annotations

import hmac
import json
import logging
import math
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from memo_dist.config.serve_schema import ServeConfig
from memo_dist.io.urls import read_url
from memo_dist.serve.bodies import (
    ClientGoneError,
    Message,
    Receive,
    check_json,
    read_body,
    too_large,
)
from memo_dist.serve.errors import ApiError, forbidden
from memo_dist.serve.keys import ANYONE, Caller, KeyRing
from memo_dist.serve.limits import RateLimit
from memo_dist.serve.metrics import Metrics

Send = Callable[[Message], Awaitable[None]]
Scope = dict[str, Any]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

OPEN_PATHS = frozenset({"/healthz", "/readyz", "/"})
"""What says nothing of the memory needs no key."""
LOOPBACK = ("127.0.0.1", "localhost", "::1")
_WITH_BODY = ("POST", "PUT", "PATCH", "DELETE")
_MAX_TARGET = 4096
_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-store"),
    (b"referrer-policy", b"no-referrer"),
)
_TYPES = {400: "invalid_request_error", 401: "authentication_error", 403: "permission_error",
          404: "not_found_error", 429: "rate_limit_error"}  # fmt: skip
logger = logging.getLogger("memo_dist.serve.access")


class Guard:
    """The middleware; see the module."""

    def __init__(self, app: App, settings: ServeConfig, keys: KeyRing, metrics: Metrics) -> None:
        self._app, self._settings, self._keys, self._metrics = app, settings, keys, metrics
        self._rates = RateLimit(settings.requests_per_minute)
        self._active = 0
        self._hosts = _allowed_hosts(settings, keys)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await self._request(scope, receive, send)
        else:  # no endpoint speaks WebSocket
            await send({"type": "websocket.close", "code": 1008})

    async def _request(self, scope: Scope, receive: Receive, send: Send) -> None:
        started, sent = time.monotonic(), _Sent(send)
        request = scope["state"]["request"] = uuid.uuid4().hex[:16]
        self._active += 1
        try:
            receive = await self._enter(scope, receive)
            await self._app(scope, receive, sent)
        except ClientGoneError:
            pass
        except ApiError as error:
            await self._refuse(error, sent)
        except Exception as error:
            # The class names the fault; its text might hold a question or a path.
            logger.error(_line(event="error", request=request, error=type(error).__name__))
            await self._refuse(
                ApiError(500, "internal_error", f"the server failed; request {request}"), sent
            )
        finally:
            self._active -= 1
            self._log(scope, sent.status, time.monotonic() - started)

    async def _enter(self, scope: Scope, receive: Receive) -> Receive:
        """Check a request; returns what gives its body to the application."""
        headers = _headers(scope)
        health = scope["path"] in ("/healthz", "/readyz")
        if self._active > self._settings.max_concurrent and not health:
            message = f"{self._settings.max_concurrent} requests are in progress already"
            raise ApiError(503, "overloaded", message, retry_after=1)
        if len(scope.get("raw_path") or b"") + len(scope["query_string"]) > _MAX_TARGET:
            raise ApiError(414, "too_large", f"the URL is over {_MAX_TARGET} bytes")
        self._check_host(headers)
        self._check_origin(scope, headers)
        caller = self._caller(scope, headers)
        scope["state"]["caller"] = caller
        source = caller.name if len(self._keys) else str((scope.get("client") or ("",))[0])
        wait = 0.0 if health else self._rates.take(source)
        if wait:
            raise ApiError(429, "rate_limited", "too many requests (serve.requests_per_minute)",
                           retry_after=math.ceil(wait))  # fmt: skip
        if scope["method"] not in _WITH_BODY:
            return receive
        return await self._body(headers, receive)

    def _check_host(self, headers: Mapping[str, str]) -> None:
        """A page of another site that had its name point here (DNS rebinding) sends its own."""
        parts = read_url(f"//{headers.get('host', '')}")
        host = (parts and parts.hostname) or ""
        if self._hosts and host not in self._hosts:
            raise ApiError(421, "wrong_host", "this server does not answer under this Host; see"
                           " serve.hosts")  # fmt: skip

    def _check_origin(self, scope: Scope, headers: Mapping[str, str]) -> None:
        """No other site's page may call (CORS is off), not even without reading the answer."""
        origin = headers.get("origin")
        if origin is not None:
            own = f"{scope['scheme']}://{headers.get('host', '')}"
            if not hmac.compare_digest(origin.encode(), own.encode()):
                raise forbidden("requests of other sites are refused")

    def _caller(self, scope: Scope, headers: Mapping[str, str]) -> Caller:
        if not len(self._keys):
            return ANYONE
        if scope["path"] in OPEN_PATHS:
            return Caller("no key", frozenset())
        kind, _, secret = headers.get("authorization", "").partition(" ")
        given = secret.strip() if kind.lower() in ("bearer", "token") else ""
        caller = self._keys.find(given or headers.get("x-api-key", ""))
        if caller is None:
            raise ApiError(401, "invalid_api_key", "give a key of this server: Authorization:"
                           " Bearer KEY")  # fmt: skip
        return caller

    async def _body(self, headers: Mapping[str, str], receive: Receive) -> Receive:
        most = self._settings.max_body_kb * 1024
        if headers.get("content-encoding", "identity").lower() != "identity":
            raise ApiError(415, "unsupported_encoding", "compressed bodies are refused")
        length = headers.get("content-length", "0")
        if length.isdigit() and int(length) > most:
            raise too_large(most)
        body = await read_body(receive, most, self._settings.body_seconds)
        if body:
            kind = headers.get("content-type", "").partition(";")[0].strip().lower()
            if kind != "application/json":
                raise ApiError(415, "unsupported_type", "send Content-Type: application/json")
            check_json(body, self._settings.max_json_depth)
        return _replay(body, receive)

    async def _refuse(self, error: ApiError, sent: _Sent) -> None:
        self._metrics.refused.labels(error.code).inc()
        if sent.status:  # the answer has begun: only ending it early tells the client
            return
        body = json.dumps(error_body(error)).encode()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
        ]
        if error.retry_after:
            headers.append((b"retry-after", str(error.retry_after).encode()))
        if error.status == 401:
            headers.append((b"www-authenticate", b"Bearer"))
        headers.append((b"connection", b"close"))  # what the client may still send is not read
        await sent({"type": "http.response.start", "status": error.status, "headers": headers})
        await sent({"type": "http.response.body", "body": body})

    def _log(self, scope: Scope, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "other")
        method = scope["method"] if scope["method"] in ("GET", *_WITH_BODY) else "other"
        self._metrics.seconds.labels(route, method, str(status)).observe(seconds)
        caller = scope["state"].get("caller")
        logger.info(
            _line(
                event="request",
                request=scope["state"]["request"],
                method=method,
                route=route,
                status=status,
                ms=round(seconds * 1000, 1),
                key=caller.name if caller else "",
            )
        )


class _Sent:
    """Passes a response on, with the headers that every one has, and remembers its status."""

    def __init__(self, send: Send) -> None:
        self._send, self.status = send, 0

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            given = list(message.get("headers", ()))
            names = {name.lower() for name, _ in given}
            message["headers"] = given + [row for row in _HEADERS if row[0] not in names]
        await self._send(message)


def error_body(error: ApiError) -> dict[str, Any]:
    """In OpenAI's form, with mem0's ``detail`` beside it."""
    kind = _TYPES.get(error.status, "invalid_request_error")
    return {
        "error": {
            "message": error.message,
            "type": "server_error" if error.status >= 500 else kind,
            "param": error.param or None,
            "code": error.code,
        },
        "detail": error.message,
    }


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches the address."""
    return host in LOOPBACK or host.startswith("127.")


def _allowed_hosts(settings: ServeConfig, keys: KeyRing) -> frozenset[str]:
    """Names for the Host header; empty: any."""
    if not is_loopback(settings.host) and not settings.hosts:
        return frozenset()
    return frozenset({*LOOPBACK, settings.host.lower(), *(name.lower() for name in settings.hosts)})


def _headers(scope: Scope) -> dict[str, str]:
    """Header fields by lower-case name; one that comes twice, joined: no single value passes."""
    found: dict[str, str] = {}
    for name, value in scope["headers"]:
        key, text = name.decode("latin-1").lower(), value.decode("latin-1")
        found[key] = f"{found[key]},{text}" if key in found else text
    return found


def _replay(body: bytes, receive: Receive) -> Receive:
    """Gives a body that was read once more, then what the connection says."""
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


def _line(**values: Any) -> str:
    return json.dumps({"time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), **values})
