"""mem0's REST surface: what its client and its self-hosted server call, over the same buffer.

A memory is one stored text. Nothing is extracted from it by a language model, and an answer of the
trained memory comes as a result beside the stored texts.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from pydantic import BaseModel, ConfigDict, Field

from memo_dist.serve.errors import ApiError, invalid, not_found
from memo_dist.serve.keys import ENTITIES, Caller, Scope, clean_scope
from memo_dist.serve.merging import MEMORY
from memo_dist.serve.native import Turn, caller_of, joined_messages, query_scope
from memo_dist.serve.records import Change, Event, Stored
from memo_dist.serve.service import Service

_KINDS = {"user": "user_id", "agent": "agent_id", "app": "app_id", "run": "run_id"}
QueryScope = Annotated[Scope, Depends(query_scope)]


class _Body(BaseModel):
    """mem0's options that have no meaning here (``infer``, ``rerank``, ...) are ignored."""

    model_config = ConfigDict(extra="allow")


class Add(_Body):
    """Messages of a conversation."""

    messages: str | list[Turn]
    metadata: dict[str, Any] | None = None
    user_id: str | None = None
    agent_id: str | None = None
    app_id: str | None = None
    run_id: str | None = None


class Search(_Body):
    """A question, and whose memories."""

    query: str
    filters: dict[str, Any] | None = None
    top_k: Annotated[int, Field(ge=1, le=100)] | None = None
    limit: Annotated[int, Field(ge=1, le=100)] | None = None
    threshold: float | None = None
    user_id: str | None = None
    agent_id: str | None = None
    app_id: str | None = None
    run_id: str | None = None


class Listing(_Body):
    """Whose memories."""

    filters: dict[str, Any] | None = None


class Update(_Body):
    """Another text or other metadata."""

    text: str | None = None
    data: str | None = None
    metadata: dict[str, Any] | None = None


class BatchRow(_Body):
    """One memory of a batch."""

    memory_id: str
    text: str | None = None
    metadata: dict[str, Any] | None = None


class Batch(_Body):
    """Several memories."""

    memories: Annotated[list[BatchRow], Field(max_length=1000)]


def router(service: Service) -> APIRouter:
    """The endpoints, each under the platform's path and the self-hosted server's."""
    api = APIRouter(tags=["mem0"])

    @api.get("/v1/ping/")
    async def ping(request: Request) -> dict[str, Any]:
        """Check a key."""
        caller = caller_of(request)
        return {"status": "ok", "org_id": "memo-dist", "project_id": service.bank_name,
                "user_email": None, "key": caller.name}  # fmt: skip

    @api.post("/v3/memories/add/")
    @api.post("/v1/memories/")
    @api.post("/memories")
    async def add(body: Add, request: Request) -> dict[str, Any]:
        """Store the messages as one memory."""
        turns = body.messages
        text = turns if isinstance(turns, str) else joined_messages(turns)
        scope = clean_scope(body.model_dump(include=set(ENTITIES)))
        row, event = await service.add(caller_of(request), text, scope, "", body.metadata)
        done = {"id": row.id, "memory": row.text, "event": "ADD"}
        return {"message": "stored, answered from the buffer", "status": event.state,
                "event_id": event.id, "results": [done]}  # fmt: skip

    @api.post("/v3/memories/search/")
    @api.post("/v2/memories/search/")
    @api.post("/search")
    async def search(body: Search, request: Request) -> dict[str, Any]:
        """The memory's answer and the pending texts that fit a question, best first."""
        given = {**body.model_dump(include=set(ENTITIES)), **_filters(body.filters)}
        rows = await _found(service, caller_of(request), body.query, clean_scope(given))
        kept = [row for row in rows if row["score"] >= (body.threshold or 0.0)]
        return {"results": kept[: body.top_k or body.limit or 10]}

    _add_lists(api, service)
    _add_single(api, service)
    _add_batches(api, service)
    return api


def _add_lists(api: APIRouter, service: Service) -> None:
    @api.post("/v3/memories/")
    @api.post("/v2/memories/")
    async def listed(
        body: Listing,
        request: Request,
        page: Annotated[int, Query(ge=1, le=10**6)] = 1,
        page_size: Annotated[int, Query(ge=1, le=1000)] = 100,
    ) -> dict[str, Any]:
        """Memories of a scope."""
        scope = clean_scope(_filters(body.filters))
        rows = await service.documents(
            caller_of(request), scope, page_size + 1, (page - 1) * page_size
        )
        more = f"?page={page + 1}&page_size={page_size}" if len(rows) > page_size else None
        before = f"?page={page - 1}&page_size={page_size}" if page > 1 else None
        shown = [_memory(row) for row in rows[:page_size]]
        count = (page - 1) * page_size + len(rows)
        return {"count": count, "next": more, "previous": before, "results": shown}

    @api.get("/v1/memories/")
    @api.get("/memories")
    async def listed_by_query(scope: QueryScope, request: Request) -> dict[str, Any]:
        """Memories of a scope."""
        rows = await service.documents(caller_of(request), scope)
        return {"results": [_memory(row) for row in rows]}

    @api.delete("/v1/memories/")
    @api.delete("/memories")
    async def delete_all(scope: QueryScope, request: Request) -> dict[str, Any]:
        """Delete all memories of a scope."""
        gone = await service.delete_scope(caller_of(request), scope)
        return {"message": f"{len(gone)} memories deleted"}

    @api.get("/v1/entities/")
    @api.get("/entities")
    async def entities(request: Request) -> dict[str, Any]:
        """Users, agents, apps and runs that have memories."""
        names = {kind: name for name, kind in _KINDS.items()}
        rows = [
            {"id": name, "name": name, "type": names[kind], "total_memories": number}
            for kind, name, number in await service.entities(caller_of(request))
        ]
        return {"count": len(rows), "results": rows}

    @api.delete("/v2/entities/{kind}/{name:path}/")
    async def delete_entity(kind: str, name: str, request: Request) -> dict[str, Any]:
        """Delete all memories of a user, agent, app or run."""
        if kind not in _KINDS:
            raise not_found("kind of entity")
        await service.delete_scope(caller_of(request), clean_scope({_KINDS[kind]: name}))
        return {"message": "Entity deleted successfully."}

    @api.get("/v1/events/")
    async def events(request: Request) -> dict[str, Any]:
        """The newest events."""
        rows = await service.events(caller_of(request))
        return {"count": len(rows), "results": [_event(row) for row in rows]}

    @api.get("/v1/event/{name}/")
    async def event(name: str, request: Request) -> dict[str, Any]:
        """One event."""
        return _event(await service.event(caller_of(request), name))


def _add_single(api: APIRouter, service: Service) -> None:
    @api.get("/v1/memories/{name:path}/history/")
    @api.get("/memories/{name:path}/history")
    async def history(name: str, request: Request) -> list[dict[str, Any]]:
        """What happened to a memory, oldest first; old texts are not kept."""
        caller = caller_of(request)
        changes = await service.history(caller, name)
        there = None
        if not any(one.kind == "DELETE" for one in changes):
            there = await service.document(caller, name)
        return [_change(one, there) for one in changes]

    @api.get("/v1/memories/{name:path}/")
    @api.get("/memories/{name:path}")
    async def get(name: str, request: Request) -> dict[str, Any]:
        """One memory."""
        return _memory(await service.document(caller_of(request), name))

    @api.put("/v1/memories/{name:path}/")
    @api.put("/memories/{name:path}")
    async def update(name: str, body: Update, request: Request) -> dict[str, Any]:
        """Give a memory another text."""
        text = body.text or body.data
        return await _updated(service, caller_of(request), name, text, body.metadata)

    @api.delete("/v1/memories/{name:path}/")
    @api.delete("/memories/{name:path}")
    async def delete(name: str, request: Request) -> dict[str, Any]:
        """Delete a memory."""
        event = await service.delete(caller_of(request), name)
        return {"message": "Memory deleted successfully!", "event_id": event.id}


def _add_batches(api: APIRouter, service: Service) -> None:
    @api.put("/v1/batch/")
    async def update(body: Batch, request: Request) -> dict[str, Any]:
        """Give several memories other texts."""
        for row in body.memories:
            await _updated(service, caller_of(request), row.memory_id, row.text, row.metadata)
        return {"message": f"Successfully updated {len(body.memories)} memories"}

    @api.delete("/v1/batch/")
    async def delete(body: Batch, request: Request) -> dict[str, Any]:
        """Delete several memories."""
        for row in body.memories:
            await service.delete(caller_of(request), row.memory_id)
        return {"message": f"Successfully deleted {len(body.memories)} memories"}


async def _found(
    service: Service, caller: Caller, query: str, scope: Scope
) -> list[dict[str, Any]]:
    """Results of a search; ``score`` is a confidence, or the fraction of words that are held."""
    reply = await service.ask(caller, query, "", scope)
    passages = await service.search_pending(caller, query, scope)
    rows = []
    if reply.source == MEMORY:
        name = reply.sources[0] if reply.sources else "memory"
        more = {"source": MEMORY, "sources": list(reply.sources)}
        row = Stored(name, 0, "", reply.text, more, {}, "", 0.0, 0.0)
        rows.append({**_memory(row), "score": round(reply.confidence or 0.0, 4)})
    for one in passages:
        try:
            there = await service.document(caller, one.document)
        except ApiError:  # it was deleted meanwhile
            continue
        shown = replace(there, metadata={**there.metadata, "source": "pending"})
        rows.append({**_memory(shown), "score": round(one.coverage, 4)})
    return sorted(rows, key=lambda row: -float(row["score"]))


async def _updated(
    service: Service,
    caller: Caller,
    name: str,
    text: str | None,
    metadata: Mapping[str, Any] | None,
) -> dict[str, Any]:
    if text is None and metadata is None:
        raise invalid("give text or metadata", "text")
    if text is None:
        text = (await service.document(caller, name)).text
    row, event = await service.replace(caller, name, text, "", metadata)
    return {**_memory(row), "text": row.text, "event_id": event.id}


def _filters(given: Mapping[str, Any] | None) -> dict[str, Any]:
    """{entity: name} of mem0's filters: plain, or joined by AND.

    Raises:
        ApiError: 400; a filter that is not built: it must not widen what is seen.
    """
    found: dict[str, Any] = {}
    for name, value in (given or {}).items():
        if name == "AND" and isinstance(value, list):
            for one in value:
                if not isinstance(one, dict):
                    raise invalid("filters: AND takes a list of objects", "filters")
                found |= _filters(one)
        elif name in ENTITIES and isinstance(value, str) and value != "*":
            found[name] = value
        else:
            raise invalid(
                "filters may name user_id, agent_id, app_id and run_id, each with one value,"
                " joined by AND",
                "filters",
            )
    return found


def _memory(row: Stored) -> dict[str, Any]:
    return {
        "id": row.id,
        "memory": row.text,
        "metadata": dict(row.metadata),
        "categories": [],
        "state": row.state,
        "created_at": _time(row.created),
        "updated_at": _time(row.updated),
        **dict.fromkeys(ENTITIES),
        **row.scope,
    }


def _event(event: Event) -> dict[str, Any]:
    return {
        "id": event.id,
        "event_type": event.kind,
        "status": event.state,
        "memory_id": event.document or None,
        "message": event.message,
        "created_at": _time(event.created),
        "updated_at": _time(event.updated),
        **event.scope,
    }


def _change(change: Change, there: Stored | None) -> dict[str, Any]:
    now = there is not None and there.version == change.version
    return {
        "id": f"{change.document}-{change.version}-{change.kind.lower()}",
        "memory_id": change.document,
        "event": change.kind,
        "old_memory": None,
        "new_memory": there.text if there is not None and now else None,
        "hash": change.hash,
        "created_at": _time(change.time),
        "updated_at": _time(change.time),
    }


def _time(seconds: float) -> str | None:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds)) if seconds else None
