"""Tasks of a comparison in this process, without a memory: what is asked, kept and asked again."""

import json
from contextlib import nullcontext

import pytest
from compare_cases import FACTS, SETTINGS, TEXTS, Table, install, never
from protocol_cases import serving

from memo_dist.compare import comparing
from memo_dist.compare.comparing import Plan, _answered, compare_methods
from memo_dist.compare.method import NotRunError, Reply
from memo_dist.compare.readers import ReaderChoice, choose_reader
from memo_dist.compare.task import REQUESTS, Outcome, Task, finished, run_task
from memo_dist.config import load_config
from memo_dist.corpus.build import build_corpus
from memo_dist.evaluation.questions import Question
from memo_dist.io import atomic
from memo_dist.io.runfolder import RunFolder
from memo_dist.llm.records import Attempt, RequestJournal
from memo_dist.llm.reopening import reopen_requests
from memo_dist.testing.faults import FaultPlan
from memo_dist.testing.server import Behaviour

DEAD = "http://127.0.0.1:9/v1"
QUESTIONS = tuple(Question(f"q{n}", q, a) for n, (q, a) in enumerate(FACTS.items()))


@pytest.fixture
def task(tmp_path):
    run, config = RunFolder(tmp_path / "run"), load_config((), SETTINGS)
    source = tmp_path / "corpus.jsonl"
    atomic.write_jsonl(source, ({"id": n, "title": n, "text": t} for n, t in TEXTS.items()))
    build_corpus(source, run.corpus, config.corpus)
    folder = run.compare("t")
    folder.mkdir(parents=True)
    return Task(run, config, QUESTIONS, folder, "table", ReaderChoice("r", "i", "r", None), 100,
                None, "k")  # fmt: skip


def of_file(task, rows, questions):
    file = task.folder / "answers"
    atomic.write_jsonl(file, rows)
    values = {**{n: getattr(task, n) for n in task.__dataclass_fields__}}
    return Task(**{**values, "questions": questions, "method": "other", "predictions": file})


def replies(task):
    return [json.loads(line) for line in task.replies.read_bytes().splitlines()]


def answers(task, outcome):
    return _answered(task, task.folder, task.method, outcome)


def test_questions_of_one_text_have_answers_of_their_own(task):
    twins = tuple(Question(n, "Who is the hero?", a) for n, a in (("a", "Ada"), ("b", "Bob")))
    mine = of_file(task, [{"id": "a", "answer": "Ada"}, {"id": "b", "answer": "Bob"}], twins)
    found = answers(mine, run_task(mine, never))
    assert [reply.text for reply in found.replies] == ["Ada", "Bob"]
    assert all(verdict.right for verdict in found.verdicts)


def test_what_a_file_leaves_out_is_missing_once_and_for_all(task):
    mine = of_file(task, [{"id": "q0", "answer": "Ida Brandt"}], QUESTIONS)
    outcome = run_task(mine, never)
    assert (outcome.state, finished(mine)) == ("done", outcome)
    assert answers(mine, outcome).missing == 2


def test_a_method_that_cannot_be_made_costs_no_replies(task, monkeypatch):
    calls = []

    def midway():
        calls.append(1)
        if len(calls) == 2:
            raise ConnectionError("the server is down")

    def cannot(setting):
        raise NotRunError("no GPU")

    install(monkeypatch, table=lambda s: Table(s, act=midway))
    first = run_task(task, never)
    before = task.replies.read_bytes()
    assert (first.state, len(replies(task))) == ("failed", 2)
    install(monkeypatch, table=cannot)
    outcome = run_task(task, never)
    assert (outcome.state, outcome.identity) == ("not run", first.identity)
    assert len(answers(task, outcome).replies) == 2
    # Of another key, nothing is known of who wrote the replies.
    unknown = Outcome("another", "not run", "no GPU")
    assert not answers(task, unknown).replies
    assert task.replies.read_bytes() == before
    install(monkeypatch, table=lambda s: Table(s, act=midway))
    outcome = run_task(task, never)
    assert (outcome.state, len(calls)) == ("done", 3), "the first batch is not asked again"


def test_failed_requests_are_asked_again_by_the_next_launch(task, monkeypatch):
    class Failing(Table):
        down = True

        def answer(self, questions):
            found = super().answer(questions)
            asked.extend(questions)
            late = Reply("", failed="time-out")
            return [late if self.down and "Mill" in q else r
                    for q, r in zip(questions, found, strict=True)]  # fmt: skip

    asked = []
    install(monkeypatch, table=Failing)
    outcome = run_task(task, never)
    assert (outcome.state, answers(task, outcome).missing) == ("done", 1)
    assert finished(task) is None
    Failing.down = False
    asked.clear()
    outcome = run_task(task, never)
    assert asked == ["Where is the Quill Mill?"]
    assert answers(task, outcome).missing == 0
    assert finished(task) == outcome
    asked.clear()
    run_task(task, never)
    assert (asked, len(replies(task))) == ([], 3), "one line a question"


def test_the_next_launch_sends_failed_requests_to_the_endpoint_again(task, monkeypatch):
    monkeypatch.setattr(comparing, "memory_identity", lambda folder: "a memory")
    settings = ["executive.kind=openai", "executive.model=big", "executive.attempts=1"]
    faults = FaultPlan.parse(["truncated=0.6"])
    found = []
    for behaviour in (Behaviour(faults=faults), Behaviour(), None):
        with serving(behaviour) if behaviour else nullcontext(DEAD) as url:
            config = load_config((), [*SETTINGS, *settings, f"executive.urls=[{url}]"])
            reader = choose_reader("executive", config)
            plan = Plan(task.run, config, QUESTIONS, "t", ["closed_book"], {}, reader)
            found += compare_methods(plan, never, run_task).rows
    assert [row.state for row in found] == ["done"] * 3
    assert found[0].missing > 0
    assert [row.missing for row in found[1:]] == [0, 0]
    history = (task.folder / REQUESTS).read_bytes().count(b"\n")
    assert history == 3 + found[0].missing, "what was answered is not sent again"


def test_failed_requests_of_a_journal_are_opened_once(tmp_path):
    path = tmp_path / "requests.jsonl"
    journal = RequestJournal(path)
    for attempt in (
        Attempt("a", 0, "ok", True, text="yes"),
        Attempt("b", 0, "invalid", False),
        Attempt("b", 1, "fault", True, "time-out"),
    ):
        journal.append(attempt)
    journal.close()
    assert reopen_requests(path)
    read = RequestJournal(path)
    assert [row.final for row in read.history("b")] == [False, False]
    assert read.history("a")[-1].final
    assert not reopen_requests(path)
    assert not reopen_requests(tmp_path / "none")


def test_an_outcome_of_another_version_is_none(task):
    atomic.write_json(task.outcome, {"key": "k", "state": "done"})
    assert Outcome.read(task.outcome) is None
    atomic.write_json(task.outcome, {"key": "k", "state": "done", "cost": {"hours": 1}})
    assert finished(task) is None
