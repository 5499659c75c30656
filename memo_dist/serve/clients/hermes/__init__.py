"""A memory provider for Hermes Agent that asks `memo-dist serve`.

Copy this folder to ``$HERMES_HOME/plugins/memo_dist`` and set ``memory.provider: memo_dist``. It
needs nothing but Hermes and Python's standard library, so Hermes' environment stays as it is.
Environment variables: ``MEMO_DIST_URL``, ``MEMO_DIST_API_KEY``, ``MEMO_DIST_CONSOLIDATE=session``.
"""

from __future__ import annotations

import json
import logging
import os
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from agent.memory_provider import MemoryProvider

logger = logging.getLogger(__name__)

URL, KEY, WHEN = "MEMO_DIST_URL", "MEMO_DIST_API_KEY", "MEMO_DIST_CONSOLIDATE"
DEFAULT_URL = "http://127.0.0.1:8321"
PREFETCH_SECONDS = 0.3
"""A turn waits no longer for the memory; a later answer is not used."""
_REQUEST_SECONDS = 30.0
_TEXT = {"type": "string"}
_TOOLS = {
    "ask_memory": ("Ask the long-term memory a complete question.", {"question": _TEXT}),
    "remember": ("Store a fact in the long-term memory.", {"text": _TEXT}),
    "forget": (
        "Delete a memory, by the id that ask_memory or remember has named.",
        {"memory_id": _TEXT},
    ),
}


class MemoDistProvider(MemoryProvider):  # type: ignore[misc]  # no Hermes here
    """Recall before each turn, storage after it, and three tools."""

    def __init__(self) -> None:
        self._url = os.environ.get(URL, DEFAULT_URL).rstrip("/")
        self._scope: dict[str, str] = {}
        self._writes = False
        self._pool: ThreadPoolExecutor | None = None

    @property
    def name(self) -> str:
        """See Hermes."""
        return "memo_dist"

    def is_available(self) -> bool:
        """Whether it is configured; no request is made."""
        return self._url.startswith(("http://", "https://"))

    def initialize(self, session_id: str, **kwargs: Any) -> None:
        """Scope: the agent's identity, and the user of a gateway."""
        named = {"agent_id": kwargs.get("agent_identity"), "user_id": kwargs.get("user_id")}
        self._scope = {kind: str(name) for kind, name in named.items() if name}
        self._writes = kwargs.get("agent_context", "primary") == "primary"
        self._pool = ThreadPoolExecutor(2, "memo-dist")

    def system_prompt_block(self) -> str:
        """See Hermes."""
        return (
            "Long-term memory: ask_memory answers from it and says when it does not know;"
            " remember stores a fact; forget deletes one."
        )

    def prefetch(self, query: str, *, session_id: str = "") -> str:
        """What the memory knows about a query, or nothing after 300 ms."""
        if self._pool is None or not query.strip():
            return ""
        asked = self._pool.submit(self._ask, query)
        try:
            reply = asked.result(PREFETCH_SECONDS)
        except (TimeoutError, OSError, ValueError):
            asked.cancel()
            return ""
        return "" if reply["abstained"] else f"From the long-term memory: {reply['answer']}"

    def sync_turn(
        self,
        user_content: str,
        assistant_content: str,
        *,
        session_id: str = "",
        messages: Sequence[Mapping[str, Any]] | None = None,
    ) -> None:
        """Store a turn in the background."""
        if self._writes and self._pool is not None:
            text = f"{user_content.strip()}\n{assistant_content.strip()}".strip()
            if text:
                self._pool.submit(self._remember, text).add_done_callback(_report)

    def on_session_end(self, messages: Sequence[Mapping[str, Any]]) -> None:
        """Have the new memories trained, where MEMO_DIST_CONSOLIDATE=session says so."""
        if self._writes and self._pool is not None and os.environ.get(WHEN) == "session":
            work = self._pool.submit(self._call, "POST", "/v1/consolidate", {})
            work.add_done_callback(_report)

    def get_tool_schemas(self) -> list[dict[str, Any]]:
        """See Hermes."""
        return [
            {
                "name": name,
                "description": text,
                "parameters": {
                    "type": "object",
                    "properties": fields,
                    "required": list(fields),
                },
            }
            for name, (text, fields) in _TOOLS.items()
        ]

    def handle_tool_call(self, tool_name: str, args: Mapping[str, Any], **kwargs: Any) -> str:
        """The result of a tool as JSON; a refusal is a result too."""
        try:
            return json.dumps(self._tool(tool_name, args))
        except (OSError, ValueError, KeyError) as error:
            return json.dumps({"error": _reason(error)})

    def get_config_schema(self) -> list[dict[str, Any]]:
        """See Hermes."""
        return [
            {"key": "url", "description": "Address of memo-dist serve", "env_var": URL,
             "default": DEFAULT_URL},
            {"key": "api_key", "description": "Key of the server, if it has keys", "secret": True,
             "env_var": KEY},
        ]  # fmt: skip

    def shutdown(self) -> None:
        """Wait for what is being stored."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=False)
            self._pool = None

    def _tool(self, name: str, args: Mapping[str, Any]) -> Any:
        if name == "ask_memory":
            return self._ask(str(args["question"]))
        if name == "remember":
            return self._remember(str(args["text"]))
        if name == "forget":
            return self._call("DELETE", f"/v1/documents/{args['memory_id']}")
        raise ValueError(f"there is no tool {name}")

    def _ask(self, question: str) -> dict[str, Any]:
        reply = self._call("POST", "/v1/ask", {"question": question, **self._scope})
        names = ("answer", "confidence", "abstained", "sources", "source")
        return {name: reply[name] for name in names}

    def _remember(self, text: str) -> dict[str, Any]:
        reply = self._call("POST", "/v1/documents", {"text": text, **self._scope})
        return {"memory_id": reply["document_id"], "event_id": reply["event_id"]}

    def _call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        headers = {"Content-Type": "application/json"}
        if os.environ.get(KEY):
            headers["Authorization"] = f"Bearer {os.environ[KEY]}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(  # noqa: S310 - is_available() has checked the scheme
            self._url + path, data, headers, method=method
        )
        with urllib.request.urlopen(request, timeout=_REQUEST_SECONDS) as reply:  # noqa: S310
            return json.load(reply)


def _reason(error: Exception) -> str:
    """What the server said, or that it does not answer."""
    if isinstance(error, urllib.error.HTTPError):
        try:
            return str(json.load(error)["error"]["message"])
        except (ValueError, KeyError, TypeError):
            return f"status {error.code}"
    return str(error)


def _report(work: Future[Any]) -> None:
    error = None if work.cancelled() else work.exception()
    if error is not None:  # the text itself is not logged
        logger.warning("memo_dist: a turn was not stored: %s", type(error).__name__)


def register(ctx: Any) -> None:
    """Register the provider with Hermes."""
    ctx.register_memory_provider(MemoDistProvider())
