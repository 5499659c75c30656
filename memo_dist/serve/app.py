"""The application: every API over one service, behind the guard."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from importlib.resources import files
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute

from memo_dist.serve import mem0_api, native, openai_api
from memo_dist.serve.errors import ApiError, invalid
from memo_dist.serve.guard import App, Guard, error_body
from memo_dist.serve.keys import KeyRing
from memo_dist.serve.native import caller_of
from memo_dist.serve.service import Service
from memo_dist.version import VERSION

_SCRIPT = re.compile(r"<script>(.*?)</script>", re.DOTALL)
_STYLE = re.compile(r"<style>(.*?)</style>", re.DOTALL)
Lifespan = Callable[[], AbstractAsyncContextManager[None]]


def build(
    service: Service,
    keys: KeyRing,
    more: tuple[list[BaseRoute], Lifespan] | None = None,
    only_more: bool = False,
) -> App:
    """The ASGI application.

    Args:
        service: answers; it is started and stopped with the application.
        keys: of the callers; empty: everyone may do everything.
        more: further routes (MCP), and what must be open while they are served.
        only_more: serve these, health and metrics alone.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            await service.start()
            stack.push_async_callback(service.stop)
            if more is not None:
                await stack.enter_async_context(more[1]())
            yield

    app = FastAPI(title="memo-dist", version=VERSION, docs_url=None, redoc_url=None,
                  lifespan=lifespan, redirect_slashes=False)  # fmt: skip
    _add_health(app, service)
    if not only_more:
        for room in (native, openai_api, mem0_api):
            app.include_router(room.router(service))
        _add_page(app)
    if more is not None:
        app.router.routes.extend(more[0])
    _add_errors(app)
    return Guard(app, service.config.serve, keys, service.metrics)


def _add_health(app: FastAPI, service: Service) -> None:
    @app.get("/healthz", tags=["operation"])
    async def healthz() -> dict[str, str]:
        """The process lives."""
        return {"status": "ok"}

    @app.get("/readyz", tags=["operation"])
    async def readyz() -> Response:
        """It answers: a memory is loaded, and no stop was requested."""
        if service.ready:
            return JSONResponse({"status": "ready"})
        return JSONResponse({"status": "not ready"}, status_code=503)

    @app.get("/metrics", tags=["operation"])
    async def metrics(request: Request) -> Response:
        """Metrics in Prometheus' text format."""
        caller_of(request).need("read")
        return PlainTextResponse(service.metrics.text(), media_type="text/plain; version=0.0.4")


def _add_page(app: FastAPI) -> None:
    text = files("memo_dist.serve").joinpath("page.html").read_text(encoding="utf-8")
    policy = (
        f"default-src 'none'; connect-src 'self'; script-src {_hashes(_SCRIPT, text)};"
        f" style-src {_hashes(_STYLE, text)}; base-uri 'none'; form-action 'none';"
        " frame-ancestors 'none'"
    )

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return HTMLResponse(text, headers={"Content-Security-Policy": policy})


def _hashes(pattern: re.Pattern[str], text: str) -> str:
    """What a Content-Security-Policy calls the inline scripts or styles of a page."""
    digests = (hashlib.sha256(one.encode()).digest() for one in pattern.findall(text))
    return " ".join(f"'sha256-{base64.b64encode(one).decode()}'" for one in digests)


def _add_errors(app: FastAPI) -> None:
    def answer(error: ApiError) -> Response:
        wait = {"Retry-After": str(error.retry_after)} if error.retry_after else None
        return JSONResponse(error_body(error), error.status, headers=wait)

    @app.exception_handler(ApiError)
    async def refused(_: Request, error: ApiError) -> Response:
        return answer(error)

    @app.exception_handler(RequestValidationError)
    async def wrong(_: Request, error: RequestValidationError) -> Response:
        return answer(_first_fault(error.errors()))

    @app.exception_handler(HTTPException)
    async def http(_: Request, error: HTTPException) -> Response:
        return answer(ApiError(error.status_code, "http_error", str(error.detail)))

    @app.exception_handler(Exception)
    async def failed(_: Request, error: Exception) -> Response:
        return answer(ApiError(500, "internal_error", "the server failed; see its log"))


def _first_fault(faults: Any) -> ApiError:
    """The first one of pydantic's; what was sent is not repeated."""
    first = faults[0] if faults else {"loc": (), "msg": "the request is wrong"}
    place = ".".join(str(part) for part in first["loc"] if part != "body")
    if first.get("type") == "extra_forbidden":
        return ApiError(400, "unknown_parameter", f"there is no field '{place[:80]}'", place[:80])
    return invalid(f"{place[:80]}: {first['msg']}", place[:80])
