"""A served memory, asked by unmodified clients: httpx, openai, mem0 and MCP."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor

import httpx
import openai
import pytest
from cli import command, environment
from protocol_cases import FACTS, OUTSIDE
from served import ANSWER, KNOWN, begin, end, eventually, make_run, serving, write_generation

from memo_dist.cli.main import run as run_command
from memo_dist.config import load_config
from memo_dist.io.generations import switch
from memo_dist.io.runfolder import RunFolder
from memo_dist.memory.bank import Bank

ASKED = [*FACTS[0], *FACTS[1], *OUTSIDE]
LIGHTHOUSE = "The Velmora lighthouse was painted green in 2031."
PAINTED = "In which year was the Velmora lighthouse painted green?"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("serve"))


@pytest.fixture(scope="module")
def server(run, tmp_path_factory):
    log = tmp_path_factory.mktemp("log") / "log"
    with serving(run, log, "serve.batch_wait_ms=20") as found:
        yield found


@pytest.fixture
def http(server):
    with httpx.Client(base_url=server.url, timeout=60) as client:
        yield client


def ask(client, question, **more):
    reply = client.post("/v1/ask", json={"question": question, **more})
    assert reply.status_code == 200, reply.text
    return reply.json()


def test_a_damaged_tokenizer_is_refused_before_anything_listens(run, tmp_path, capsys):
    """On 19f0204: unexpected JSONDecodeError."""
    copy = RunFolder(shutil.copytree(run.root, tmp_path / "run"))
    path = copy.memory_shard(0) / "tokenizer.json"
    path.write_bytes(path.read_bytes().replace(b"\n", b"\x0b", 1))
    assert run_command(["serve", str(copy.root), "serve.port=0"]) == 2
    said = capsys.readouterr().err
    assert f"'{path.parent}' cannot be loaded as a memory" in said
    assert "export it again" in said


def test_answers_are_those_of_the_bank_and_share_batches(server, http, run):
    config = load_config((), [], stored=run.config)
    alone = dict(zip(ASKED, Bank.of_run(run, config).answer(ASKED), strict=True))
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda q: (q, ask(http, q)), ASKED * 8))
    for question, reply in found:
        expected = alone[question]
        assert reply["answer"] == expected.text
        assert reply["abstained"] == expected.abstained
        assert reply["sources"] == list(expected.sources)
        assert reply["confidence"] == pytest.approx(expected.confidence, abs=1e-4)
    metrics = http.get("/metrics").text
    rows = dict(line.rsplit(" ", 1) for line in metrics.splitlines() if not line.startswith("#"))
    batches = float(rows['memo_dist_batch_questions_count{mode="direct"}'])
    assert batches <= len(found) / 2, "the questions shared batches"
    assert float(rows["memo_dist_generation"]) == 0


def test_the_log_holds_neither_questions_nor_texts(server, http):
    ask(http, KNOWN)
    text = http.post("/v1/documents", json={"text": LIGHTHOUSE}).json()
    http.delete(f"/v1/documents/{text['document_id']}")
    log = server.lines()
    assert '"route": "/v1/ask"' in log
    assert not any(word in log for word in ("Tarn", "Velmora", text["document_id"]))


def test_the_openai_client(server):
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
    (model,) = client.models.list().data
    assert model.id == "memo:run"
    assert client.models.retrieve("memo:run").id == model.id
    talk = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": KNOWN}]
    whole = client.chat.completions.create(model=model.id, messages=talk, seed=7, n=1)
    choice = whole.choices[0]
    assert (choice.message.content, choice.finish_reason) == (ANSWER, "stop")
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens
    assert whole.memo["sources"] == ["doc-0"]
    assert not whole.memo["abstained"]
    options = {"include_usage": True}
    parts = list(
        client.chat.completions.create(
            model=model.id, messages=talk, stream=True, stream_options=options
        )
    )
    text = "".join(p.choices[0].delta.content or "" for p in parts if p.choices)
    assert text == ANSWER
    assert parts[-1].usage == whole.usage
    assert parts[-2].choices[0].finish_reason == "stop"
    assert parts[-2].memo["confidence"] == whole.memo["confidence"]
    stopped = client.chat.completions.create(model=model.id, messages=talk, stop=[" Brandt"])
    assert stopped.choices[0].message.content == "Ida"
    short = client.chat.completions.create(model=model.id, messages=talk, max_completion_tokens=1)
    assert short.choices[0].finish_reason == "length"
    assert short.usage.completion_tokens <= 1
    unknown = [{"role": "user", "content": "What is the colour of the number nine?"}]
    silent = client.chat.completions.create(model="memo:run:direct", messages=unknown)
    assert silent.memo["abstained"] == (silent.choices[0].message.content == "I don't know.")
    old = client.completions.create(model=model.id, prompt=[KNOWN, ASKED[1]])
    assert [one.text for one in old.choices] == [ANSWER, "Oderfeld"]


def test_the_asynchronous_openai_client(server):
    async def run_it():
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
            talk = [{"role": "user", "content": [{"type": "text", "text": KNOWN}]}]
            whole, stream = await asyncio.gather(
                client.chat.completions.create(model="memo:run", messages=talk),
                client.chat.completions.create(model="memo:run", messages=talk, stream=True),
            )
            pieces = [p.choices[0].delta.content or "" async for p in stream]
            return whole.choices[0].message.content, "".join(pieces)

    assert asyncio.run(run_it()) == (ANSWER, ANSWER)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("n", 2),
        ("tools", [{"type": "function", "function": {"name": "f"}}]),
        ("response_format", {"type": "json_object"}),
        ("logit_bias", {"5": 1}),
        ("logprobs", True),
        ("temperature", 3),
        ("stop", ["a", "b", "c", "d", "e"]),
        ("colour", "red"),
        ("model", "gpt-5"),
        ("messages", []),
        ("messages", [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]),
    ],
)
def test_what_the_openai_api_cannot_do_here_is_refused_by_name(http, field, value):
    body = {"model": "memo:run", "messages": [{"role": "user", "content": KNOWN}]}
    reply = http.post("/v1/chat/completions", json={**body, field: value})
    assert reply.status_code == (404 if field == "model" else 400)
    error = reply.json()["error"]
    assert error["param"].startswith(field)
    assert set(error) == {"message", "type", "param", "code"}


def test_a_written_text_answers_at_once_until_it_is_deleted(http, run):
    body = {"id": "light-1", "title": "Lighthouse", "text": LIGHTHOUSE}
    first = http.post("/v1/documents", json=body)
    again = http.post("/v1/documents", json=body)
    assert (first.status_code, again.json()) == (202, first.json()), "repeating adds nothing"
    other = http.post("/v1/documents", json={**body, "text": "Something else."})
    assert other.status_code == 409
    reply = ask(http, PAINTED)
    assert (reply["source"], reply["sources"]) == ("pending", ["light-1"])
    assert reply["answer"] == LIGHTHOUSE
    assert reply["confidence"] is None
    assert http.get("/v1/documents/light-1").json()["text"] == LIGHTHOUSE
    newer = LIGHTHOUSE.replace("2031", "2044")
    assert http.put("/v1/documents/light-1", json={"text": newer}).status_code == 202
    assert ask(http, PAINTED)["answer"] == newer
    gone = http.delete("/v1/documents/light-1").json()
    assert gone["state"] == "SUCCEEDED", "the memory never had it"
    assert ask(http, PAINTED)["source"] != "pending"
    assert http.get("/v1/documents/light-1").status_code == 404
    history = http.get("/v1/documents/light-1/history").json()["history"]
    assert [row["kind"] for row in history] == ["ADD", "UPDATE", "DELETE"]
    assert not any(row["hash"] for row in history)
    assert http.get(f"/v1/events/{gone['event_id']}/receipt").json()["cleared"]
    stored = b"".join(path.read_bytes() for path in (run.root / "serve").iterdir())
    assert b"lighthouse" not in stored.lower(), "no byte of the text is left"


def test_scopes_do_not_see_each_other(http):
    for user, year in (("ann", 1901), ("bob", 1902)):
        text = f"The diary of the Quilmere mill began in {year}."
        http.post("/v1/documents", json={"text": text, "user_id": user})
    asked = "In which year did the diary of the Quilmere mill begin?"
    assert "1901" in ask(http, asked, user_id="ann")["answer"]
    assert "1902" in ask(http, asked, user_id="bob")["answer"]
    assert ask(http, asked)["source"] != "pending"
    assert ask(http, asked, user_id="bob' OR 1=1")["source"] != "pending"
    (row,) = http.get("/v1/documents", params={"user_id": "ann"}).json()["documents"]
    assert row["scope"] == {"user_id": "ann"}


def test_operators_of_the_search_mean_nothing(http):
    for question in ('"', "NEAR(a b)", "title: x AND (", "a* OR b", "'; DROP TABLE documents; --"):
        ask(http, question)


def test_a_deleted_document_of_the_memory_is_silent_at_once(tmp_path, run):
    copy = RunFolder(shutil.copytree(run.root, tmp_path / "run"))
    with (
        serving(copy, tmp_path / "log") as server,
        httpx.Client(base_url=server.url, timeout=60) as http,
    ):
        assert ask(http, KNOWN)["sources"] == ["doc-0"]
        event = http.delete("/v1/documents/doc-0").json()
        assert event["state"] == "PENDING"
        assert all("doc-0" not in ask(http, q)["sources"] for q in ASKED)
        assert ask(http, KNOWN)["answer"] != ANSWER
        assert http.get(f"/v1/events/{event['event_id']}/receipt").status_code == 409
    with (
        serving(copy, tmp_path / "log2") as server,
        httpx.Client(base_url=server.url, timeout=60) as http,
    ):
        assert ask(http, KNOWN)["answer"] != ANSWER, "a new server hides it too"


def test_another_generation_takes_over_without_a_failed_request(tmp_path, run):
    copy = RunFolder(shutil.copytree(run.root, tmp_path / "run"))
    with (
        serving(copy, tmp_path / "log") as server,
        httpx.Client(base_url=server.url, timeout=60) as http,
    ):
        write_generation(copy)
        done = False

        def hammer(_):
            replies = []
            while not done:
                replies.append(ask(http, KNOWN)["answer"])
            return replies

        def generation():
            return "memo_dist_generation 1.0" in http.get("/metrics").text

        with ThreadPoolExecutor(4) as pool:
            pending = [pool.submit(hammer, n) for n in range(4)]
            switch(copy.generations, 1)
            try:
                eventually(generation, 60)
            finally:
                done = True
            answers = [answer for one in pending for answer in one.result()]
        assert set(answers) == {ANSWER}


def test_a_stop_finishes_what_is_in_progress(tmp_path, run):
    server = begin(run, tmp_path / "log", "serve.batch_wait_ms=500", "serve.batch_size=64")
    with httpx.Client(base_url=server.url, timeout=60) as http, ThreadPoolExecutor(8) as pool:
        ask(http, KNOWN)
        pending = [pool.submit(ask, http, KNOWN) for _ in range(8)]
        eventually(lambda: not any(one.done() for one in pending))
        eventually(lambda: "memo_dist_queued" in httpx.get(f"{server.url}/metrics").text)
        assert end(server) == 0
        assert {one.result()["answer"] for one in pending} == {ANSWER}


def test_a_kill_loses_no_confirmed_write(tmp_path, run):
    copy = RunFolder(shutil.copytree(run.root, tmp_path / "run"))
    server = begin(copy, tmp_path / "log")
    with httpx.Client(base_url=server.url, timeout=60) as http:
        for number in range(5):
            body = {"id": f"note-{number}", "text": f"Note {number} is about the Hestvik pier."}
            assert http.post("/v1/documents", json=body).status_code == 202
    server.process.kill()
    server.process.wait(30)
    with (
        serving(copy, tmp_path / "log2") as again,
        httpx.Client(base_url=again.url, timeout=60) as http,
    ):
        rows = http.get("/v1/documents").json()["documents"]
        assert {row["id"] for row in rows} >= {f"note-{n}" for n in range(5)}
        assert "Hestvik" in ask(http, "What is note 3 about the Hestvik pier?")["answer"]


def test_the_mem0_client(server, tmp_path, monkeypatch):
    monkeypatch.setitem(os.environ, "MEM0_TELEMETRY", "False")
    monkeypatch.setitem(os.environ, "MEM0_DIR", str(tmp_path / "mem0"))
    from mem0 import MemoryClient
    from mem0.exceptions import MemoryNotFoundError

    client = MemoryClient(api_key="none", host=server.url)
    text = "Carla keeps her violin in the Dornau boathouse."
    added = client.add(text, user_id="carla", metadata={"kind": "fact"})
    assert added["event_id"]
    filters = {"user_id": "carla"}
    (first,) = client.search("Where does Carla keep her violin?", filters=filters)["results"][:1]
    assert first["memory"] == text
    assert first["metadata"] == {"kind": "fact", "source": "pending"}
    (row,) = client.get_all(filters=filters)["results"]
    assert row["id"] == first["id"]
    assert client.get(row["id"])["user_id"] == "carla"
    newer = text.replace("violin", "cello")
    client.update(row["id"], text=newer)
    assert client.get(row["id"])["memory"] == newer
    assert [one["event"] for one in client.history(row["id"])] == ["ADD", "UPDATE"]
    assert {one["name"] for one in client.users()["results"]} >= {"carla"}
    client.delete(row["id"])
    with pytest.raises(MemoryNotFoundError):
        client.get(row["id"])
    client.add("Carla likes tea.", user_id="carla")
    client.delete_all(user_id="carla")
    assert client.get_all(filters=filters)["results"] == []


async def mcp_session(target):
    """What an agent does with the tools; the same over both transports."""
    from mcp.client import Client

    async with Client(target) as client:
        names = {tool.name for tool in (await client.list_tools()).tools}

        async def call(name, **arguments):
            result = await client.call_tool(name, arguments)
            return result if result.is_error else result.structured_content

        answer = await call("ask_memory", question=KNOWN)
        text = "The Tasgrund ferry sails at noon."
        added = await call("remember", text=text)
        pending = await call("recall", question="When does the Tasgrund ferry sail?")
        shown = await client.read_resource(f"memory://documents/{added['memory_id']}")
        changed = await call("update_memory", memory_id=added["memory_id"], text=text + " Daily.")
        status = await call("get_event_status", event_id=changed["event_id"])
        listed = await call("get_memories")
        forgotten = await call("forget", memory_id=added["memory_id"])
        missing = await client.call_tool("get_memory", {"memory_id": added["memory_id"]})
    assert names >= {"ask_memory", "search_memories", "delete_all_memories", "list_events"}
    assert names >= {"remember", "recall", "forget", "improve"}
    assert (answer["answer"], answer["sources"], answer["abstained"]) == (ANSWER, ["doc-0"], False)
    assert (pending["answer"], pending["source"]) == (text, "pending")
    assert shown.contents[0].text == text
    assert status["state"] == "PENDING"
    assert added["memory_id"] in [row["id"] for row in listed["memories"]]
    assert forgotten["status"] == "SUCCEEDED"
    assert missing.is_error
    assert "no such document" in missing.content[0].text


def test_the_mcp_client_over_http(server):
    asyncio.run(mcp_session(f"{server.url}/mcp"))


def test_the_mcp_client_over_standard_input_and_output(run, tmp_path):
    from mcp.client.stdio import StdioServerParameters, stdio_client

    copy = shutil.copytree(run.root, tmp_path / "run")
    words = command("mcp", copy)[1:]
    parameters = StdioServerParameters(command=sys.executable, args=words, env=environment())
    asyncio.run(mcp_session(stdio_client(parameters)))


def test_the_page_needs_nothing_from_elsewhere(http):
    page = http.get("/")
    assert page.status_code == 200
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "http://" not in page.text.replace(str(http.base_url), "")
    assert "https://" not in page.text
