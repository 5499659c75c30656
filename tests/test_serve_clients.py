"""Adapters of agent frameworks over a served memory: LangGraph's store, Hermes' provider."""

from __future__ import annotations

import asyncio
import importlib
import json
import sys
import types
from abc import ABC
from pathlib import Path

import openai
import pytest
from langgraph.store.base import InvalidNamespaceError
from protocol_cases import OUTSIDE
from served import ANSWER, KNOWN, make_run, serving

from memo_dist.serve.clients.langgraph import ANSWER_KEY, MemoryStore

ANN, BOB = ("memories", "ann"), ("memories", "bob")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    root = tmp_path_factory.mktemp("clients")
    with serving(make_run(root), root / "log") as found:
        yield found


@pytest.fixture
def store(server, request):
    found = MemoryStore(server.url, user_id=request.node.name)
    yield found
    found.close()


def test_a_store_keeps_replaces_and_deletes(store):
    store.put(ANN, "tea", {"text": "Ann drinks birch tea.", "cups": 2})
    assert store.get(ANN, "tea").value == {"text": "Ann drinks birch tea.", "cups": 2}
    assert store.get(BOB, "tea") is None
    store.put(ANN, "tea", {"text": "Ann drinks elder tea.", "cups": 3})
    assert store.get(ANN, "tea").value["cups"] == 3
    store.delete(ANN, "tea")
    assert store.get(ANN, "tea") is None
    store.put(ANN, "tea", {"text": "Ann drinks water."})
    assert store.get(ANN, "tea").value == {"text": "Ann drinks water."}, "the key is free again"
    store.delete(ANN, "nothing")


def test_a_search_asks_the_memory_and_finds_items(store):
    store.put(ANN, "boat", {"text": "The boat of Ann is called Silver Heron.", "kind": "fact"})
    store.put(BOB, "car", {"text": "The car of Bob is a blue Tarnow.", "kind": "fact"})
    answer, item = store.search(("memories",), query="What is the boat of Ann called?")
    assert answer.key == ANSWER_KEY
    assert "Silver Heron" in answer.value["answer"]
    assert (item.namespace, item.key) == (ANN, "boat")
    known = store.search(("memories",), query=KNOWN)
    assert known[0].value["answer"] == ANSWER, "what the shared memory was trained on"
    assert {one.key for one in store.search(("memories",))} == {"boat", "car"}
    assert [one.key for one in store.search(BOB)] == ["car"]
    assert not store.search(BOB, filter={"kind": "wish"})
    assert [one.key for one in store.search(BOB, filter={"kind": {"$ne": "wish"}})] == ["car"]
    assert len(store.search(("memories",), limit=1, offset=1)) == 1


def test_namespaces_are_listed(store):
    for space in (ANN, BOB, ("plans", "ann", "2026")):
        store.put(space, "one", {"text": f"Something of {space[1]}."})
    assert store.list_namespaces() == [ANN, BOB, ("plans", "ann", "2026")]
    assert store.list_namespaces(prefix=("memories",)) == [ANN, BOB]
    assert store.list_namespaces(suffix=("ann", "*")) == [("plans", "ann", "2026")]
    assert store.list_namespaces(max_depth=1) == [("memories",), ("plans",)]


def test_a_store_refuses_what_it_cannot_do(store):
    with pytest.raises(ValueError, match="index=False"):
        store.put(ANN, "a", {"text": "x"}, index=False)
    with pytest.raises(ValueError, match="no text"):
        store.put(ANN, "a", {"text": ""})
    with pytest.raises(InvalidNamespaceError):
        store.put((), "a", {"text": "x"})
    store.put(ANN, "b", {"text": "y"})
    with pytest.raises(ValueError, match=r"no filter '\$in'"):
        store.search(ANN, filter={"text": {"$in": ["y"]}})


def test_a_store_is_asynchronous_and_knows_its_scope(server, store):
    async def work():
        await store.aput(ANN, "one", {"text": "A kestrel nests above the door of Ann."})
        return await store.asearch(ANN, query="What nests above the door of Ann?")

    assert "kestrel" in asyncio.run(work())[0].value["answer"]
    other = MemoryStore(server.url, user_id="somebody else")
    assert not other.search(ANN)
    assert all("kestrel" not in str(row.value)
               for row in other.search(ANN, query="What nests above the door of Ann?"))  # fmt: skip
    other.close()


def test_a_chat_names_its_scope_by_metadata(server, store, request):
    store.put(ANN, "kite", {"text": "The kite of Ann is striped."})
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none")
    model = client.models.list().data[0].id
    turns = [{"role": "user", "content": "Is the kite of Ann striped?"}]

    def reply(**more):
        found = client.chat.completions.create(model=model, messages=turns, **more)
        return found.choices[0].message.content

    assert "striped" in reply(metadata={"user_id": request.node.name})
    assert "striped" not in reply()
    assert "striped" not in reply(metadata={"user_id": "somebody else"})


def example(name, monkeypatch):
    """A module of examples/agent, until the test ends."""
    monkeypatch.syspath_prepend(Path(__file__).parent.parent / "examples" / "agent")
    monkeypatch.delitem(sys.modules, name, raising=False)
    found = importlib.import_module(name)
    monkeypatch.setitem(sys.modules, name, found)
    return found


def test_the_agent_of_the_examples_works_by_day(server, monkeypatch):
    agent, rows = example("agent", monkeypatch), []

    async def days():
        async with agent.Client(f"{server.url}/mcp") as client:
            await agent.live(agent.Agent(client, agent.Script()), 2, 2, False, rows.append)

    asyncio.run(days())
    first, second, forgotten = rows
    assert first["today"]["right"] == first["today"]["asked"] == 4
    assert second["day 1"]["right"] == 4, "the buffer holds it"
    assert forgotten["forgotten"] == 2
    assert forgotten["of the forgotten user"]["right"] == forgotten["told across users"] == 0
    assert forgotten["of the other user"]["right"] == 2


def test_no_name_of_the_diary_comes_twice(monkeypatch):
    diary = example("diary", monkeypatch)
    facts = [fact for day in range(1, 31) for fact in diary.facts_of_day(day, 14)]
    assert len({fact.question for fact in facts}) == len(facts) == 30 * 16


@pytest.fixture
def hermes(server, monkeypatch):
    """The provider behind Hermes' published interface (hermes-agent 0.19; its pins of other
    packages contradict ours, so its own loader is not part of this environment)."""
    package, module = types.ModuleType("agent"), types.ModuleType("agent.memory_provider")
    module.MemoryProvider = type("MemoryProvider", (ABC,), {})
    monkeypatch.setitem(sys.modules, "agent", package)
    monkeypatch.setitem(sys.modules, "agent.memory_provider", module)
    monkeypatch.setenv("MEMO_DIST_URL", server.url)
    monkeypatch.delitem(sys.modules, "memo_dist.serve.clients.hermes", raising=False)
    room = importlib.import_module("memo_dist.serve.clients.hermes")
    monkeypatch.setattr(room, "PREFETCH_SECONDS", 30.0)  # a loaded machine
    given = []
    room.register(types.SimpleNamespace(register_memory_provider=given.append))
    (provider,) = given
    provider.initialize("s1", agent_identity="coder", user_id="ann", agent_context="primary")
    yield provider
    provider.shutdown()


def test_hermes_recalls_stores_and_forgets(hermes):
    assert hermes.is_available()
    assert ANSWER in hermes.prefetch(KNOWN)
    assert hermes.prefetch(OUTSIDE[0]) == ""
    hermes.sync_turn("My bakery is called Ofenglut.", "Noted.")
    hermes.shutdown()
    hermes.initialize("s2", agent_identity="coder", user_id="ann", agent_context="primary")
    assert "Ofenglut" in hermes.prefetch("How is my bakery called?")
    hermes.initialize("s3", agent_identity="coder", user_id="bob", agent_context="cron")
    assert "Ofenglut" not in hermes.prefetch("How is my bakery called?")
    hermes.sync_turn("A cron job must not write.", "")
    kept = json.loads(hermes.handle_tool_call("remember", {"text": "The kiln of Bob is green."}))
    asked = json.loads(
        hermes.handle_tool_call("ask_memory", {"question": "Is the kiln of Bob green?"})
    )
    assert asked["sources"] == [kept["memory_id"]]
    hermes.handle_tool_call("forget", {"memory_id": kept["memory_id"]})
    again = json.loads(hermes.handle_tool_call("forget", {"memory_id": kept["memory_id"]}))
    assert again == {"error": "there is no such document"}
    assert {row["name"] for row in hermes.get_tool_schemas()} == {
        "ask_memory",
        "remember",
        "forget",
    }


def test_hermes_says_nothing_where_the_server_is_gone(hermes, monkeypatch):
    monkeypatch.setattr(hermes, "_url", "http://127.0.0.1:9")
    assert hermes.prefetch(KNOWN) == ""
    assert "error" in json.loads(hermes.handle_tool_call("ask_memory", {"question": KNOWN}))
