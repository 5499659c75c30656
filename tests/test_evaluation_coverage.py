"""``synthesize --questions``: do the reflections teach what a file of questions asks?"""

import json

import pytest
from cli import memo_dist, tiny_corpus, tiny_questions

from memo_dist.evaluation.question_coverage import cover_questions, measure_questions
from memo_dist.evaluation.questions import Question
from memo_dist.evaluation.statistics import wilson_interval
from memo_dist.evaluation.taught import Taught
from memo_dist.io import atomic
from memo_dist.io.runfolder import RunFolder
from memo_dist.synthesis.types import Reflection


def reflection(question, answer, source="mill", kind="direct"):
    return Reflection(question, answer, kind, (source,), (), 0, "t", "1", "0")


LONG = "the mill is owned by Ada Venn and by her two elder brothers"
ROWS = [
    reflection("Who owns the mill?", LONG),
    reflection("What did the mill cost?", "40,000 crowns"),
    reflection("Who runs the bakery?", "Jon Pell", "bakery"),
    reflection("Who painted the bakery?", "Ada Venn", "bakery", "abstain"),
]


def covered(question, answer, *documents):
    (one,) = cover_questions([Question("q", question, answer, (), documents)], Taught(ROWS))
    return one.taught, one.taught_short, one.nearest, one.nearest_5


def test_measures_by_their_definition():
    assert covered("Who owns the mill?", "Ada Venn", "mill") == (True, False, True, True)
    assert covered("Who owns the mill?", "Ada Venn", "bakery") == (False, False, True, True)
    assert covered("The mill cost how much?", "40,000 crowns") == (True, True, True, True)
    assert covered("Who owns the mill at any cost?", "40,000 crowns") == (True, True, False, True)
    assert covered("Who painted the bakery?", "Ada Venn") == (True, False, False, True), (
        "the nearest question is an abstention"
    )
    assert covered("zzz?", "Jon Pell") == (True, True, False, False)


def test_nothing_is_measured_without_answerable_questions(tmp_path):
    run = RunFolder(tmp_path)
    atomic.write_jsonl(run.reflections, (row.to_json() for row in ROWS))
    unanswerable = [Question("u", "Who?", "", answerable=False)]
    with pytest.raises(ValueError, match="no answerable one"):
        measure_questions(run, unanswerable, "mine")
    assert not list(run.root.glob("synth/*"))


def test_synthesize_tells_it_before_any_training(tmp_path):
    corpus = tiny_corpus(tmp_path / "documents")
    questions = tiny_questions(tmp_path / "asked" / "people.jsonl")
    run = tmp_path / "run"
    command = ["synthesize", corpus, "--run", run, "--questions", questions]
    done = memo_dist(*command, "synthesis.partitions=1")
    assert done.returncode == 0, done.stderr
    path = run / "synth" / "question-coverage-asked-people.json"
    told = json.loads(path.read_text())
    rows = [json.loads(line) for line in questions.read_text().splitlines()]
    answerable = sum(row.get("answerable", True) for row in rows)
    assert told["questions"]["answerable"] == len(told["rows"]) == answerable
    assert told["questions"]["unanswerable"] == len(rows) - answerable
    for measure, found in told["measures"].items():
        hits = sum(row[measure] for row in told["rows"])
        assert (found["n"], found["hits"]) == (answerable, hits)
        assert found["ci95"] == list(wilson_interval(hits, answerable))
        assert f"{hits} of {answerable})" in done.stdout
    assert told["measures"]["taught"]["hits"] > 0
    before = path.read_bytes()
    again = memo_dist(*command)
    assert again.returncode == 0, again.stderr
    assert path.read_bytes() == before, "a finished run is measured again, to the same bytes"


def test_a_bad_file_is_refused_before_the_work(tmp_path):
    corpus = tiny_corpus(tmp_path / "documents")
    run = tmp_path / "run"
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"id": "1", "question": "Who?"}\n')
    done = memo_dist("synthesize", corpus, "--run", run, "--questions", bad)
    assert done.returncode == 2
    assert "the field 'answer' is missing" in done.stderr
    assert not run.exists()
    done = memo_dist(
        "synthesize", corpus, "--run", run, "--questions", bad, "--only-partition", "0"
    )
    assert done.returncode == 2
    assert "--only-partition" in done.stderr
    assert not run.exists()
