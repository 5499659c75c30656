"""The text protocol against a scripted executive over real HTTP: calls, votes, limits, failures."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest
from protocol_cases import (
    ALIKE,
    CHOIR,
    CLOCKS,
    KNOWN,
    RIVER,
    SCRIPT,
    TableMemory,
    executive,
    implied,
    settings,
)
from request_toy import log_rows

from memo_dist.answers.answer import Answer
from memo_dist.errors import RunError, StoppedError, UsageError
from memo_dist.io.atomic import read_jsonl
from memo_dist.protocol.flows import FALLBACK
from memo_dist.protocol.session import ProtocolSession
from memo_dist.protocol.transcript import FILE_NAME, read_transcript
from memo_dist.protocol.vote import vote


def answers(url, folder, memory, questions, *overrides, **more):
    config = settings(url, *overrides)
    with ProtocolSession(config, memory, folder, **more) as session:
        return session.answer(questions)


def sessions(folder):
    """Events of each question, in order."""
    found = {}
    for row in read_transcript(folder):
        found.setdefault(row["session"], []).append(row)
    return {rows[0]["question"]: rows for rows in found.values()}


def phases(rows):
    return [row["phase"] for row in rows if row["event"] == "executive"]


def asked(rows):
    """The memory's questions, a list a turn."""
    return [
        [question["question"] for question in row["questions"]]
        for row in rows
        if row["event"] == "memory"
    ]


# -- the right calls -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["openai", "anthropic"])
def test_the_transcript_shows_the_steps_and_the_answer_is_what_the_memory_implies(kind, tmp_path):
    memory = TableMemory(KNOWN)
    with executive(tmp_path) as url:
        base = url if kind == "openai" else url.removesuffix("/v1")
        questions = [row["question"] for row in SCRIPT]
        more = (f"executive.kind={kind}", f"executive.urls=['{base}']")
        outcomes = answers(url, tmp_path / "out", memory, questions, *more)
    shown = sessions(tmp_path / "out")
    for row, outcome in zip(SCRIPT, outcomes, strict=True):
        chain, expected = implied(row["steps"], KNOWN.get)
        events = shown[row["question"]]
        assert [question for turn in asked(events) for question in turn] == chain
        assert outcome.answer.text == (expected or "")
        assert outcome.answer.abstained == (expected is None)
        assert [event["n"] for event in events] == list(range(len(events)))
        assert events[-1]["event"] == "answer"
        assert events[-1]["answer"] == outcome.answer.text
        assert events[-1]["calls"] == outcome.calls == len(phases(events))
    assert [outcome.answer.text for outcome in outcomes] == ["the Lissa", "clocks", ""]
    river = shown[RIVER]
    assert phases(river) == ["grounding", "identify", "identify", "seek", "seek", "synthesis"]
    assert asked(river) == [[chain] for chain in implied(SCRIPT[0]["steps"], KNOWN.get)[0]]
    assert outcomes[0].answer.sources == ("doc Ida Brandt", "doc Oderfeld", "doc the Lissa")
    assert outcomes[0].answer.confidence == pytest.approx(0.9)
    assert outcomes[2].ended == "memory silent"
    assert "synthesis" not in phases(shown[CHOIR]), "nothing is made of silence"
    assert shown[RIVER][1]["messages"][0]["role"] == "system"


def test_what_is_asked_at_once_is_one_batch(tmp_path):
    """Two questions of one turn, and what other sessions ask meanwhile, are one call."""
    memory = TableMemory(KNOWN)
    first = ["Who founded Tarn Works?", "Who wrote The Salt Road?"]
    rows = [{"question": ALIKE, "steps": [{"question": text} for text in first]}]
    with executive(tmp_path, rows=rows) as url:
        (outcome,) = answers(url, tmp_path / "out", memory, [ALIKE])
    assert memory.calls == [first]
    assert outcome.answer.calls == outcome.calls + len(first)
    assert outcome.answer.tokens > 2 * 7


def test_the_answer_follows_the_memory_where_it_is_wrong(tmp_path):
    memory = TableMemory({**KNOWN, "Who wrote The Salt Road?": "Ida Brandt"})
    with executive(tmp_path) as url:
        (outcome,) = answers(url, tmp_path / "out", memory, [CLOCKS])
    events = sessions(tmp_path / "out")[CLOCKS]
    assert asked(events)[1:] == [["What does Ida Brandt collect?"]]
    assert (outcome.answer.text, outcome.ended) == ("", "not known")


def test_the_majority_of_the_wordings_counts(tmp_path):
    right = {
        **KNOWN,
        "Who founded Tarn Works?": "Jo Falk",
        "What is the price of tea?": "ida brandt",
    }
    with executive(tmp_path) as url:
        three, one = (
            answers(url, tmp_path / n, TableMemory(right), [RIVER], f"protocol.wordings={n}")[0]
            for n in "31"
        )
    assert three.failed == one.failed == 0
    assert three.answer.text == "the Lissa", "two of three wordings say Ida Brandt"
    assert one.answer.text == "", "the first wording alone says Jo Falk, who was born nowhere"
    (ballot,) = (
        question["ballot"]
        for row in sessions(tmp_path / "3")[RIVER]
        if row["event"] == "memory"
        for question in row["questions"]
        if question["question"] == "Who founded Tarn Works?"
    )
    assert (ballot["votes"], ballot["wordings"], ballot["text"]) == (2, 3, "Ida Brandt")
    assert [answer["text"] for answer in ballot["answers"]] == [
        "Jo Falk",
        "Ida Brandt",
        "ida brandt",
    ]


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ([("A", 0.2), ("B", 0.9), ("a.", 0.3)], ("a.", 2, 0.25)),
        ([("A", 0.4), ("B", 0.9)], ("B", 1, 0.9)),
        ([("A", 0.4), ("", 0.3), ("", 0.1)], ("", 2, 0.2)),
        ([("", 0.3), ("A", 0.1)], ("A", 1, 0.1)),
        ([("", 0.3)], ("", 1, 0.3)),
        ([("++", 0.3), ("", 0.1), ("++.", 0.5)], ("++.", 2, 0.4)),
        ([("-5", 0.4), ("5", 0.9), ("\u22125", 0.6)], ("\u22125", 2, 0.5)),
        ([("C", 0.9), ("C++", 0.2), ("c++.", 0.4)], ("c++.", 2, 0.3)),
    ],
)
def test_votes(said, expected):
    ballot = vote([Answer(text, p, not text, (), (n,), 0, 1) for n, (text, p) in enumerate(said)])
    assert (ballot.text, ballot.votes) == expected[:2]
    assert ballot.confidence == pytest.approx(expected[2])
    assert ballot.silent == (ballot.text == "")
    assert ballot.wordings == len(said)


@pytest.mark.parametrize(
    ("variant", "expected", "calls"),
    [
        ("one_turn", "", ["grounding", "synthesis"]),
        ("multi_turn", "the Lissa", ["conversation"] * 4),
    ],
)
def test_variants(variant, expected, calls, tmp_path):
    """One turn cannot reach the third step; a plain conversation can."""
    with executive(tmp_path) as url:
        more = f"protocol.variant={variant}"
        (outcome,) = answers(url, tmp_path / "out", TableMemory(KNOWN), [RIVER], more)
    assert outcome.answer.text == expected
    assert phases(sessions(tmp_path / "out")[RIVER]) == calls


# -- limits ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", ["full", "multi_turn"])
@pytest.mark.parametrize(
    ("overrides", "limit", "calls"),
    [
        (["protocol.max_calls=5"], "protocol.max_calls", 5),
        (["protocol.max_questions=2"], "protocol.max_questions", 3),
        (["protocol.max_tokens=1"], "protocol.max_tokens", 2),
        (["protocol.max_seconds=0.001"], "protocol.max_seconds", 2),
        ([], "protocol.max_calls", 17),
    ],
)
def test_an_endless_executive_meets_each_budget(variant, overrides, limit, calls, tmp_path):
    rows = [{**SCRIPT[0], "loop": "new"}]
    known = {f"What is number {n}, with 0 turns left?": f"thing {n}" for n in range(99)}
    memory = TableMemory({**KNOWN, **known})
    with executive(tmp_path, rows=rows) as url:
        more = (f"protocol.variant={variant}", *overrides)
        (outcome,) = answers(url, tmp_path / "out", memory, [RIVER], *more)
    assert outcome.limit == limit
    assert outcome.calls <= calls
    if overrides == ["protocol.max_calls=5"]:
        assert outcome.calls == 5
    events = sessions(tmp_path / "out")[RIVER]
    assert events[-1]["limit"] == limit
    assert len(phases(events)) == outcome.calls


def test_turns_are_limited_and_nothing_is_asked_twice(tmp_path):
    with executive(tmp_path, rows=[{**SCRIPT[0], "loop": "new"}]) as url:
        more = ("protocol.identify_turns=2", "protocol.seek_turns=1")
        (outcome,) = answers(url, tmp_path / "new", TableMemory(KNOWN), [RIVER], *more)
    shown = phases(sessions(tmp_path / "new")[RIVER])
    assert shown[:4] == ["grounding", "identify", "identify", "seek"]
    assert shown.count("seek") == 1
    with executive(tmp_path, rows=[{**SCRIPT[0], "loop": "same"}]) as url:
        memory = TableMemory(KNOWN)
        (outcome,) = answers(url, tmp_path / "same", memory, [RIVER])
    events = sessions(tmp_path / "same")[RIVER]
    assert memory.calls == [["Who founded Tarn Works?"]]
    assert phases(events) == ["grounding", *["identify"] * 2, *["seek"] * 2, "synthesis"]
    refused = [row["refused"] for row in events if row["event"] == "memory"][1:]
    assert refused == [[{"question": "Who founded Tarn Works?", "reason": "asked before"}]] * 4
    assert outcome.limit == ""


# -- failures --------------------------------------------------------------------------------------


def test_a_malformed_reply_is_repaired_once(tmp_path):
    with executive(tmp_path, "malformed@0=1") as url:
        (outcome,) = answers(url, tmp_path / "out", TableMemory(KNOWN), [RIVER])
    assert (outcome.answer.text, outcome.failed) == ("the Lissa", 0)
    attempts = list(read_jsonl(tmp_path / "out" / "requests.jsonl"))
    assert [row["outcome"] for row in attempts] == ["invalid", "ok"] * outcome.calls
    assert all(row["text"].startswith("Sure!") for row in attempts[::2])


@pytest.mark.parametrize("fault", ["malformed", "schema", "truncated", "whitespace"])
def test_garbage_is_counted_and_survived(fault, tmp_path):
    """The memory's own answer to the question is left."""
    memory = TableMemory({RIVER: "the Oder"})
    with executive(tmp_path, f"{fault}=1") as url:
        (outcome,) = answers(url, tmp_path / "out", memory, [RIVER])
    assert (outcome.answer.text, outcome.ended) == ("the Oder", FALLBACK)
    assert outcome.failed == outcome.calls > 3
    attempts = list(read_jsonl(tmp_path / "out" / "requests.jsonl"))
    assert len(attempts) == 2 * outcome.calls, "one repair a call"
    failures = [row["failure"] for row in sessions(tmp_path / "out")[RIVER] if "failure" in row]
    assert all(failure["reason"] and failure["raw"] for failure in failures)


def test_calls_that_failed_are_sent_again_by_the_next_session(tmp_path):
    memory = TableMemory({RIVER: "the Oder"})
    with executive(tmp_path, "malformed=1") as url:
        (broken,) = answers(url, tmp_path / "out", memory, [RIVER])
    assert broken.failed
    with executive(tmp_path) as url:
        (outcome,) = answers(url, tmp_path / "out", memory, [RIVER])
    assert outcome.failed == 0


@pytest.mark.parametrize("variant", ["one_turn", "multi_turn"])
def test_garbage_in_the_other_variants(variant, tmp_path):
    memory = TableMemory({RIVER: "the Oder"})
    with executive(tmp_path, "malformed=1") as url:
        more = f"protocol.variant={variant}"
        (outcome,) = answers(url, tmp_path / "out", memory, [RIVER], more)
    assert (outcome.answer.text, outcome.ended) == ("the Oder", FALLBACK)
    assert memory.calls == [[RIVER]]


def test_an_executive_that_is_down_ends_the_verb_with_its_key(tmp_path):
    with socket.socket() as taken:  # a port that nobody listens at
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        with pytest.raises(RunError, match=r"within executive\.patience=0\.5 s"):
            answers(url, tmp_path / "out", TableMemory(KNOWN), [RIVER], "executive.patience=0.5")
    events = sessions(tmp_path / "out")[RIVER]
    assert [event["event"] for event in events] == ["question", "error"]


def test_a_wrong_key_ends_the_verb_and_is_not_told(tmp_path, monkeypatch):
    monkeypatch.setenv("MEMO_TEST_KEY", "sk-planted")
    with executive(tmp_path, key="sk-right") as url:
        more = "executive.api_key_env=MEMO_TEST_KEY"
        with pytest.raises(RunError, match=r"check executive\.urls") as caught:
            answers(url, tmp_path / "out", TableMemory(KNOWN), [RIVER], more)
    written = "".join(path.read_text() for path in (tmp_path / "out").iterdir())
    assert "sk-planted" not in written + str(caught.value)
    monkeypatch.delenv("MEMO_TEST_KEY")
    with pytest.raises(UsageError, match=r"executive\.api_key_env=MEMO_TEST_KEY"):
        answers(url, tmp_path / "out", TableMemory(KNOWN), [RIVER], more)


def test_a_silent_memory_is_an_abstention(tmp_path):
    with executive(tmp_path) as url:
        (outcome,) = answers(url, tmp_path / "out", TableMemory({}), [CHOIR])
    assert (outcome.answer.abstained, outcome.ended) == (True, "memory silent")
    assert outcome.answer.sources == ()


def test_a_question_that_the_memory_cannot_read_is_silence(tmp_path):
    def picky(questions):
        if any("founded" in question for question in questions):
            raise UsageError("too long")
        return TableMemory(KNOWN)(questions)

    with executive(tmp_path) as url:
        outcomes = answers(url, tmp_path / "out", picky, [RIVER, CLOCKS])
    assert [outcome.answer.text for outcome in outcomes] == ["", "clocks"]


def test_a_memory_that_fails_ends_the_session_with_its_error(tmp_path):
    def broken(questions):
        raise RunError("the memory is gone")

    with executive(tmp_path) as url, pytest.raises(RunError, match="the memory is gone"):
        answers(url, tmp_path / "out", broken, [RIVER, CLOCKS])


def test_a_stop_cuts_waiting_short_and_the_next_start_pays_for_nothing_twice(tmp_path):
    log = tmp_path / "log"
    memory = TableMemory(KNOWN)
    with executive(tmp_path, log=log) as url:
        answered = answers(url, tmp_path / "out", memory, [RIVER])
        sent = len(log_rows(log))
        with (tmp_path / "out" / FILE_NAME).open("ab") as stream:
            stream.write(b'{"torn')
        again = answers(url, tmp_path / "out", memory, [RIVER])
        assert len(log_rows(log)) == sent
    assert again[0].answer.text == answered[0].answer.text
    assert sum(row["event"] == "answer" for row in read_transcript(tmp_path / "out")) == 2
    with executive(tmp_path, latency=60) as url, pytest.raises(StoppedError, match="kept"):
        answers(url, tmp_path / "two", memory, [RIVER], should_stop=lambda: True)


# -- candidates ------------------------------------------------------------------------------------


def test_candidates_are_dropped_and_pivots_are_limited():
    """A dropped candidate is not asked about again; a pivot names one that is left."""
    questions = [{"about": "Ida", "question": f"Is Ida {n}?", "wordings": []} for n in range(3)]
    replies = iter(
        [
            {"questions": [{"about": "", "question": "Who is it?", "wordings": []}]},
            {"candidates": ["Ida", "Jo"], "questions": questions[:2], "entity": ""},
            {"candidates": [], "questions": questions[2:], "entity": "Ida"},
            {"candidates": [], "questions": [], "entity": "Jo"},
            {"questions": [], "ready": False, "pivot": "Ida"},
        ]
    )
    prompts, queries, conclusion = drive(replies, {"Who is it?": "one of two"})
    assert queries == [["Who is it?"], ["Is Ida 0?", "Is Ida 1?"], [], ["Who?"]]
    assert "Candidates: Jo\nDropped, do not ask about: Ida" in prompts[2]
    assert "the entity is Jo" in prompts[4]
    assert conclusion.ended == FALLBACK


def test_questions_that_differ_by_a_sign_are_asked_both():
    both = [{"about": "", "question": f"What is {name}?", "wordings": []} for name in ("C++", "C")]
    known = {"What is C++?": "Bjarne's", "What is C?": "Dennis's"}
    _, queries, _ = drive(iter([{"questions": [*both, both[0]]}]), known)
    assert queries[0] == ["What is C++?", "What is C?"]


LONG = f"{'This is the background of the question. ' * 30}Who keeps the mill?"


@pytest.mark.parametrize("variant", ["full", "one_turn", "multi_turn"])
def test_a_long_question_is_asked_as_it_stands(variant):
    """Longer than a question of the executive may be; the memory's own limit decides."""
    _, queries, conclusion = drive(iter([]), {LONG: "Ida"}, LONG, variant)
    assert [question for turn in queries for question in turn] == [LONG]
    assert (conclusion.text, conclusion.ended) == ("Ida", FALLBACK)
    _, queries, conclusion = drive(iter([]), {}, LONG, variant)
    assert queries[-1] == [LONG]
    assert conclusion.text == ""


def test_the_executive_answers_a_long_question_from_the_memorys_own_words():
    said = {"answer": "Ida", "known": True, "support": [1]}
    replies = iter([{"questions": []}, said])
    _, queries, conclusion = drive(replies, {LONG: "Ida Brandt"}, LONG, "one_turn")
    assert queries[-1] == [LONG]
    assert (conclusion.text, conclusion.ended) == ("Ida", "answered")


def test_an_executive_that_answers_without_the_memory_is_not_believed():
    replies = iter([{"questions": [], "answer": "Jo", "done": True}])
    _, queries, conclusion = drive(replies, {"Who?": "Ida"}, variant="multi_turn")
    assert queries == [["Who?"]]
    assert (conclusion.text, conclusion.ended) == ("Ida", FALLBACK)


def test_more_candidates_and_questions_than_asked_for_are_left_out():
    names = [f"Candidate number {n:02}." for n in range(20)]
    asked = [{"about": "", "question": "Which river?", "wordings": []}]
    replies = iter([None, {"candidates": names, "questions": asked, "entity": ""}])
    prompts, _, _ = drive(replies, {"Which river?": "the Oder"})
    assert [name for name in names if name in prompts[2]] == names[:12]
    many = [f"What is fact {n:02}?" for n in range(20)]
    replies = iter([{"questions": many, "answer": "", "done": False}])
    prompts, queries, _ = drive(replies, dict.fromkeys(many, "x"), variant="multi_turn")
    assert queries[0] == many[:6]


def drive(replies, known, question="Who?", variant="full"):
    """Run a flow on replies until they end; a call without one failed."""
    from memo_dist.llm.requests import Failure, Response
    from memo_dist.protocol.budget import Budget
    from memo_dist.protocol.flows import FLOWS
    from memo_dist.protocol.inquiry import Inquiry
    from memo_dist.protocol.requests import Calls
    from memo_dist.protocol.types import Consult

    config = settings("http://127.0.0.1:1/v1")
    calls = Calls(question, config.executive, config.protocol, 0)
    flow = FLOWS[variant](Inquiry(calls, Budget(config.protocol)))
    memory, prompts, queries, reply = TableMemory(known), [], [], None
    while True:
        try:
            call = flow.send(reply)
        except StopIteration as end:
            return prompts, queries, end.value
        if isinstance(call, Consult):
            prompts.append(call.request.messages[-1].content)
            value = next(replies, None)
            done = Response("k", "", value, "stop") if value else Failure("k", "bad", "", 2)
            reply = done
        else:
            queries.append([query.question for query in call.queries])
            reply = [vote(memory(query.wordings)) for query in call.queries]


# -- public data, where it is there ----------------------------------------------------------------


@pytest.mark.skipif("MEMO_DATA" not in os.environ, reason="MEMO_DATA names no data sets")
def test_gold_steps_of_musique(tmp_path):
    """A memory that knows every gold step answers every question with its last step's answer."""
    rows = list(read_jsonl(Path(os.environ["MEMO_DATA"]) / "musique/dev/questions.jsonl"))
    known = {}
    for row in rows:
        gold = [step["answer"] for step in row["steps"]]
        for step in row["steps"]:
            (question, *_), _ = implied([{"question": filled(step["question"], gold)}], known.get)
            known[question] = step["answer"]
    memory = TableMemory(known)
    with executive(tmp_path, rows=rows) as url:
        outcomes = answers(url, tmp_path / "out", memory, [row["question"] for row in rows])
    shown = sessions(tmp_path / "out")
    for row, outcome in zip(rows, outcomes, strict=True):
        chain, expected = implied(row["steps"], known.get)
        events = shown[" ".join(row["question"].split())]
        assert sorted(q for turn in asked(events) for q in turn) == sorted(set(chain))
        assert outcome.answer.text == expected
    assert json.dumps(rows[0]["steps"])


def filled(question, gold):
    for number, answer in enumerate(gold, start=1):
        question = question.replace(f"#{number}", answer)
    return question
