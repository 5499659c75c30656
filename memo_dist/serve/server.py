"""Running the application: address, TLS, log, signals."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
import ssl
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn

from memo_dist.cluster.resources import check_addresses, used_addresses
from memo_dist.config.schema import Config
from memo_dist.config.serve_schema import ServeConfig
from memo_dist.errors import RunError, UsageError
from memo_dist.io.runfolder import RunFolder
from memo_dist.serve.app import build
from memo_dist.serve.connection import guarded_protocol
from memo_dist.serve.guard import is_loopback
from memo_dist.serve.keys import VARIABLE, KeyRing
from memo_dist.serve.service import Service

_HEADER_BYTES = 16 * 1024
_KEEP_ALIVE_SECONDS = 5
_BACKLOG = 1024


_ADDRESSES = 2**30
"""Bytes of address space beyond what the process has at its start: stacks and arenas of threads."""


def serve(run: RunFolder, config: Config, only_mcp: bool = False) -> None:
    """Serve a run until SIGTERM or SIGINT; requests in progress are finished.

    Args:
        run: its memory answers.
        config: ``serve``, and of the modes ``memory``, ``fusion``, ``executive``, ``protocol``.
        only_mcp: offer MCP alone.

    Raises:
        UsageError: the address needs keys, TLS files cannot be loaded, a mode cannot be opened, or
            ``ulimit -v`` leaves no room for threads.
        RunError: the port is taken, or the buffer cannot be opened.
    """
    settings = config.serve
    keys = KeyRing.parse(os.environ.get(VARIABLE, ""))
    check_address(settings, keys)
    check_addresses(used_addresses() + _ADDRESSES, "a server")
    _check_tls(settings)
    listener = _bind(settings)
    with _logged_to_stderr(), _session(config):
        _serve(run, config, keys, listener, only_mcp)


def _serve(
    run: RunFolder, config: Config, keys: KeyRing, listener: socket.socket, only_mcp: bool
) -> None:
    settings, service = config.serve, Service(run, config)
    service.engine.refresh()  # before anything listens: a memory that does not load ends the verb
    app = build(service, keys, _mcp_routes(service, only_mcp), only_mcp)
    server = uvicorn.Server(_uvicorn(app, settings))

    def stop(number: int, frame: FrameType | None) -> None:
        server.should_exit = True

    # For a signal before uvicorn handles it, and the one that it raises again when it has ended.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    listener.listen(_BACKLOG)
    scheme = "https" if settings.tls_cert else "http"
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    path = "/mcp" if only_mcp else ""
    print(f"serving {run.root} on {scheme}://{shown}:{port}{path}", flush=True)
    server.run(sockets=[listener])


def serve_stdio(run: RunFolder, config: Config) -> None:
    """Serve one MCP client on standard input and output.

    Raises:
        UsageError, RunError: see :func:`serve`.
    """
    from memo_dist.serve.mcp_tools import run_stdio

    with _logged_to_stderr(), _session(config):
        service = Service(run, config)
        service.engine.refresh()
        asyncio.run(run_stdio(service))


def _session(config: Config) -> AbstractContextManager[None]:
    """What must be open while a service is."""
    if not config.serve.replicas:
        return nullcontext()
    from memo_dist.serve.replicas import session

    return session(config)


def check_address(settings: ServeConfig, keys: KeyRing) -> None:
    """Refuse an address that others reach, without keys and without ``serve.open=yes``.

    Raises:
        UsageError: says what to set.
    """
    if is_loopback(settings.host) or len(keys) or settings.open == "yes":
        return
    raise UsageError(
        f"serve.host={settings.host} can be reached by other machines: set keys in {VARIABLE}"
        " (see docs/serving.md), or serve.open=yes to let everyone in"
    )


def _check_tls(settings: ServeConfig) -> None:
    if not settings.tls_cert:
        return
    for name in ("tls_cert", "tls_key"):
        if not Path(getattr(settings, name)).is_file():
            raise UsageError(f"serve.{name}={getattr(settings, name)} is not a file")
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(settings.tls_cert, settings.tls_key, password=lambda: "")
    except (OSError, ssl.SSLError, ValueError) as error:
        raise UsageError(
            f"serve.tls_cert={settings.tls_cert} and serve.tls_key={settings.tls_key} cannot be"
            f" loaded: {error}"
        ) from error


def _bind(settings: ServeConfig) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        raise RunError(
            f"cannot listen on serve.host={settings.host}, serve.port={settings.port}:"
            f" {error.strerror or error}"
        ) from error
    return listener


def _uvicorn(app: Any, settings: ServeConfig) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=guarded_protocol(settings.header_seconds, settings.write_seconds),
        loop="asyncio",
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=settings.max_connections,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=max(1, round(settings.drain_seconds)),
        h11_max_incomplete_event_size=_HEADER_BYTES,
        ssl_certfile=settings.tls_cert or None,
        ssl_keyfile=settings.tls_key or None,
    )


def _mcp_routes(service: Service, needed: bool) -> Any:
    """The routes of MCP; None where its SDK is not installed."""
    if find_spec("mcp") is None and not needed:
        return None
    from memo_dist.serve.mcp_tools import http_routes

    return http_routes(service)


class _JsonLines(logging.Formatter):
    """One JSON object a line; lines of the access log are that already."""

    def format(self, record: logging.LogRecord) -> str:
        """See logging."""
        text = record.getMessage()
        if record.name == "memo_dist.serve.access":
            return text
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.created))
        return json.dumps({"time": now, "event": "log", "level": record.levelname, "message": text})


@contextmanager
def _logged_to_stderr() -> Iterator[None]:
    """What the package logs, as JSON lines; afterwards its logger is as it was."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonLines())
    logger = logging.getLogger("memo_dist")
    before = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    # The MCP SDK would otherwise print what every library logs, questions included.
    logging.getLogger().addHandler(logging.NullHandler())
    for name in ("uvicorn", "uvicorn.error", "mcp"):  # tracebacks, and what clients have sent
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before[0])
        logger.propagate = before[1]
