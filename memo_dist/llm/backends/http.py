"""The HTTP layer of the hosted backends: one connection pool a worker, statuses as faults."""

from __future__ import annotations

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from email.utils import parsedate_to_datetime
from math import ceil
from time import time
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp

from memo_dist.config.model_schema import EndpointConfig
from memo_dist.errors import UsageError
from memo_dist.io.urls import read_url
from memo_dist.llm.backends.base import (
    Answer,
    BackendFault,
    ConnectionBroken,
    EndpointRefused,
    RateLimited,
    RequestRefused,
    ServerFault,
    Unreachable,
)
from memo_dist.llm.backends.dialect import MOST_CHANGES, Dialect, shorter
from memo_dist.llm.requests import CHARS_PER_TOKEN, Request, Usage

HIDDEN = "[hidden]"
MAX_ANSWER_BYTES = 16 * 2**20
LEAST_SECRET = 12
"""Characters of a key that is cut out of good answers too: a shorter one (``test``, ``none``, for
servers that read none) is a word that answers hold."""
MAX_MESSAGE_CHARS = 300
_ENDPOINT_STATUSES = frozenset({401, 402, 403, 404, 405})
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_HOPELESS = ("request too large", "insufficient_quota")
"""Refusals that come as 429 although waiting does not help."""
_BY_WORDS = (
    (("rate_limit", "rate limit", "too many requests", "overloaded"), 429),
    (("invalid_request", "invalid request", "bad request", "context length"), 400),
    (("authentication", "api key", "api_key", "unauthorized"), 401),
    (("quota", "billing", "payment"), 402),
)
"""Words of an error object without a status, and the status that they stand for."""


def read_key(config: EndpointConfig) -> str:
    """The key from the environment variable that ``api_key_env`` names ("" for none).

    Raises:
        UsageError: the variable is not set; names it.
    """
    name = config.api_key_env
    if not name:
        return ""
    key = os.environ.get(name, "").strip()
    if not key:
        raise UsageError(
            f"{config.group}.api_key_env={name}, but the environment variable {name} is not set"
            " (on a cluster it must be set where the workers run)"
        )
    return key


class HttpClient:
    """Posts JSON to one URL; a key goes into headers and is cut out of whatever comes back."""

    def __init__(self, config: EndpointConfig, url: str, headers: Mapping[str, str]) -> None:
        self._url = url
        self._key = read_key(config)
        self._headers = {k: v.replace("{key}", self._key) for k, v in headers.items()}
        self._timeout = aiohttp.ClientTimeout(
            total=config.request_timeout, sock_connect=config.connect_timeout
        )
        self._connections = config.max_in_flight
        self._proxy = _proxy(url)
        self._session: aiohttp.ClientSession | None = None
        self.name = f"{urlsplit(url).hostname}:{urlsplit(url).port or ''}".rstrip(":")

    async def post(self, body: Mapping[str, Any], tag: str) -> dict[str, Any]:
        """Post and return the JSON object of a 200.

        Raises:
            BackendFault: anything else.
        """
        data = json.dumps(body, ensure_ascii=False).encode()
        headers = {"Idempotency-Key": tag}
        try:
            sent = self._open().post(
                self._url, data=data, headers=headers, proxy=self._proxy, allow_redirects=False
            )
            async with sent as response:
                if response.status in _REDIRECTS:
                    raise _redirected(response, self.name)
                sent_back = await _read(response)
                text = self.clean(sent_back)
                if response.status == 200:
                    return _object(text if self._is_secret else sent_back, text, self.name)
                raise _fault(response.status, response.headers, text, self.name)
        except TimeoutError as error:
            if isinstance(error, aiohttp.ConnectionTimeoutError):
                raise Unreachable(f"{self.name}: no connection in time") from None
            limit = self._timeout.total
            raise ServerFault(f"timeout: no answer within {limit:g} s") from None
        except (aiohttp.ClientConnectorError, aiohttp.ClientHttpProxyError) as error:
            raise Unreachable(self.clean(f"{self.name}: {error}")) from None
        except (aiohttp.ClientError, ValueError) as error:  # ValueError: a body that cannot unpack
            reason = self.clean(f"{self.name}: {type(error).__name__}: {error}")
            raise ConnectionBroken(f"the connection broke before an answer: {reason}") from None

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=self._connections, keepalive_timeout=60),
                headers={"Content-Type": "application/json", **self._headers},
                timeout=self._timeout,
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._session

    @property
    def _is_secret(self) -> bool:
        return len(self._key) >= LEAST_SECRET

    def clean(self, text: str) -> str:
        """Servers echo keys in their error messages."""
        return text.replace(self._key, HIDDEN) if self._key else text


async def _read(response: aiohttp.ClientResponse) -> str:
    """The body; one that does not end is no answer."""
    parts, size = [], 0
    async for part in response.content.iter_any():
        parts.append(part)
        size += len(part)
        if size > MAX_ANSWER_BYTES:
            raise ServerFault(f"the answer is longer than {MAX_ANSWER_BYTES >> 20} MiB")
    return b"".join(parts).decode("utf-8-sig", "replace")


def _redirected(response: aiohttp.ClientResponse, name: str) -> EndpointRefused:
    """Prompts and keys go where the user said, and nowhere else."""
    target = response.headers.get("Location", "")
    there = read_url(target)
    if there is None:
        where = target.partition("?")[0].partition("#")[0].rpartition("@")[2]
    else:
        where = f"{there.scheme}://{there.hostname}{there.path}" if there.hostname else there.path
    return EndpointRefused(
        f"{name} answers HTTP {response.status}: it redirects to {where!r:.200}, which is not"
        " followed; name that URL"
    )


def _proxy(url: str) -> str | None:
    """The proxy that the environment names for a URL (``HTTPS_PROXY``, ``NO_PROXY``).

    Not by aiohttp's ``trust_env``, which would also send the passwords of ``~/.netrc``. This
    machine itself is always reached directly.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    if host == "localhost" or host.startswith("127.") or host == "::1" or proxy_bypass(host):
        return None
    return getproxies().get(parts.scheme)


def _object(text: str, shown: str, name: str) -> dict[str, Any]:
    """The JSON object of a 200; faults quote ``shown``, the same text without the key."""
    try:
        body = json.loads(text)
    except (ValueError, RecursionError):
        raise ServerFault(f"the answer is not JSON: {' '.join(shown.split())[:80]}") from None
    if not isinstance(body, dict):
        raise ServerFault("the answer is not a JSON object")
    error = body.get("error")
    if error:  # some gateways answer errors with 200
        raise _fault(_status(error), {}, shown, name)
    return body


def _status(error: Any) -> int:
    """The status that an error object stands for: its own, else by its words; else 500."""
    fields = error if isinstance(error, dict) else {}
    for value in (fields.get("code"), fields.get("status")):
        if str(value).isdigit() and 400 <= int(str(value)) < 600:
            return int(str(value))
    told = str(error).lower()
    return next((status for words, status in _BY_WORDS if any(w in told for w in words)), 500)


def _fault(status: int, headers: Mapping[str, str], text: str, name: str) -> BackendFault:
    message = f"HTTP {status}: {_message(text)}"
    if status == 429 and any(words in text.lower() for words in _HOPELESS):
        return RequestRefused(message)
    if status == 429:
        return RateLimited(message, _retry_after(headers))
    if status in (503, 529) and "Retry-After" in headers:
        return RateLimited(message, _retry_after(headers))
    if status >= 500 or status in (408, 409, 425):
        return ServerFault(message)
    if status in _ENDPOINT_STATUSES:
        return EndpointRefused(f"{name} answers {message}")
    return RequestRefused(message)


def _message(text: str) -> str:
    """The message of an error body of the usual forms, else its beginning."""
    try:
        error = json.loads(text)["error"]
        text = str(error["message"] if isinstance(error, dict) else error)
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    return " ".join(text.split())[:MAX_MESSAGE_CHARS]


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds of ``Retry-After``: a number, or a date."""
    value = headers.get("Retry-After")
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time())
    except ValueError:
        return None


class HostedBackend(ABC):
    """A backend behind one URL: a subclass writes the request's body and reads the answer's."""

    def __init__(self, config: EndpointConfig, url: str, headers: Mapping[str, str]) -> None:
        self._http = HttpClient(config, url, headers)
        self._dialect = Dialect(structured=config.structured == "server")

    @property
    def name(self) -> str:
        """Host and port."""
        return self._http.name

    async def complete(self, request: Request, tag: str) -> Answer:
        """See :meth:`memo_dist.llm.backends.base.Backend.complete`.

        What the server refuses of a request's parameters is left out, and the request sent again.
        """
        for left in reversed(range(MOST_CHANGES)):
            told = self._dialect.request(request)
            body = self._dialect.body(self._body(told))
            try:
                answer = self._read(await self._http.post(body, tag))
            except RequestRefused as fault:
                less = shorter(request, str(fault))
                if not left or not (self._dialect.learn(str(fault), body) or less):
                    raise
                request = less or request
            else:
                return replace(answer, usage=_counted(answer, told))
        raise AssertionError("the last send returns or raises")

    async def close(self) -> None:
        """Close the connections."""
        await self._http.close()

    def _read(self, body: dict[str, Any]) -> Answer:
        try:
            return self._answer(body)
        except ServerFault as fault:  # it may quote the body
            raise ServerFault(self._http.clean(str(fault))) from None

    @abstractmethod
    def _body(self, request: Request) -> dict[str, Any]:
        """The JSON object to post."""

    @abstractmethod
    def _answer(self, body: dict[str, Any]) -> Answer:
        """What a 200 brought; raises ServerFault where it is no answer."""


def count(value: Any) -> int:
    """A number of tokens as a server tells it; 0 for whatever is none."""
    try:
        return max(0, int(value))
    except (TypeError, ValueError, OverflowError):
        return 0


def _counted(answer: Answer, request: Request) -> Usage:
    """The tokens of an answer; estimated where the server counts none, so that budgets hold."""
    if answer.usage.prompt or answer.usage.completion:
        return answer.usage
    read = sum(len(message.content) for message in request.messages)
    return Usage(ceil(read / CHARS_PER_TOKEN), 0, ceil(len(answer.text) / CHARS_PER_TOKEN))
