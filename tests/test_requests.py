"""Requests and answers without Ray: keys, validation, attempts, limits, journals, backends."""

import asyncio
import json
import time
from dataclasses import fields, replace
from pathlib import Path

import pytest
from request_toy import PAIRS, AskingGenerator, make_config, make_run, request

from memo_dist.cli.preview import estimate_lines
from memo_dist.config.model_schema import ExecutiveConfig, GeneratorConfig
from memo_dist.errors import RunError, UsageError
from memo_dist.io.runfolder import RunFolder
from memo_dist.llm.asker import Asker, Unanswered
from memo_dist.llm.backends.base import (
    Answer,
    RateLimited,
    RequestRefused,
    ServerFault,
    Unreachable,
)
from memo_dist.llm.backends.make import make_backends
from memo_dist.llm.endpoints import Endpoint
from memo_dist.llm.json_text import values, without_trailing_commas
from memo_dist.llm.records import Attempt, RequestJournal, reply_of
from memo_dist.llm.requests import Failure, Message, Request, Response, Usage
from memo_dist.llm.router import Router, Stopping
from memo_dist.llm.schema_check import value_of
from memo_dist.llm.schemas import FACTS, limited, text_of
from memo_dist.llm.spending import Spending, exhausted
from memo_dist.llm.validation import fault_of, next_send
from memo_dist.synthesis.estimate import Speed, assumed_speed, estimate, hours, speed

GOOD = '{"pairs": [{"question": "Who?", "answer": "Ada."}]}'
CHANGES = {
    "model": "other",
    "messages": (Message("user", "Tell me more."),),
    "schema": None,
    "max_tokens": 401,
    "temperature": 0.5,
    "seed": 1,
}


class Scripted:
    """A backend that plays a list of answers and faults, and keeps what it was sent."""

    name = "scripted"

    def __init__(self, *script, seconds: float = 0.0) -> None:
        self._script = list(script)
        self._seconds = seconds
        self.sent: list[tuple[Request, str]] = []
        self.most = self.now = 0

    async def complete(self, request: Request, tag: str) -> Answer:
        self.sent.append((request, tag))
        self.now += 1
        self.most = max(self.most, self.now)
        await asyncio.sleep(self._seconds)
        self.now -= 1
        play = self._script.pop(0) if len(self._script) > 1 else self._script[0]
        if isinstance(play, Exception):
            raise play
        return play if isinstance(play, Answer) else Answer(play, "stop", Usage(10, 0, 5))

    async def close(self) -> None: ...


def ask(folder: Path, backend, *requests: Request, **config):
    """The replies to ``requests``, asked at once."""
    settings = GeneratorConfig(kind="openai", model="toy", **config)

    async def run():
        router = Router([backend], settings, workers=1)
        journal = RequestJournal(folder / "requests.jsonl")
        try:
            return await Asker(settings, router, journal, lambda key: []).ask_all(requests)
        finally:
            journal.close()
            await router.close()

    return asyncio.run(run())


@pytest.mark.parametrize("name", [field.name for field in fields(Request)])
def test_every_field_changes_the_key(name):
    assert replace(request("Tell me."), **{name: CHANGES[name]}).key != request("Tell me.").key


def test_role_content_and_order_of_messages_change_the_key():
    turns = (Message("system", "Be brief."), Message("user", "Tell me."))
    one = request("", messages=turns)
    others = [
        request("", messages=(Message("user", "Be brief."), turns[1])),
        request("", messages=(Message("system", "Be brief"), turns[1])),
        request("", messages=turns[::-1]),
        request("", messages=turns[1:]),
    ]
    assert len({one.key, *(other.key for other in others)}) == 5
    assert one.key == request("", messages=turns).key


@pytest.mark.parametrize(
    ("text", "finish", "fault"),
    [
        (GOOD, "stop", ""),
        (f"```json\n{GOOD}\n```", "stop", ""),
        (f"<think>Hm {{</think>\n{GOOD}", "stop", ""),
        (f"Here it is: {GOOD}\nAnything else?", "stop", ""),
        (GOOD, "length", "truncated"),
        (GOOD, "content_filter", "finish reason content_filter"),
        ("  \n", "stop", "empty"),
        (GOOD[:-1], "stop", "not JSON"),
        ('{"pairs": [NaN]}', "stop", "not JSON"),
        ("[" * 100_000, "stop", "not JSON"),
        (GOOD.replace("Ada", "\\ud83d\\ude00"), "stop", ""),
        (GOOD.replace("Ada", "\\ud83d"), "stop", "not JSON"),
        ('{"pairs": [{"question": "Who?"}]}', "stop", "schema: at $.pairs[0]: 'answer' is a"),
        ('{"unexpected": 1}', "stop", "schema: at $"),
        ('{"pairs": [{"question": "Who?", "answer": "A,]}",}, ]\n,}', "stop", ""),
        (GOOD.replace("Ada", "Ada\nPell"), "stop", ""),
        (
            GOOD.replace("Ada", '"Ada"'),
            "stop",
            "not JSON: Expecting ',' delimiter: line 1 column ",
        ),
        (f'{GOOD[:-2]} "more"]}}', "stop", "not JSON: Expecting ',' delimiter"),
        ('["Ada" is one] {"pairs": [{}]}', "stop", "schema: at $.pairs[0]"),
    ],
)
def test_only_complete_valid_answers_are_accepted(text, finish, fault):
    found = fault_of(Answer(text, finish), PAIRS)
    assert found.startswith(fault) if fault else found == ""


def test_a_trailing_comma_changes_no_text():
    assert value_of('{"pairs": [{"question": "[1,]?", "answer": "\\",}",}]}', PAIRS) == {
        "pairs": [{"question": "[1,]?", "answer": '",}'}]
    }
    assert without_trailing_commas('say, } {"a": "b,]') == 'say, } {"a": "b,]'


def test_more_items_than_asked_for_reject_no_reply():
    row = {"passage": 1, "answer": "1926", "questions": ["When?", "In which year?"]}
    schema = text_of(limited(FACTS, 1, 1, 1))
    assert fault_of(Answer(json.dumps({"facts": [row, row]}), "stop"), schema) == ""
    lacking = json.dumps({"facts": [{**row, "questions": []}]})
    assert fault_of(Answer(lacking, "stop"), schema).startswith("schema")


def test_an_invalid_answer_is_repaired_then_asked_afresh_then_quarantined(tmp_path):
    backend = Scripted("nonsense")
    (reply,) = ask(tmp_path, backend, request("Tell me."), attempts=3)
    assert isinstance(reply, Failure)
    assert (reply.raw, reply.attempts) == ("nonsense", 3)
    assert reply.reason.startswith("not JSON")
    first, repair, afresh = [sent for sent, _ in backend.sent]
    assert first == request("Tell me.")
    assert [turn.role for turn in repair.messages] == ["user", "assistant", "user"]
    assert repair.messages[1].content == "nonsense"
    assert "not JSON" in repair.messages[2].content
    assert afresh.messages == first.messages
    assert (afresh.seed, afresh.temperature) == (2, 0.5)
    assert [tag for _, tag in backend.sent] == [f"{first.key}-{number}" for number in range(3)]


def test_a_cut_answer_is_asked_for_again_with_twice_the_room(tmp_path):
    backend = Scripted(Answer(GOOD, "length"), GOOD)
    (reply,) = ask(tmp_path, backend, request("Tell me."))
    assert isinstance(reply, Response)
    assert reply.value["pairs"][0]["answer"] == "Ada."
    assert [sent.max_tokens for sent, _ in backend.sent] == [400, 800]


class Needing:
    """A backend whose replies, and the thoughts before them, need a number of tokens."""

    name = "needing"

    def __init__(self, tokens: int) -> None:
        self._tokens = tokens
        self.limits: list[int] = []

    async def complete(self, request: Request, tag: str) -> Answer:
        self.limits.append(request.max_tokens)
        enough = request.max_tokens >= self._tokens
        return Answer(GOOD if enough else "", "stop" if enough else "length")

    async def close(self) -> None: ...


def test_the_room_of_a_reply_grows_until_it_is_enough(tmp_path):
    backend = Needing(3000)
    (reply,) = ask(tmp_path, backend, request("Tell me."))
    assert isinstance(reply, Response)
    assert backend.limits == [400, 800, 1600, 3200]
    endless = Needing(10**9)
    ask(tmp_path / "endless", endless, request("Tell me."), attempts=8)
    assert endless.limits == [400, 800, 1600, 3200, *[6400] * 4]


def test_room_for_thoughts_is_no_part_of_the_request(tmp_path):
    backend, asked = Needing(3000), request("Tell me.")
    (reply,) = ask(tmp_path, backend, asked, thinking_tokens=2600)
    assert backend.limits == [3000]
    assert reply.key == asked.key


def test_a_reply_with_faults_after_one_that_was_cut_off_keeps_its_room():
    cut = Attempt("k", 0, "invalid", False, "truncated: the answer was cut off", "{")
    odd = Attempt("k", 1, "invalid", False, "not JSON: x", "nonsense")
    assert next_send(request("Tell me."), [cut, odd]).max_tokens == 800


def test_half_a_surrogate_pair_can_be_journaled(tmp_path):
    broken = Answer(GOOD.replace("Ada", "\ud83d"), "stop")
    (reply,) = ask(tmp_path, Scripted(broken), request("One."))
    assert reply.value["pairs"][0]["answer"] == "?."


def test_usage_and_attempts_count_every_send(tmp_path):
    (reply,) = ask(tmp_path, Scripted("no", "no", GOOD), request("Tell me."))
    assert (reply.attempts, reply.usage) == (3, Usage(30, 0, 15))


def test_what_is_in_the_journal_is_not_sent_again(tmp_path):
    one, two = request("One."), request("Two.")
    first = ask(tmp_path, Scripted(GOOD), one)
    backend = Scripted(GOOD)
    assert ask(tmp_path, backend, one, two)[0] == first[0]
    assert [sent for sent, _ in backend.sent] == [two]


def test_attempts_survive_a_kill(tmp_path):
    one = request("One.")
    journal = RequestJournal(tmp_path / "requests.jsonl")
    journal.append(Attempt(one.key, 0, "invalid", False, "not JSON: x", "nonsense"))
    journal.append(Attempt(one.key, 1, "fault", False, "HTTP 500: x"))
    journal.append(Attempt(one.key, 1, "ok", True, "", "of a worker that was thought dead"))
    journal.close()
    backend = Scripted(GOOD)
    (reply,) = ask(tmp_path, backend, one)
    assert reply.attempts == 3
    assert [tag for _, tag in backend.sent] == [f"{one.key}-2"]
    assert len(backend.sent[0][0].messages) == 3  # the repair turn of the answer before


def test_identical_requests_at_the_same_time_are_sent_once(tmp_path):
    backend = Scripted(GOOD, seconds=0.02)
    replies = ask(tmp_path, backend, *[request("One.")] * 5)
    assert len(backend.sent) == 1
    assert len(set(map(id, replies))) == 1


def test_rate_limits_and_lost_connections_are_no_attempts(tmp_path):
    backend = Scripted(RateLimited("429", 0.01), Unreachable("gone"), GOOD)
    (reply,) = ask(tmp_path, backend, request("One."), attempts=1, retries=0)
    assert isinstance(reply, Response)
    assert len({tag for _, tag in backend.sent}) == 1


def test_server_errors_are_retried_and_refusals_are_not(tmp_path, monkeypatch):
    monkeypatch.setattr("memo_dist.llm.asker.BACKOFF_SECONDS", (0.001, 0.002))
    (reply,) = ask(tmp_path, Scripted(ServerFault("HTTP 500: x"), GOOD), request("One."))
    assert (type(reply), reply.attempts) == (Response, 2)
    (reply,) = ask(tmp_path, Scripted(ServerFault("HTTP 500: x")), request("Two."), retries=2)
    assert (type(reply), reply.attempts, reply.reason) == (Failure, 3, "HTTP 500: x")
    backend = Scripted(RequestRefused("HTTP 400: too long"))
    (reply,) = ask(tmp_path, backend, request("Three."))
    assert (type(reply), len(backend.sent)) == (Failure, 1)


@pytest.mark.parametrize(
    ("outcomes", "counted"),
    [
        (["broken", "broken", "broken"], 3),
        (["broken", "ok"], 1),
        (["invalid", "broken", "ok"], 2),
        (["invalid", "broken", "broken"], 3),
        (["fault", "broken", "refused"], 2),
    ],
)
def test_broken_sends_count_until_another_makes_up_for_them(outcomes, counted):
    rows = [Attempt("k", number, outcome, False) for number, outcome in enumerate(outcomes)]
    rows[-1] = replace(rows[-1], final=True, text=GOOD)
    assert reply_of(request("One."), "k", rows).attempts == counted


def test_a_schema_can_be_told_in_the_prompt(tmp_path):
    backend = Scripted(GOOD)
    ask(tmp_path, backend, request("One."), structured="prompt")
    assert PAIRS in backend.sent[0][0].messages[-1].content


@pytest.mark.alone
def test_in_flight_and_requests_a_minute_are_limited(tmp_path):
    backend = Scripted(GOOD, seconds=0.01)
    ask(tmp_path, backend, *[request(f"{n}.") for n in range(40)], max_in_flight=4)
    assert backend.most <= 4
    began = time.monotonic()
    backend = Scripted(GOOD)
    ask(tmp_path, backend, *[request(f"x{n}.") for n in range(20)], requests_per_minute=600)
    assert 0.8 < time.monotonic() - began < 4  # ten at once, ten more at ten a second


def test_the_limit_of_an_endpoint_rises_and_falls():
    endpoint = Endpoint(Scripted(GOOD), most=64)
    assert endpoint.limit == 32
    endpoint.in_flight = 64
    for _ in range(32):
        endpoint.succeeded(1.0)
    assert endpoint.limit == 64
    endpoint.limited(retry_after=60.0)
    endpoint.limited(retry_after=60.0)  # of the same moment: cut once
    assert endpoint.limit == 32
    assert not endpoint.has_room()


def test_a_slow_endpoint_gets_fewer_requests():
    endpoint = Endpoint(Scripted(GOOD), most=64)
    endpoint.succeeded(1.0)
    for _ in range(40):
        endpoint.succeeded(8.0)
    assert endpoint.limit < 32


def test_the_breaker_opens_after_faults_in_a_row_and_lets_one_request_try(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("memo_dist.llm.endpoints.time.monotonic", lambda: now[0])
    endpoint = Endpoint(Scripted(GOOD), most=64)
    for _ in range(5):
        assert endpoint.has_room()
        endpoint.failed()
    assert not endpoint.has_room()
    now[0] += 1.1
    assert endpoint.has_room()
    endpoint.in_flight = 1
    assert not endpoint.has_room()
    endpoint.succeeded(1.0)
    assert endpoint.has_room() == (endpoint.limit > 1)


@pytest.mark.alone
def test_stragglers_are_sent_once_more_but_few(tmp_path):
    class Straggling(Scripted):
        async def complete(self, request: Request, tag: str) -> Answer:
            known = any(tag == other for _, other in self.sent)
            number = int(request.messages[0].content)
            self._seconds = 0.5 if number >= 98 and not known else 0.01
            return await super().complete(request, tag)

    backend = Straggling(GOOD)
    requests = [request(str(n)) for n in range(100)]
    hedged = {"hedge_after": 5.0, "hedge_fraction": 0.02, "max_in_flight": 8}
    ask(tmp_path, backend, *requests, **hedged)
    assert 100 < len(backend.sent) <= 102


@pytest.mark.alone
def test_a_straggler_gets_the_next_place_of_a_full_queue(tmp_path):
    class Straggling(Scripted):
        async def complete(self, request: Request, tag: str) -> Answer:
            known = any(tag == other for _, other in self.sent)
            late = request.messages[0].content == "40" and not known
            self._seconds = 5.0 if late else 0.02
            return await super().complete(request, tag)

    backend = Straggling(GOOD)
    requests = [request(str(n)) for n in range(160)]
    begin = time.monotonic()
    ask(tmp_path, backend, *requests, hedge_after=4.0, hedge_fraction=0.05, max_in_flight=4)
    assert time.monotonic() - begin < 5.0
    contents = [sent.messages[0].content for sent, _ in backend.sent]
    assert contents.count("40") == 2
    second = len(contents) - 1 - contents[::-1].index("40")
    assert second < len(contents) - 20, "while others still wait for a place"


def test_no_answer_within_the_patience_ends_it(tmp_path):
    with pytest.raises(RunError, match=r"generator\.patience=0\.3 s; last fault: gone"):
        ask(tmp_path, Scripted(Unreachable("gone")), request("One."), patience=0.3)


def test_after_a_stop_nothing_is_waited_for():
    async def run() -> float:
        router = Router([Scripted(GOOD)], GeneratorConfig(kind="openai", model="toy"), workers=1)
        router.stop()
        began = time.monotonic()
        with pytest.raises(Stopping):
            await router.pause(asyncio.sleep(5))
        await router.close()
        return time.monotonic() - began

    assert asyncio.run(run()) < 2


def test_one_request_that_is_sent_again_and_again_ends_with_the_patience(monkeypatch):
    monkeypatch.setattr("memo_dist.llm.endpoints.BREAKER_SECONDS", (0.05, 0.1))
    settings = GeneratorConfig(kind="openai", model="toy", patience=1.0)

    async def run() -> float:
        router = Router([Scripted(Unreachable("gone"))], settings, workers=1)
        began = time.monotonic()
        try:
            with pytest.raises(RunError, match=r"generator\.patience=1 s; last fault: gone"):
                await asyncio.wait_for(router.send(request("One."), "a-0"), 8)
        finally:
            await router.close()
        return time.monotonic() - began

    assert 1.0 <= asyncio.run(run()) < 4


def test_a_stop_sends_nothing_more_and_keeps_what_was_in_flight(tmp_path):
    settings = GeneratorConfig(kind="openai", model="toy", max_in_flight=2)

    async def run() -> int:
        router = Router([Scripted(GOOD, seconds=0.05)], settings, workers=1)
        journal = RequestJournal(tmp_path / "requests.jsonl")
        asker = Asker(settings, router, journal, lambda key: [])
        task = asyncio.create_task(asker.ask_all([request(f"{n}.") for n in range(9)]))
        await asyncio.sleep(0.02)
        router.stop()
        with pytest.raises(Stopping):
            await task
        await asker.drain()
        await router.close()
        return sum(bool(journal.history(request(f"{n}.").key)) for n in range(9))

    assert asyncio.run(run()) in (1, 2)


def test_budgets():
    spent = Spending(prompt=1_000_000, cached=400_000, completion=500_000)
    prices = {"price_prompt": 1.0, "price_cached": 0.1, "price_completion": 4.0}
    assert spent.money(GeneratorConfig(**prices)) == pytest.approx(0.6 + 0.04 + 2.0)
    assert exhausted(spent, GeneratorConfig(budget_tokens=1_500_001)) == ""
    assert "budget_tokens=1500000" in exhausted(spent, GeneratorConfig(budget_tokens=1_500_000))
    assert "budget_money=2.5" in exhausted(spent, GeneratorConfig(budget_money=2.5, **prices))


def test_a_damaged_line_is_not_believed(tmp_path):
    path, one = tmp_path / "requests.jsonl", request("One.")
    ask(tmp_path, Scripted(GOOD), one)
    path.write_bytes(path.read_bytes().replace(b"Ada", b"Eva") + b'{"key": "torn')
    backend = Scripted(GOOD)
    assert ask(tmp_path, backend, one)[0].value["pairs"][0]["answer"] == "Ada."
    assert len(backend.sent) == 1


def test_a_request_journal_is_a_recording(tmp_path):
    one = request("One.")
    first = ask(tmp_path, Scripted("nonsense", GOOD), one)[0]
    settings = GeneratorConfig(
        kind="recorded", model="toy", recording=str(tmp_path / "requests.jsonl")
    )
    (backend,) = make_backends(settings)
    again = ask(tmp_path / "again", backend, one)[0]
    assert again.value == first.value
    with pytest.raises(Unanswered, match="1 requests have no reply"):
        ask(tmp_path / "again", backend, request("Two."), one)
    (executive,) = make_backends(
        ExecutiveConfig(kind="recorded", model="toy", recording=settings.recording)
    )
    (reply,) = ask(tmp_path / "executive", executive, request("Two."))
    assert reply.reason.startswith("no recorded reply to request")  # a conversation goes on
    with pytest.raises(UsageError, match="recording"):
        make_backends(replace(settings, recording=str(tmp_path / "none.jsonl")))


def test_dry_run_counts_calls_tokens_money_and_hours(tmp_path):
    config = make_config("http://127.0.0.1:9/v1", "generator.price_prompt=1000000")
    run = make_run(tmp_path, config)
    rows = {row.name: row for row in estimate(run.corpus, config, AskingGenerator(2))}
    assert list(rows) == ["direct", "cross", "indirect"]
    assert rows["direct"].calls == 24  # one a document, all different
    assert rows["direct"].exact
    assert not rows["cross"].exact
    assumed = speed(run, config.generator)
    assert assumed == Speed(50 * config.generator.max_in_flight, measured=False)
    lines = dict(estimate_lines(list(rows.values()), config.generator, assumed))
    assert lines["  direct"].startswith("24 calls, ")
    total = sum(row.prompt for row in rows.values())
    assert f"{total}.00 at the given prices" in lines["  total"]
    config.generator.requests_per_minute = 1
    calls = sum(row.calls for row in rows.values())
    assert hours(list(rows.values()), config.generator, assumed) == pytest.approx(calls / 60)


def journaled_replies(folder: Path, usage: tuple[int, int, int]) -> RunFolder:
    """A run with 40 replies, one every two seconds, and a pause among them."""
    run = RunFolder(folder)
    path = run.synth / "direct" / "journal" / "requests-0.jsonl"
    path.parent.mkdir(parents=True)
    journal = RequestJournal(path)
    for number in range(40):
        ended = 1000.0 + 2 * number + 10_000 * (number >= 20)
        journal.append(Attempt(f"{number:064}", 0, "ok", True, usage=usage, at=ended))
    journal.close()
    return run


def test_the_speed_of_a_run_is_read_from_its_journals_without_its_pauses(tmp_path):
    found = speed(journaled_replies(tmp_path, (90, 0, 30)), GeneratorConfig())
    assert found.measured
    assert found.tokens == pytest.approx(15, rel=0.1)


def test_replies_without_counted_tokens_show_no_speed(tmp_path):
    config = GeneratorConfig()
    assert speed(journaled_replies(tmp_path, (0, 0, 0)), config) == assumed_speed(config)


def test_replies_come_from_final_attempts_only():
    one = request("One.")
    bad = Attempt(one.key, 0, "invalid", False, "not JSON", "x")
    assert reply_of(one, one.key, []) is None
    assert reply_of(one, one.key, [bad]) is None
    assert next_send(one, [Attempt(one.key, 0, "fault", False, "HTTP 500")]) == one
    assert values(GOOD)[0]["pairs"]
