"""A LangGraph store whose items a served memory remembers.

An item is a document of one scope: its key and value are the document's metadata, and its words are
what the memory is trained on. A search with a query asks the memory.
"""

from __future__ import annotations

import asyncio
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import httpx
from langgraph.store.base import (
    BaseStore,
    GetOp,
    Item,
    ListNamespacesOp,
    MatchCondition,
    Op,
    PutOp,
    Result,
    SearchItem,
    SearchOp,
)

ANSWER_KEY = "memo_dist.answer"
"""Key of the search result that is the memory's own answer."""
_FIELD = "langgraph"
_PAGE = 1000
_COMPARE: Mapping[str, Callable[[Any, Any], bool]] = {
    "$eq": operator.eq,
    "$ne": operator.ne,
    "$gt": operator.gt,
    "$gte": operator.ge,
    "$lt": operator.lt,
    "$lte": operator.le,
}


class MemoryStore(BaseStore):
    """Long-term memory of LangGraph agents; threads may share it.

    ``get``, ``put``, ``delete`` and listings read every document of the scope: it is meant for
    the hundreds or thousands of memories of one user or agent. Values stay in the server's buffer
    file, as metadata, until their items are deleted.
    """

    __slots__ = ("_http", "_scope")

    def __init__(
        self,
        url: str = "http://127.0.0.1:8321",
        api_key: str = "",
        timeout: float = 60.0,
        **scope: str,
    ) -> None:
        """Connect to `memo-dist serve`.

        Args:
            url: of the server.
            api_key: a key of it; "": it has none.
            timeout: seconds of one request.
            scope: whose memories these are: ``user_id``, ``agent_id``, ``app_id``, ``run_id``;
                none: the shared ones.
        """
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._http = httpx.Client(base_url=url, headers=headers, timeout=timeout)
        self._scope = dict(scope)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def batch(self, ops: Iterable[Op]) -> list[Result]:
        """Execute operations one after the other; see ``BaseStore``.

        Raises:
            httpx.HTTPError: the server cannot be reached, or refuses.
            ValueError: an item without words, or ``index=False``, which would keep words from a
                memory that consists of them.
        """
        return [self._execute(op) for op in ops]

    async def abatch(self, ops: Iterable[Op]) -> list[Result]:
        """:meth:`batch` in a thread."""
        return await asyncio.to_thread(self.batch, list(ops))

    def _execute(self, op: Op) -> Result:
        if isinstance(op, GetOp):
            found = self._find(op.namespace, op.key)
            return _item(found) if found else None
        if isinstance(op, PutOp):
            self._put(op)
            return None
        if isinstance(op, SearchOp):
            return self._search(op)
        return self._namespaces(op)

    def _put(self, op: PutOp) -> None:
        there = self._find(op.namespace, op.key)
        if op.value is None:
            if there:
                self._call("DELETE", f"/v1/documents/{there['id']}")
            return
        if op.index is False:
            raise ValueError("index=False: a memory keeps the words of every item")
        text = "\n".join(_words(op.value, op.index))
        if not text:
            raise ValueError(f"the value of '{op.key}' holds no text that could be remembered")
        place = {"namespace": list(op.namespace), "key": op.key, "value": dict(op.value)}
        body = {"text": text, "title": op.key, "metadata": {_FIELD: place}}
        if there:
            self._call("PUT", f"/v1/documents/{there['id']}", json=body)
        else:
            self._call("POST", "/v1/documents", json={**body, **self._scope})

    def _search(self, op: SearchOp) -> list[SearchItem]:
        rows = [row for row in self._rows() if _begins(row, op.namespace_prefix)]
        rows = [row for row in rows if _fits(_place(row)["value"], op.filter)]
        if not op.query:
            found = [_search_item(row, None) for row in rows]
        else:
            found = self._asked(op.query, op.namespace_prefix, rows)
        return found[op.offset : op.offset + op.limit]

    def _asked(
        self, query: str, prefix: tuple[str, ...], rows: list[dict[str, Any]]
    ) -> list[SearchItem]:
        """The memory's answer, then the items behind it, by score."""
        reply = self._call("POST", "/v1/ask", json={"question": query, **self._scope})
        scores = dict.fromkeys(reply["sources"], reply["confidence"] or 1.0)
        for hit in reply["pending"]:
            scores.setdefault(hit["document_id"], hit["coverage"])
        found = [_search_item(row, scores[row["id"]]) for row in rows if row["id"] in scores]
        found.sort(key=lambda item: -(item.score or 0.0))
        if reply["abstained"]:
            return found
        value = {name: reply[name] for name in ("answer", "confidence", "sources", "source")}
        now = datetime.now(UTC)
        return [SearchItem(prefix, ANSWER_KEY, value, now, now, reply["confidence"]), *found]

    def _namespaces(self, op: ListNamespacesOp) -> list[tuple[str, ...]]:
        every = {tuple(_place(row)["namespace"]) for row in self._rows()}
        kept = {
            namespace[: op.max_depth]
            for namespace in every
            if all(_matches(namespace, one) for one in op.match_conditions or ())
        }
        return sorted(kept)[op.offset : op.offset + op.limit]

    def _find(self, namespace: tuple[str, ...], key: str) -> dict[str, Any] | None:
        wanted = (list(namespace), key)
        rows = (
            row for row in self._rows() if (_place(row)["namespace"], _place(row)["key"]) == wanted
        )
        return next(rows, None)

    def _rows(self) -> Iterator[dict[str, Any]]:
        """Every document of the scope that is an item."""
        offset = 0
        while True:
            page = {"limit": _PAGE, "offset": offset, **self._scope}
            rows = self._call("GET", "/v1/documents", params=page)["documents"]
            # A user's documents include those of narrower scopes; they are other stores' items.
            yield from (r for r in rows if _FIELD in r["metadata"] and r["scope"] == self._scope)
            if len(rows) < _PAGE:
                return
            offset += _PAGE

    def _call(self, method: str, path: str, **more: Any) -> Any:
        reply = self._http.request(method, path, **more)
        reply.raise_for_status()
        return reply.json()


def _place(row: Mapping[str, Any]) -> dict[str, Any]:
    place: dict[str, Any] = row["metadata"][_FIELD]
    return place


def _fields(row: Mapping[str, Any]) -> dict[str, Any]:
    place = _place(row)
    return {
        "namespace": tuple(place["namespace"]),
        "key": place["key"],
        "value": place["value"],
        "created_at": datetime.fromtimestamp(row["created"], UTC),
        "updated_at": datetime.fromtimestamp(row["updated"], UTC),
    }


def _item(row: Mapping[str, Any]) -> Item:
    return Item(**_fields(row))


def _search_item(row: Mapping[str, Any], score: float | None) -> SearchItem:
    return SearchItem(**_fields(row), score=score)


def _begins(row: Mapping[str, Any], prefix: tuple[str, ...]) -> bool:
    return _place(row)["namespace"][: len(prefix)] == list(prefix)


def _words(value: Mapping[str, Any], fields: list[str] | None) -> Iterator[str]:
    """A line of each field that holds text, "field: text" where there are several."""
    chosen = {name: value[name] for name in value if fields is None or name in fields}
    for name, one in chosen.items():
        if isinstance(one, Mapping):
            yield from _words(one, None)
        elif one not in (None, "", [], {}):
            shown = ", ".join(map(str, one)) if isinstance(one, list) else str(one)
            yield shown if len(chosen) == 1 else f"{name}: {shown}"


def _fits(value: Mapping[str, Any], wanted: Mapping[str, Any] | None) -> bool:
    return all(_equals(value.get(name), one) for name, one in (wanted or {}).items())


def _equals(there: Any, wanted: Any) -> bool:
    if not (isinstance(wanted, Mapping) and any(str(name).startswith("$") for name in wanted)):
        return bool(there == wanted)
    unknown = [name for name in wanted if name not in _COMPARE]
    if unknown:
        raise ValueError(f"there is no filter {unknown[0]!r}; filters are {', '.join(_COMPARE)}")
    return all(there is not None and _COMPARE[name](there, one) for name, one in wanted.items())


def _matches(namespace: tuple[str, ...], condition: MatchCondition) -> bool:
    path = tuple(condition.path)
    if len(namespace) < len(path):
        return False
    part = namespace[: len(path)] if condition.match_type == "prefix" else namespace[-len(path) :]
    return all(wanted in ("*", there) for there, wanted in zip(part, path, strict=True))
