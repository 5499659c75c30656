"""JSON over HTTP with one vLLM server: at a URL, or at a socket of this machine's file system."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from memo_dist.errors import RunError

_MOST_BYTES = 1 << 30
"""Of an answer: with every token's log-probability one takes about 2 MB a question."""
_MESSAGE_CHARS = 300


class UnreachableError(RunError):
    """Nothing listens there, or the connection broke."""


class RefusedError(RunError):
    """The server refuses a request.

    Attributes:
        status: of HTTP.
    """

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class Client:
    """One server; threads may share it. Redirects are not followed, proxies not used."""

    def __init__(self, where: Path | str, key: str = "", seconds: float = 120.0) -> None:
        """Nothing is sent yet.

        Args:
            where: a socket, or a base URL (``http://HOST:PORT/v1``).
            key: API key; "": none.
            seconds: maximum time between two parts of an answer.
        """
        self.name = where if isinstance(where, str) else f"the socket {where}"
        self._where, self._seconds, self._key = where, seconds, key

    def get(self, path: str) -> dict[str, Any]:
        """The JSON object at ``path`` (``/models``); see :meth:`post`."""
        return self._send("GET", path, None)

    def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """The JSON object that answers ``body``.

        Raises:
            UnreachableError: nothing listens there, or the connection broke.
            RefusedError: the server answers another status than 200.
            RunError: it does not answer in time, or with something else.
        """
        return self._send("POST", path, json.dumps(body).encode())

    def _send(self, method: str, path: str, body: bytes | None) -> dict[str, Any]:
        connection, base = self._connection()
        headers = {"Content-Type": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        try:
            connection.request(method, base + path, body, headers)
            response = connection.getresponse()
            text = response.read(_MOST_BYTES)
        except TimeoutError:
            limit = f"{self._seconds:g} s (serve.answer_seconds)"
            raise RunError(f"vLLM at {self.name} did not answer within {limit}") from None
        except (OSError, http.client.HTTPException) as error:
            raise UnreachableError(f"vLLM at {self.name}: {self._clean(repr(error))}") from None
        finally:
            connection.close()
        if response.status != http.client.OK:
            said = self._clean(_message(text))
            raise RefusedError(
                f"vLLM at {self.name} answers HTTP {response.status}: {said}", response.status
            )
        return _object(text, self.name)

    def _connection(self) -> tuple[http.client.HTTPConnection, str]:
        """A new connection, and the path that all paths begin with."""
        if isinstance(self._where, Path):
            return _SocketConnection(self._where, self._seconds), "/v1"
        parts = urlsplit(self._where)
        base = parts.path.rstrip("/")
        host, port = parts.hostname or "", parts.port
        if parts.scheme == "https":
            context = ssl.create_default_context()
            secure = http.client.HTTPSConnection(host, port, timeout=self._seconds, context=context)
            return secure, base
        return http.client.HTTPConnection(host, port, timeout=self._seconds), base

    def _clean(self, text: str) -> str:
        """Servers may echo keys in their messages."""
        return text.replace(self._key, "[hidden]") if self._key else text


class _SocketConnection(http.client.HTTPConnection):
    """HTTP over a socket of the file system."""

    def __init__(self, path: Path, seconds: float) -> None:
        super().__init__("localhost", timeout=seconds)
        self._path = path

    def connect(self) -> None:
        """Connect to the socket."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def _object(text: bytes, name: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise RunError(f"vLLM at {name} does not answer with a JSON object")
    return found


def _message(text: bytes) -> str:
    """The message of an error body, else its beginning."""
    words = text[: _MESSAGE_CHARS * 10].decode("utf-8", "replace")
    try:
        found = json.loads(words)
        words = str((found.get("error") or found)["message"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass
    return " ".join(words.split())[:_MESSAGE_CHARS]
