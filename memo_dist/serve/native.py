"""The server's own API."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, ConfigDict, Field

from memo_dist.serve.errors import invalid
from memo_dist.serve.keys import Caller, Scope, clean_scope
from memo_dist.serve.merging import Reply
from memo_dist.serve.records import Event, Stored
from memo_dist.serve.service import PAGE, Service

Name = Annotated[str, Field(min_length=1, max_length=256)]


class Scoped(BaseModel):
    """A body that may name whose memory is meant."""

    model_config = ConfigDict(extra="forbid")
    user_id: Name | None = None
    agent_id: Name | None = None
    app_id: Name | None = None
    run_id: Name | None = None

    def scope(self) -> dict[str, str]:
        """The entities that are named.

        Raises:
            ApiError: 400.
        """
        return clean_scope(self.model_dump())


class Turn(BaseModel):
    """A message of a conversation."""

    model_config = ConfigDict(extra="ignore")
    role: str
    content: str


class Ask(Scoped):
    """A question."""

    question: str
    mode: str = ""
    max_tokens: int | None = Field(None, ge=1)


class Written(Scoped):
    """A document: ``text``, or the messages of a conversation."""

    id: str = ""
    title: str = ""
    text: str = ""
    messages: list[Turn] | None = None
    metadata: dict[str, Any] | None = None


class Rewritten(BaseModel):
    """Another text for a document."""

    model_config = ConfigDict(extra="forbid")
    text: str
    title: str = ""
    metadata: dict[str, Any] | None = None


def caller_of(request: Request) -> Caller:
    """Who made the request (set by the guard)."""
    caller: Caller = request.scope["state"]["caller"]
    return caller


def query_scope(
    user_id: str | None = None,
    agent_id: str | None = None,
    app_id: str | None = None,
    run_id: str | None = None,
) -> Scope:
    """The scope in a query string.

    Raises:
        ApiError: 400.
    """
    return clean_scope(
        {"user_id": user_id, "agent_id": agent_id, "app_id": app_id, "run_id": run_id}
    )


def joined_messages(turns: list[Turn]) -> str:
    """A conversation as a text; what a system message says is no memory."""
    return "\n".join(turn.content.strip() for turn in turns if turn.role != "system").strip()


def reply_json(reply: Reply, seconds: float) -> dict[str, Any]:
    """As ``ask --json`` prints it, and what the buffer adds."""
    return {
        "answer": reply.text,
        "confidence": None if reply.confidence is None else round(reply.confidence, 4),
        "abstained": reply.abstained,
        "sources": list(reply.sources),
        "source": reply.source,
        "mode": reply.mode,
        "shards": list(reply.shards),
        "seconds": round(seconds, 3),
        "pending": [one.to_json() for one in reply.pending],
        **{name: value for name, value in reply.details.items() if name != "transcript"},
    }


def document_json(row: Stored) -> dict[str, Any]:
    """A document without its text."""
    return {
        "id": row.id,
        "title": row.title,
        "state": row.state,
        "version": row.version,
        "metadata": dict(row.metadata),
        "scope": dict(row.scope),
        "created": row.created or None,
        "updated": row.updated or None,
    }


def event_json(event: Event) -> dict[str, Any]:
    """An event."""
    return asdict(event)


def _accepted(row: Stored, event: Event) -> dict[str, Any]:
    return {"event_id": event.id, "document_id": row.id, "version": row.version,
            "state": row.state}  # fmt: skip


def router(service: Service) -> APIRouter:
    """The endpoints."""
    api = APIRouter(tags=["native"])

    @api.post("/v1/ask")
    async def ask(body: Ask, request: Request) -> dict[str, Any]:
        """Answer a question."""
        started = time.monotonic()
        reply = await service.ask(caller_of(request), body.question, body.mode, body.scope())
        found = reply_json(reply, time.monotonic() - started)
        if body.max_tokens is not None:
            found["answer"], _ = service.first_tokens(reply.text, body.max_tokens)
        return found

    @api.post("/v1/documents", status_code=202)
    async def add(body: Written, request: Request) -> dict[str, Any]:
        """Write a document: answered from the buffer at once, trained later."""
        if bool(body.text) is (body.messages is not None):
            raise invalid("give either text or messages", "text")
        text = body.text or joined_messages(body.messages or [])
        row, event = await service.add(
            caller_of(request), text, body.scope(), body.title, body.metadata, body.id
        )
        return _accepted(row, event)

    @api.get("/v1/documents")
    async def documents(  # noqa: PLR0913
        request: Request,
        limit: Annotated[int, Query(ge=1, le=1000)] = PAGE,
        offset: Annotated[int, Query(ge=0, le=10**9)] = 0,
        user_id: str | None = None,
        agent_id: str | None = None,
        app_id: str | None = None,
        run_id: str | None = None,
    ) -> dict[str, Any]:
        """Documents of a scope, without their texts."""
        scope = query_scope(user_id, agent_id, app_id, run_id)
        rows = await service.documents(caller_of(request), scope, limit, offset)
        return {"documents": [document_json(row) for row in rows]}

    @api.get("/v1/documents/{name:path}/history")
    async def history(name: str, request: Request) -> dict[str, Any]:
        """What happened to a document, oldest first."""
        rows = await service.history(caller_of(request), name)
        return {"history": [asdict(row) for row in rows]}

    @api.get("/v1/documents/{name:path}")
    async def document(name: str, request: Request) -> dict[str, Any]:
        """One document with its text."""
        row = await service.document(caller_of(request), name)
        return {**document_json(row), "text": row.text}

    @api.put("/v1/documents/{name:path}", status_code=202)
    async def replace(name: str, body: Rewritten, request: Request) -> dict[str, Any]:
        """Give a document another text."""
        row, event = await service.replace(
            caller_of(request), name, body.text, body.title, body.metadata
        )
        return _accepted(row, event)

    @api.delete("/v1/documents/{name:path}", status_code=202)
    async def delete(name: str, request: Request) -> dict[str, Any]:
        """Delete a document: no answer uses it from now on."""
        event = await service.delete(caller_of(request), name)
        return {"event_id": event.id, "document_id": name, "state": event.state}

    _add_events(api, service)
    return api


def _add_events(api: APIRouter, service: Service) -> None:
    @api.post("/v1/consolidate", status_code=202)
    async def consolidate(request: Request) -> dict[str, Any]:
        """Have the pending documents trained."""
        event = await service.consolidate(caller_of(request))
        return {"event_id": event.id, "state": event.state}

    @api.get("/v1/events")
    async def events(
        request: Request, state: Literal["PENDING", "RUNNING", "SUCCEEDED", "FAILED"] | None = None
    ) -> dict[str, Any]:
        """The newest events."""
        rows = await service.events(caller_of(request), state or "")
        return {"events": [event_json(row) for row in rows]}

    @api.get("/v1/events/{name}")
    async def event(name: str, request: Request) -> dict[str, Any]:
        """One event."""
        return event_json(await service.event(caller_of(request), name))

    @api.get("/v1/events/{name}/receipt")
    async def receipt(name: str, request: Request) -> dict[str, Any]:
        """The receipt of a deletion."""
        return await service.receipt(caller_of(request), name)
