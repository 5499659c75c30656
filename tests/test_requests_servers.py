"""Servers as they are: parameters that they refuse, answers in their own wrapping, errors with
status 200, connections that break, hosts that do not exist. Against a real HTTP server."""

import asyncio
import json
import time

import pytest
from aiohttp import web
from request_toy import PAIRS, request

from memo_dist.config.model_schema import GeneratorConfig
from memo_dist.errors import RunError
from memo_dist.llm.asker import Asker
from memo_dist.llm.backends.base import (
    Answer,
    BackendFault,
    EndpointRefused,
    RateLimited,
    RequestRefused,
    ServerFault,
    Unreachable,
)
from memo_dist.llm.backends.make import make_backends
from memo_dist.llm.json_text import values
from memo_dist.llm.records import RequestJournal
from memo_dist.llm.requests import Failure, Message, Response
from memo_dist.llm.router import Router
from memo_dist.llm.schema_check import value_of
from memo_dist.llm.validation import fault_of

GOOD = '{"pairs": [{"question": "Who?", "answer": "Ada."}]}'
DRAFT = '{"pairs": [{"question": "Draft?", "answer": "No."}]}'


def refusal(message, status=400):
    return web.json_response({"error": {"message": message}}, status=status)


def openai(content=GOOD, finish="stop", **more):
    choice = {"message": {"role": "assistant", "content": content}, "finish_reason": finish}
    return web.json_response({"choices": [choice], **more})


def play(handler, asked, kind="openai", **config):
    """What ``asked(settings, backend)`` returns; ``handler`` gets each body and answers."""

    async def run():
        async def post(http):
            answer = handler(await http.json())
            if answer is None:
                http.transport.close()
            return answer or web.Response()

        app = web.Application()
        app.router.add_post("/{path:.*}", post)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        settings = GeneratorConfig(kind=kind, model="m", urls=[url], **config)
        (backend,) = make_backends(settings)
        try:
            return await asked(settings, backend)
        finally:
            await backend.close()
            await runner.cleanup()

    return asyncio.run(run())


def complete(handler, count=1, sent=None, **config):
    sent = sent or request("One.")

    async def asked(_, backend):
        return [await backend.complete(sent, "a-0") for _ in range(count)][-1]

    return play(handler, asked, **config)


@pytest.mark.parametrize("kind", ["openai", "anthropic"])
def test_a_schema_in_the_prompt_stands_there_once(kind, tmp_path):
    bodies = []

    def handler(body):
        bodies.append(body)
        if kind == "openai":
            return openai()
        return web.json_response({"content": [{"type": "text", "text": GOOD}]})

    async def asked(settings, backend):
        router = Router([backend], settings, workers=1)
        journal = RequestJournal(tmp_path / "requests.jsonl")
        (reply,) = await Asker(settings, router, journal, lambda key: []).ask_all([request("One.")])
        journal.close()
        await router.close()
        return reply

    reply = play(handler, asked, kind=kind, structured="prompt")
    assert reply.value["pairs"]
    (body,) = bodies
    assert body["messages"][-1]["content"].count(PAIRS) == 1
    assert not {"response_format", "tools"} & body.keys()


def refuses(*rules):
    """A handler that refuses what breaks a rule, ``(test of the body, message)``; and its log."""
    bodies = []

    def handler(body):
        bodies.append(body)
        for broken, message in rules:
            if broken(body):
                return refusal(message)
        return openai()

    return handler, bodies


LIMIT = (
    "Unsupported parameter: 'max_tokens' is not supported with this model."
    " Use 'max_completion_tokens' instead."
)
WARMTH = (
    "Unsupported value: 'temperature' does not support 0.0 with this model. Only 1 is supported."
)


@pytest.mark.parametrize(
    ("rules", "refused"),
    [
        ([("max_tokens", LIMIT)], 1),
        ([("temperature", WARMTH), ("seed", "Unknown parameter: 'seed'.")], 2),
        ([("response_format", "response_format.type: json_schema is not supported")], 1),
        ([("seed", 'Extra inputs are not permitted: ["body", "seed"]')], 1),
    ],
)
def test_parameters_that_a_server_refuses_are_left_out_from_then_on(rules, refused):
    handler, bodies = refuses(*((lambda b, n=name: n in b, text) for name, text in rules))
    answer = complete(handler, count=3)
    assert fault_of(answer, PAIRS) == ""
    assert len(bodies) == refused + 3
    assert {"max_tokens", "max_completion_tokens"} & bodies[-1].keys()
    if rules[0][0] == "response_format":
        assert PAIRS in bodies[-1]["messages"][-1]["content"]


def test_a_server_without_system_turns_gets_them_in_front_of_the_question():
    def has_system(body):
        return any(turn["role"] == "system" for turn in body["messages"])

    handler, bodies = refuses((has_system, "The system role is not supported by this template"))
    turns = (Message("system", "Be brief."), Message("user", "Who?"))
    complete(handler, sent=request("", messages=turns))
    assert bodies[-1]["messages"] == [{"role": "user", "content": "Be brief.\n\nWho?"}]


def test_a_short_context_gets_a_shorter_reply_limit():
    message = "This model's maximum context length is 4096 tokens. However, you requested 8300"
    handler, bodies = refuses((lambda body: body["max_tokens"] > 3000, message))
    complete(handler, sent=request("One.", max_tokens=8192))
    assert [body["max_tokens"] for body in bodies] == [8192, 4096, 2048]


def test_what_cannot_be_left_out_keeps_the_servers_words():
    with pytest.raises(RequestRefused, match="HTTP 400: the model m is not loaded"):
        complete(lambda body: refusal("the model m is not loaded"))
    with pytest.raises(RequestRefused, match="maximum context"):
        complete(lambda body: refusal("maximum context length is 16 tokens"))


@pytest.mark.parametrize("finish", ["stop", "eos", "STOP", "eos_token", "tool_calls", None])
def test_names_of_an_ordinary_end(finish):
    assert fault_of(complete(lambda body: openai(finish=finish)), PAIRS) == ""


@pytest.mark.parametrize("finish", ["length", "MAX_TOKENS", "content_filter", "SAFETY"])
def test_cut_and_filtered_answers_are_refused(finish):
    assert fault_of(Answer(GOOD, finish), PAIRS)


@pytest.mark.parametrize(
    "text",
    [
        f"Hm {{ so\n</think>\n{GOOD}",
        f"<THINK>{DRAFT}</THINK>{GOOD}",
        f"```JSON\n{GOOD}\n```",
        f"```\n{GOOD}```",
        f"First a draft:\n```json\n{DRAFT}\n```\nBetter:\n```json\n{GOOD}\n```",
        f"Use {{ and }} so: {GOOD} as in [1].",
        f"\ufeff{GOOD}",
        f"{GOOD}\n{{",
        f'["note"] {GOOD} {{"unrelated": true}}',
        GOOD.replace("Ada.", "</think> is a tag."),
        json.dumps(GOOD),
        f"[{DRAFT}, {GOOD}]",
        f"~~~json5\n{GOOD}\n~~~",
        f"<answer>{GOOD}</answer>\u0000",
    ],
)
def test_the_last_value_that_fits_counts_whatever_stands_around_it(text):
    assert fault_of(Answer(text, "stop"), PAIRS) == ""
    (pair,) = value_of(text, PAIRS)["pairs"]
    assert pair["question"] == "Who?"


def test_broken_text_is_read_in_linear_time():
    began = time.monotonic()
    for text in ('{"a":' * 200_000, "{" * 10**6, '[{"a": "' * 100_000, "</think>" * 20_000):
        values(text)
    assert time.monotonic() - began < 5


def test_content_in_parts_and_bookkeeping_of_any_form():
    parts = [{"type": "text", "text": GOOD[:10]}, {"type": "text", "text": GOOD[10:]}]
    odd = {"prompt_tokens": "many", "completion_tokens": None, "prompt_tokens_details": [1]}
    answer = complete(lambda body: openai(parts, usage=odd))
    assert fault_of(answer, PAIRS) == ""
    for usage in ([], "none", {"prompt_tokens": -4}, {"completion_tokens": float("1e400")}):
        complete(lambda body, u=usage: openai(usage=u))


@pytest.mark.parametrize(
    "choice",
    [
        {"text": GOOD},
        {"message": {"content": None, "reasoning_content": GOOD}},
        {"message": {"content": "", "reasoning": GOOD}},
    ],
)
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_the_answer_is_found_where_a_server_puts_it(choice, mark):
    body = mark + json.dumps({"choices": [{**choice, "finish_reason": "stop"}]}).encode()
    answer = complete(lambda _: web.Response(body=body, content_type="application/json"))
    assert fault_of(answer, PAIRS) == ""


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_prompts_and_keys_do_not_follow_a_redirect(status):
    there = "http://elsewhere.example/v1/chat/completions?session=secret"
    with pytest.raises(
        EndpointRefused, match=r"redirects to 'http://elsewhere\.example/"
    ) as caught:
        complete(lambda _: web.Response(status=status, headers={"Location": there}))
    assert "secret" not in str(caught.value)


def test_a_redirect_to_no_url_is_told_too():
    with pytest.raises(EndpointRefused, match=r"redirects to 'http://\[elsewhere'"):
        complete(lambda _: web.Response(status=302, headers={"Location": "http://[elsewhere"}))


@pytest.mark.parametrize("kind", ["openai", "anthropic"])
def test_a_server_that_counts_nothing_spends_the_budget_too(kind):
    def handler(body):
        text = [{"type": "text", "text": GOOD}]
        return openai() if kind == "openai" else web.json_response({"content": text})

    usage = complete(handler, sent=request("word " * 400), kind=kind).usage
    assert 400 < usage.prompt < 1200
    assert 5 < usage.completion < 30


@pytest.mark.parametrize(
    ("error", "expected", "words"),
    [
        ({"message": "Rate limit reached", "code": 429}, RateLimited, "Rate limit"),
        ({"message": "x", "type": "invalid_request_error"}, RequestRefused, "HTTP 400: x"),
        ({"message": "upstream died", "code": "internal"}, ServerFault, "upstream died"),
        ("No auth: invalid api key", EndpointRefused, "invalid api key"),
    ],
)
def test_an_error_with_status_200_keeps_its_class_and_words(error, expected, words):
    with pytest.raises(expected, match=words):
        complete(lambda body: web.json_response({"error": error}))


@pytest.mark.parametrize(
    "message", ["Request too large for m: limit 100, requested 900", "insufficient_quota"]
)
def test_what_waiting_cannot_heal_is_refused(message):
    with pytest.raises(RequestRefused, match=message.split()[0]):
        complete(lambda body: refusal(message, 429))


@pytest.mark.parametrize(
    ("key", "shown"),
    [("test", "A test by Ada-of-the-mill."), ("Ada-of-the-mill", "A test by [hidden].")],
)
def test_a_key_that_is_a_common_word_is_not_cut_out_of_answers(key, shown, monkeypatch):
    monkeypatch.setenv("MEMO_TEST_KEY", key)
    answer = complete(
        lambda body: openai("A test by Ada-of-the-mill."), api_key_env="MEMO_TEST_KEY"
    )
    assert answer.text == shown


@pytest.mark.parametrize(
    "reply",
    [
        {"error": {"message": "bad key test", "code": 401}},
        {"choices": [{"error": "bad key test", "message": {"content": ""}}]},
    ],
)
def test_errors_hold_no_key_however_short(reply, monkeypatch):
    monkeypatch.setenv("MEMO_TEST_KEY", "test")
    with pytest.raises(BackendFault, match=r"bad key \[hidden\]") as error:
        complete(lambda body: web.json_response(reply), api_key_env="MEMO_TEST_KEY")
    assert "test" not in str(error.value)


def ask(handler, folder, texts, **config):
    async def asked(settings, backend):
        router = Router([backend], settings, workers=1)
        journal = RequestJournal(folder / "requests.jsonl")
        try:
            asker = Asker(settings, router, journal, lambda key: [])
            return await asker.ask_all([request(text) for text in texts]), router
        finally:
            journal.close()
            await router.close()

    return play(handler, asked, **config)


def test_a_prompt_on_which_the_connection_breaks_ends_alone(tmp_path, monkeypatch):
    monkeypatch.setattr("memo_dist.llm.asker.BACKOFF_SECONDS", (0.001, 0.002))

    def handler(body):
        return None if "poison" in body["messages"][0]["content"] else openai()

    (good, bad), _ = ask(handler, tmp_path, ["One.", "poison"], retries=2)
    assert isinstance(good, Response)
    assert (type(bad), bad.attempts) == (Failure, 3)


def test_a_request_that_is_never_taken_ends_within_the_patience(tmp_path):
    def handler(body):
        heavy = "heavy" in body["messages"][0]["content"]
        return refusal("slow down", 429) if heavy else openai()

    began = time.monotonic()
    replies, _ = ask(handler, tmp_path, ["One.", "heavy", "Two."], patience=3.0)
    assert [type(reply) for reply in replies] == [Response, Failure, Response]
    assert "slow down" in replies[1].reason
    assert time.monotonic() - began < 8


def test_a_host_that_does_not_exist_is_told_at_once(tmp_path, caplog):
    async def run():
        settings = GeneratorConfig(
            kind="openai", model="m", urls=["http://nowhere.invalid/v1"], patience=1.0
        )
        (backend,) = make_backends(settings)
        router = Router([backend], settings, 1)
        try:
            with pytest.raises(RunError, match=r"nowhere\.invalid"):
                await router.send(request("One."), "a-0")
            return router.trouble
        finally:
            await router.close()

    assert "nowhere.invalid" in asyncio.run(run())
    (told,) = [record for record in caplog.records if "cannot reach" in record.message]
    assert "nowhere.invalid" in told.getMessage()


def test_a_proxy_of_the_environment_is_used_but_not_for_this_machine(monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert fault_of(complete(lambda body: openai()), PAIRS) == ""

    async def run():
        settings = GeneratorConfig(kind="openai", model="m", urls=["http://model.invalid/v1"])
        (backend,) = make_backends(settings)
        try:
            await backend.complete(request("One."), "a-0")
        finally:
            await backend.close()

    with pytest.raises(Unreachable, match=r"127\.0\.0\.1"):
        asyncio.run(run())
