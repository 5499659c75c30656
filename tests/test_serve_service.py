"""The service and its connections without a memory: whose events and histories are shown, answers
in progress, clients that do not read."""

from __future__ import annotations

import asyncio
import socket
import threading
from contextlib import asynccontextmanager, suppress
from types import SimpleNamespace

import httpx
import pytest
import uvicorn
from starlette.applications import Starlette

from memo_dist.answering import Answered
from memo_dist.answers.answer import Answer
from memo_dist.config import load_config
from memo_dist.io.runfolder import RunFolder
from memo_dist.memory.tombstones import Withheld
from memo_dist.serve.app import build
from memo_dist.serve.connection import guarded_protocol
from memo_dist.serve.errors import ApiError
from memo_dist.serve.hidden import Hidden
from memo_dist.serve.keys import Caller, KeyRing
from memo_dist.serve.records import PENDING, Stored
from memo_dist.serve.service import PAGE, Service

ANN, BOB = {"user_id": "ann"}, {"user_id": "bob"}
OF_ANN = Caller("ann", scopes=frozenset({("user_id", "ann")}))
QUESTION = "Where are the Falkenau zincworks?"


def document(name, text="The Falkenau zincworks are in the valley.", scope=None):
    return Stored(name, 0, "", text, {}, scope or {}, PENDING, 0.0, 0.0)


@pytest.fixture
def service(tmp_path):
    config = load_config((), ["memory.base=scratch", "serve.answer_seconds=20"])
    found = Service(RunFolder(tmp_path), config)
    found.engine.known = lambda: SimpleNamespace(documents={"old": "hash"})
    yield found
    found.buffer.close()


class Memory:
    """Answers of a memory, each preceded by what happens after the buffer was searched."""

    def __init__(self, *turns):
        self.turns, self.asked, self.searched = list(turns), 0, threading.Event()

    async def ask(self, question):
        await asyncio.to_thread(self.searched.wait, 10)
        meanwhile, sources = self.turns[min(self.asked, len(self.turns) - 1)]
        self.asked += 1
        meanwhile()
        return self.answered(sources)

    def answered(self, sources):
        text = "in the valley" if sources else ""
        return Answered(Answer(text, 0.9, not sources, sources, (0,), 0.0, 1))


def ask(service, memory):
    service._batchers["direct"], search = memory, service.buffer.search

    def searched(*arguments):
        found = search(*arguments)
        memory.searched.set()
        return found

    service.buffer.search = searched
    return asyncio.run(service.ask(Caller("me"), QUESTION, "direct", {}))


def test_no_answer_uses_a_document_that_was_deleted_while_it_was_made(service):
    """On 9d1f21f: the pending text answered, up to serve.answer_seconds after its DELETE."""
    service.buffer.add(document("a"), "me")
    memory = Memory((lambda: service.buffer.delete("a", "me"), ()), (lambda: None, ()))
    reply = ask(service, memory)
    assert (reply.source, reply.pending, memory.asked) == ("none", (), 2)


def test_a_replaced_text_is_read_again(service):
    service.buffer.add(document("a"), "me")
    newer = document("a", "The Falkenau zincworks are in Norvik.")
    memory = Memory((lambda: service.buffer.replace(newer, "me"), ()), (lambda: None, ()))
    assert ask(service, memory).text == newer.text


def test_an_answer_of_the_memory_is_asked_for_again_then_withheld(service):
    def replace():
        service.buffer.replace(document("old", "Something else."), "me", known="hash")

    def add():
        service.buffer.add(document("new", "Something else."), "me")

    memory = Memory((replace, ("old",)), (add, ("other",)))
    assert (ask(service, memory).sources, memory.asked) == (("other",), 2)
    memory = Memory((replace, ("old",)))
    assert (ask(service, memory).source, memory.asked) == ("none", 3), "it changes all the time"


def test_a_change_of_what_the_memory_does_not_know_asks_nothing_again(service):
    service.buffer.add(document("new", "Something else."), "me")

    def change():
        service.buffer.replace(document("new", "Another text."), "me")

    def unnamed(_):
        return Answered(Answer("in the valley", 0.9, False, (), (0,), 0.0, 1))

    memory = Memory((change, ("other",)))
    memory.answered = unnamed
    assert (ask(service, memory).text, memory.asked) == ("in the valley", 1)


def test_the_history_of_a_deleted_document_is_its_scopes_own(service):
    service.buffer.add(document("b", scope=BOB), "me")
    service.buffer.delete("b", "me")
    assert asyncio.run(service.history(Caller("me"), "b"))
    with pytest.raises(ApiError) as caught:
        asyncio.run(service.history(OF_ANN, "b"))
    assert caught.value.status == 404


def test_events_of_others_do_not_push_out_those_that_a_key_may_see(service):
    _, mine = service.buffer.add(document("a", scope=ANN), "me")
    for number in range(PAGE + 1):
        service.buffer.add(document(f"b{number}", scope=BOB), "me")
    shared = service.buffer.request_consolidation("me")
    found = asyncio.run(service.events(OF_ANN))
    assert [event.id for event in found] == [shared.id, mine.id]
    service.buffer.end_batch(service.buffer.begin_batch(ANN), {})
    assert [one.id for one in asyncio.run(service.events(Caller("me"), "SUCCEEDED"))] == [mine.id]
    assert len(asyncio.run(service.events(Caller("me")))) == PAGE


def test_names_with_a_slash_are_deleted_and_read(service):
    service.buffer.add(document("docs/a", scope={"user_id": "org/ann"}), "me")

    async def calls():
        async with (
            listening(build(service, KeyRing()), 5.0) as (_, (host, port)),
            httpx.AsyncClient(base_url=f"http://{host}:{port}") as http,
        ):
            return [
                await http.get("/v1/memories/docs/a/"),
                await http.get("/v1/memories/docs%2Fa/history/"),
                await http.get("/memories/docs/a/history"),
                await http.put("/v1/memories/docs%2Fa/", json={"text": "Another."}),
                await http.delete("/v2/entities/user/org%2Fann/"),
                await http.get("/v1/memories/docs/a/"),
            ]

    replies = asyncio.run(calls())
    assert [reply.status_code for reply in replies] == [200] * 5 + [404]
    assert replies[0].json()["id"] == "docs/a"
    assert replies[1].json()[0]["event"] == "ADD"


def test_a_document_is_hidden_in_every_shard_that_lists_it(tmp_path):
    """Merged memories may know one document, in one revision or in two."""
    listed = (("x", "h"),), (("x", "h"), ("y", "h")), (("x", "older"),)
    shards = [
        SimpleNamespace(id=k, documents=[SimpleNamespace(id=n, hash=h) for n, h in rows])
        for k, rows in enumerate(listed)
    ]
    withheld = Withheld(tmp_path, SimpleNamespace(shards=shards))
    everywhere = dict.fromkeys((0, 1, 2), frozenset({"x"}))
    assert Hidden(withheld, lambda: {"x": ""}).documents() == everywhere
    assert set(Hidden(withheld, lambda: {"x": "h"}).documents()) == {0, 1}


# -- connections -----------------------------------------------------------------------------------


@asynccontextmanager
async def listening(app, write_seconds):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        config = uvicorn.Config(app, http=guarded_protocol(5.0, write_seconds), loop="asyncio",
                                ws="none", log_config=None, timeout_keep_alive=1,
                                lifespan="off")  # fmt: skip
        server = uvicorn.Server(config)
        task = asyncio.create_task(server.serve(sockets=[listener]))
        while not server.started:
            await asyncio.sleep(0.01)
        try:
            yield server, listener.getsockname()
        finally:
            server.should_exit = True
            await task


@pytest.mark.parametrize("size", [10_000, 8_000_000])
def test_clients_that_do_not_read_are_cut_off(size):
    """On 9d1f21f: their requests were in progress, or their connections open, for ever."""
    active = 0

    async def app(scope, receive, send):
        nonlocal active
        if scope["type"] != "http":
            return
        active += 1
        length = [(b"content-length", str(size).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": length})
        await send({"type": "http.response.body", "body": b"x" * size})
        active -= 1

    async def run():
        async with listening(app, 0.3) as (server, address):
            with socket.socket() as client:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                client.connect(address)
                client.setblocking(False)
                for _ in range(100):
                    with suppress(BlockingIOError):
                        client.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n" * 20)
                    await asyncio.sleep(0.001)
                deadline = asyncio.get_running_loop().time() + 6
                while server.server_state.connections or active:
                    assert asyncio.get_running_loop().time() < deadline, "still active"
                    await asyncio.sleep(0.05)

    asyncio.run(run())


def test_a_slow_client_that_reads_gets_all_of_an_answer():
    size = 6_000_000

    async def app(scope, receive, send):
        if scope["type"] == "http":
            length = [(b"content-length", str(size).encode())]
            await send({"type": "http.response.start", "status": 200, "headers": length})
            await send({"type": "http.response.body", "body": b"x" * size})

    async def run():
        async with listening(app, 0.5) as (_, address):
            reader, writer = await asyncio.open_connection(*address, limit=2**16)
            writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            got = 0
            while part := await reader.read(2**18):
                got += len(part)
                await asyncio.sleep(0.02)
            writer.close()
            return got

    assert asyncio.run(run()) > size


def test_mcp_clients_need_no_stream_from_the_server(tmp_path):
    from mcp.client import Client

    from memo_dist.serve.mcp_tools import http_routes

    config = load_config((), ["memory.base=scratch"])
    routes, opened = http_routes(SimpleNamespace(config=config))
    app = Starlette(routes=routes)

    async def run():
        async with opened(), listening(app, 5.0) as (_, (host, port)):
            url = f"http://{host}:{port}/mcp"
            async with httpx.AsyncClient(timeout=5) as http:
                refused = await http.get(url, headers={"Accept": "text/event-stream"})
            async with Client(url) as client:
                return refused, {tool.name for tool in (await client.list_tools()).tools}

    refused, names = asyncio.run(run())
    assert (refused.status_code, refused.headers["allow"]) == (405, "POST")
    assert "ask_memory" in names
