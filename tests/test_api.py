"""The public Python API: its two examples, its modes and its errors."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from threading import Event

import pytest
from cli import TINY, environment, memo_dist, tiny_corpus, tiny_questions

from memo_dist import Answer, Bank, answering, encode
from memo_dist.answering import Answered, Answerer
from memo_dist.errors import UsageError
from memo_dist.io import atomic

EXAMPLES = Path(__file__).parent.parent / "docs" / "examples"


def example(name: str, *arguments: str | Path) -> str:
    command = [sys.executable, EXAMPLES / name, *map(str, arguments)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=300, env=environment(), check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def encoded(tmp_path_factory):
    """A run that the example encoded, the example's output, and its arguments."""
    root = tmp_path_factory.mktemp("api")
    corpus = tiny_corpus(root / "documents")
    config = root / "tiny.yaml"
    lines = memo_dist("config", *TINY).stdout
    config.write_text(lines)
    arguments = (corpus, root / "run", "Where is the head office?", config)
    return root / "run", example("encode_and_ask.py", *arguments), arguments


def test_encode_and_ask(encoded):
    run, printed, arguments = encoded
    assert printed.strip()
    again = example("encode_and_ask.py", *arguments)  # found done, and the same answer
    assert again == printed
    told = memo_dist("ask", run, arguments[2], "--json")
    answer = json.loads(told.stdout)
    assert answer["answer"] in printed


def test_ask_in_batches(encoded, tmp_path, monkeypatch, capsys):
    run, _, _ = encoded
    questions = tiny_questions(tmp_path / "questions.jsonl")
    monkeypatch.setattr(sys, "argv", ["ask_in_batches.py", str(run), str(questions)])
    runpy.run_path(str(EXAMPLES / "ask_in_batches.py"), run_name="__main__")
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    asked = [row["question"] for row in atomic.read_jsonl(questions)]
    assert [row["question"] for row in rows] == asked
    with Bank(run) as bank:
        answers = bank.answer(asked)
        alone = bank.ask(asked[0])
        details = bank.answer_with_details(asked[:1])
    assert [row["answer"] for row in rows] == [answer.text for answer in answers]
    assert isinstance(alone, Answer)
    assert alone.text == answers[0].text == details[0].answer.text


def test_a_closed_bank_answers_again(encoded):
    run, _, arguments = encoded
    bank = Bank(run)
    first = bank.ask(arguments[2])
    bank.close()
    bank.close()
    assert bank.ask(arguments[2]).text == first.text
    bank.close()


def test_closing_waits_for_the_calls_of_other_threads(tmp_path, monkeypatch):
    (tmp_path / "memory").mkdir()
    (tmp_path / "memory" / "bank.json").write_text("{}")
    (tmp_path / "config.yaml").write_text("{}\n")
    asked, go_on, events = Event(), Event(), []

    class Slow(Answerer):
        def answer(self, questions):
            asked.set()
            assert go_on.wait(20)
            events.append("answered")
            return [Answered(Answer("Lund", 1.0, False, (), (0,), 0.0, 1)) for _ in questions]

        def close(self):
            events.append("closed")

    monkeypatch.setattr(answering, "open_answerer", lambda *_: Slow())
    bank = Bank(tmp_path)
    with ThreadPoolExecutor(2) as pool:
        answer = pool.submit(bank.ask, "Where?")
        assert asked.wait(20)
        closed = pool.submit(bank.close)
        assert wait([closed], timeout=0.2).not_done
        go_on.set()
        assert answer.result().text == "Lund"
        closed.result()
    assert events == ["answered", "closed"]


@pytest.mark.parametrize(
    ("arguments", "settings", "message"),
    [
        (("nowhere",), None, "nowhere is not a run folder"),
        (("RUN", "telepathy"), None, "unknown mode 'telepathy'"),
        (("RUN", "protocol"), None, "executive.kind"),
        (("RUN",), {"memory.max_answer_token": 3}, "did you mean 'memory.max_answer_tokens'"),
        (("RUN",), {"memory.max_answer_tokens": 0}, "memory.max_answer_tokens"),
    ],
)
def test_wrong_use_of_a_bank(encoded, arguments, settings, message):
    run, _, _ = encoded
    arguments = [str(run) if word == "RUN" else word for word in arguments]
    with pytest.raises(UsageError, match=message):
        Bank(*arguments, settings=settings)


def test_a_refused_encode_writes_nothing(tmp_path):
    with pytest.raises(UsageError, match=r"did you mean 'train\.epochs'"):
        encode(tmp_path, tmp_path / "run", settings={"train.epoch": 1})
    with pytest.raises(UsageError, match="nothing"):
        encode(tmp_path / "nothing", tmp_path / "run", settings={"memory.base": "scratch"})
    assert not (tmp_path / "run").exists()


def test_a_run_without_a_memory(encoded, tmp_path):
    run, _, _ = encoded
    (tmp_path / "config.yaml").write_bytes((run / "config.yaml").read_bytes())
    with pytest.raises(UsageError, match="has no memory yet"):
        Bank(tmp_path)


def test_importing_the_package_is_quick():
    code = "import memo_dist, sys; print('torch' in sys.modules, 'ray' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
