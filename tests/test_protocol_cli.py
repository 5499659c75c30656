"""``ask --mode protocol`` and ``evaluate --modes`` on a trained bank, through the command line."""

from __future__ import annotations

import json
import signal
import time

import pytest
from cli import start, wait_until
from protocol_cases import CHOIR, CLOCKS, FACTS, OUTSIDE, RIVER, SCRIPT, executive, implied
from trained_bank import train_shards, write_bank

from memo_dist.cli.main import run as run_cli
from memo_dist.config import Config, to_yaml
from memo_dist.io import atomic
from memo_dist.io.runfolder import RunFolder
from memo_dist.memory.bank import Bank
from memo_dist.protocol.transcript import read_transcript


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run folder with a bank of two shards, each knowing its half of the facts."""
    root = tmp_path_factory.mktemp("protocol")
    folder = RunFolder(root / "run")
    shards = train_shards(root, FACTS, OUTSIDE)
    write_bank(folder.memory, shards, FACTS)
    config = Config()
    config.evaluate.baselines = []
    atomic.write_text(folder.config, to_yaml(config))
    return folder


def keys(url, *more):
    return ["executive.kind=openai", "executive.model=m", f"executive.urls=['{url}']", *more]


def test_ask_follows_what_the_bank_itself_answers(run, tmp_path, capsys):
    bank = Bank.load(run.memory, run.reflections)

    def known(question):
        (answer,) = bank.answer([question])
        return None if answer.abstained else answer.text

    with executive(tmp_path) as url:
        for row in SCRIPT:
            assert (
                run_cli(
                    [
                        "ask",
                        str(run.root),
                        row["question"],
                        "--mode",
                        "protocol",
                        "--json",
                        *keys(url, "protocol.wordings=1"),
                    ]
                )
                == 0
            )
            told = json.loads(capsys.readouterr().out)
            assert told["answer"] == (implied(row["steps"], known)[1] or "")
            assert told["mode"] == "protocol"
            events = list(read_transcript(run.ask(told["transcript"].rsplit("/", 1)[-1])))
            assert events[-1]["answer"] == told["answer"]
            if row["question"] == RIVER:
                assert told["answer"] == "the Lissa", "the tiny bank knows its facts"
                assert told["sources"] == ["doc-0", "doc-1"]
                assert told["shards"] == [0, 1]
        assert run_cli(["ask", str(run.root), RIVER, "--mode", "protocol", *keys(url)]) == 0
    assert "6 calls of the executive, 3 questions to the memory" in capsys.readouterr().out


def test_modes_are_evaluated_side_by_side(run, tmp_path, capsys):
    questions = tmp_path / "questions.jsonl"
    rows = [
        {"id": "1", "question": RIVER, "answer": "Lissa"},
        {"id": "2", "question": CLOCKS, "answer": "clocks"},
        {"id": "3", "question": CHOIR, "answer": "", "answerable": False},
    ]
    atomic.write_jsonl(questions, rows)
    modes = ["direct", "protocol", "protocol-one-turn", "protocol-multi-turn"]
    log = tmp_path / "log"
    with executive(tmp_path, "malformed@0=0.3", log=log) as url:
        command = [
            "evaluate",
            str(run.root),
            "--questions",
            str(questions),
            "--name",
            "modes",
            "--modes",
            ",".join(modes),
            *keys(url),
        ]
        assert run_cli(command) == 0
        out = capsys.readouterr().out
        sent = log.read_text()
        assert run_cli(command) == 0
        assert log.read_text() == sent, "answers of the same memory and settings are reused"
    scores = atomic.read_json(run.eval("modes") / "scores.json")
    assert list(scores) == sorted(modes)
    assert scores["protocol"]["contains"] == scores["protocol-multi-turn"]["contains"] == 1.0
    assert scores["protocol-one-turn"]["contains"] < 1.0
    assert scores["protocol"]["abstain_recall"] == 1.0
    assert scores["direct"]["calls_per_query"] == 2, "two shards"
    one_turn = scores["protocol-one-turn"]
    assert one_turn["calls_per_query"] < scores["protocol"]["calls_per_query"]
    assert scores["direct"]["tokens_per_query"] < one_turn["tokens_per_query"]
    assert all(mode in out for mode in modes)
    assert all(heading in out for heading in ("contains", "ROUGE-L", "calls")), "none is cut off"
    report = run.report.read_text()
    assert all(f">{mode}<" in report for mode in modes)
    events = list(read_transcript(run.eval("modes") / "protocol"))
    assert sum(event["event"] == "answer" for event in events) == 3


def test_a_local_model_can_be_the_executive(run, capsys):
    """Its replies are noise under a grammar: they parse or are counted, and the verb survives."""
    model = run.memory_shard(0)
    more = [
        "executive.kind=transformers",
        f"executive.model={model}",
        "executive.max_reply_tokens=64",
        "protocol.max_calls=3",
    ]
    assert run_cli(["ask", str(run.root), RIVER, "--mode", "protocol", "--json", *more]) == 0
    told = json.loads(capsys.readouterr().out)
    assert 1 <= told["executive_calls"] <= 3
    assert told["memory_questions"] >= 1


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["ask", "RUN", "Who?", "--mode", "protocol"], "kind is 'none'"),
        (
            ["evaluate", "RUN", "--questions", "Q", "--modes", "protocol"],
            "executive.kind is 'none'",
        ),
        (["evaluate", "RUN", "--questions", "Q", "--modes", "protcol"], "did you mean 'protocol'?"),
        (["evaluate", "RUN", "--questions", "Q", "--modes", "direct,direct"], "each mode once"),
    ],
)
def test_wrong_use_is_refused_before_anything_starts(arguments, expected, run, tmp_path, capsys):
    questions = tmp_path / "questions.jsonl"
    atomic.write_jsonl(questions, [{"id": "1", "question": RIVER, "answer": "Lissa"}])
    places = {"RUN": str(run.root), "Q": str(questions)}
    assert run_cli([places.get(word, word) for word in arguments]) == 2
    assert expected in capsys.readouterr().err


def test_an_executive_that_is_down_is_exit_code_1(run, tmp_path, capsys):
    with executive(tmp_path) as url:
        pass  # nobody listens there any more
    more = keys(url, "executive.patience=0.5")
    assert run_cli(["ask", str(run.root), RIVER, "--mode", "protocol", *more]) == 1
    told = capsys.readouterr().err
    assert "executive.patience=0.5" in told
    assert "Traceback" not in told


def test_an_interrupt_ends_a_question_that_waits_for_the_executive(run, tmp_path):
    log = tmp_path / "log"
    pattern = "ask/*/transcript.jsonl"
    before = set(run.root.glob(pattern))
    with executive(tmp_path, latency=60.0) as url:
        process = start("ask", run.root, RIVER, "--mode", "protocol", *keys(url), log=log)
        wait_until(lambda: set(run.root.glob(pattern)) - before, 60, "a transcript", process)
        time.sleep(0.5)
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130, log.read_text()
    assert time.monotonic() - began < 20, "it does not wait for the reply"
    assert "Traceback" not in log.read_text()
