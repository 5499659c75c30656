"""An evaluation's files, resuming after a stop, and the text tables."""

import json
from collections.abc import Sequence

import pytest

from memo_dist.answering import Answered, Answerer
from memo_dist.answers.answer import Answer
from memo_dist.config import load_config
from memo_dist.config.schema import Config
from memo_dist.errors import StoppedError, UsageError
from memo_dist.evaluation.methods import MemoryAnswerer, memory_identity
from memo_dist.evaluation.questions import Question
from memo_dist.evaluation.results import load_evaluations
from memo_dist.evaluation.run import evaluate
from memo_dist.evaluation.table import scores_text, types_text
from memo_dist.io.runfolder import RunFolder

QUESTIONS = [
    Question(f"q{n}", f"What is fact {n}?", f"answer {n}", type="even" if n % 2 == 0 else "odd")
    for n in range(7)
] + [Question("u0", "What is not there?", "", answerable=False, type="none")]


class Table:
    """Answers from a table and counts what it was asked."""

    def __init__(self, known: dict[str, str], identity: str = "v1") -> None:
        self.known = known
        self.identity = identity
        self.asked: list[str] = []

    def answer(self, questions: Sequence[str]) -> list[Answer]:
        self.asked += questions
        return [self._one(self.known.get(question)) for question in questions]

    def _one(self, text: str | None) -> Answer:
        if text is None:
            return Answer("", 0.1, True, (), (0,), 0.01, 5)
        return Answer(text, 0.9, False, ("d1",), (0,), 0.01, 7)


class Direct(Answerer):
    """A mode that answers from a table."""

    def __init__(self, table: Table) -> None:
        super().__init__()
        self._table = table

    def answer(self, questions: Sequence[str]) -> list[Answered]:
        return [Answered(answer) for answer in self._table.answer(questions)]


class Executive(Answerer):
    """A mode whose executive gives no valid reply to some questions."""

    def __init__(self, table: Table, failing: Sequence[str]) -> None:
        super().__init__()
        self._table, self._failing = table, failing

    def answer(self, questions: Sequence[str]) -> list[Answered]:
        failed = [int(question in self._failing) for question in questions]
        answers = self._table.answer(questions)
        return [
            Answered(answer, {"executive_calls": 3, "failed_calls": count})
            for answer, count in zip(answers, failed, strict=True)
        ]


def half() -> Table:
    return Table({q.question: q.answer for q in QUESTIONS[:4]})


@pytest.fixture
def run(tmp_path):
    return RunFolder(tmp_path / "run")


@pytest.fixture
def config():
    config = Config()
    config.evaluate.batch_size = 3
    config.evaluate.bootstrap = 100
    return config


def test_writes_scores_predictions_and_manifest(run, config):
    config.evaluate.baseline_limit = 3
    methods = {"direct": half(), "bm25": Table({})}
    scores = evaluate(run, config, QUESTIONS, "dev", methods)
    written = json.loads((run.eval("dev") / "scores.json").read_text())
    assert written["direct"]["contains"] == pytest.approx(4 / 7)
    assert written["direct"]["ci95"]["contains"] == list(scores["direct"].ci95["contains"])
    assert written["direct"]["abstain_precision"] == pytest.approx(1 / 4)
    assert written["direct"]["abstain_recall"] == 1.0
    assert (written["direct"]["n"], written["direct"]["n_answerable"]) == (8, 7)
    assert written["bm25"]["n"] == 3, "a baseline that reads answers baseline_limit questions"
    assert {
        "em",
        "f1",
        "rouge_l",
        "tokens_per_query",
        "calls_per_query",
        "seconds_per_query",
    } < set(written["direct"])
    rows = (run.eval("dev") / "predictions-direct.jsonl").read_text().splitlines()
    assert len(rows) == 8
    status = json.loads((run.eval("dev") / "STATUS.json").read_text())
    assert status["state"] == "done"
    (evaluation,) = load_evaluations(run)
    assert evaluation.scores == scores
    assert [v.question for v in evaluation.verdicts["direct"]] == QUESTIONS
    assert list(evaluation.scores) == ["direct", "bm25"]


def test_same_evaluation_twice_gives_the_same_bytes(run, config):
    evaluate(run, config, QUESTIONS, "dev", {"direct": half()})
    folder = run.eval("dev")
    names = ["scores.json", "results.jsonl", "comparisons.json", "manifest.json"]
    before = [(folder / name).read_bytes() for name in names]
    again = half()
    evaluate(run, config, QUESTIONS, "dev", {"direct": again})
    assert again.asked == []
    assert [(folder / name).read_bytes() for name in names] == before


def test_a_stopped_evaluation_asks_only_what_is_missing(run, config):
    answers = iter([False, True])
    first = half()
    with pytest.raises(StoppedError, match="same command"):
        evaluate(run, config, QUESTIONS, "dev", {"direct": first}, lambda: next(answers))
    assert len(first.asked) == 3
    assert json.loads((run.eval("dev") / "STATUS.json").read_text())["state"] == "stopped"
    assert load_evaluations(run) == []
    second = half()
    scores = evaluate(run, config, QUESTIONS, "dev", {"direct": second})
    assert second.asked == [q.question for q in QUESTIONS[3:]]
    assert scores["direct"].contains == pytest.approx(4 / 7)


def test_an_answer_that_rests_on_a_failed_call_is_asked_again(run, config, tmp_path):
    (tmp_path / "bank.json").write_text("{}")
    failing = [QUESTIONS[1].question, QUESTIONS[5].question]
    broken, working = Table({}), half()
    asked = MemoryAnswerer(Executive(broken, failing), tmp_path)
    evaluate(run, config, QUESTIONS, "dev", {"protocol": asked})
    assert (asked.calls, asked.failed, len(broken.asked)) == (3 * len(QUESTIONS), 2, len(QUESTIONS))
    assert len((run.eval("dev") / "results.jsonl").read_text().splitlines()) == len(QUESTIONS)
    again = MemoryAnswerer(Executive(working, []), tmp_path)
    scores = evaluate(run, config, QUESTIONS, "dev", {"protocol": again})
    assert working.asked == failing
    assert scores["protocol"].contains == pytest.approx(1 / 7)
    rest = Table({})
    evaluate(
        run, config, QUESTIONS, "dev", {"protocol": MemoryAnswerer(Executive(rest, []), tmp_path)}
    )
    assert rest.asked == []


def test_a_line_cut_by_a_crash_is_asked_again(run, config):
    evaluate(run, config, QUESTIONS, "dev", {"direct": half()})
    path = run.eval("dev") / "predictions-direct.jsonl"
    path.write_bytes(path.read_bytes()[:-20])
    again = half()
    scores = evaluate(run, config, QUESTIONS, "dev", {"direct": again})
    assert again.asked == [QUESTIONS[-1].question]
    assert scores["direct"].n == 8
    assert all(json.loads(line) for line in path.read_text().splitlines())


def test_another_memory_or_an_edited_question_is_asked_again(run, config):
    evaluate(run, config, QUESTIONS, "dev", {"direct": half()})
    edited = [Question("q0", "What is fact zero?", "answer 0"), *QUESTIONS[1:]]
    same = half()
    evaluate(run, config, edited, "dev", {"direct": same})
    assert same.asked == ["What is fact zero?"]
    retrained = Table({}, identity="v2")
    scores = evaluate(run, config, QUESTIONS, "dev", {"direct": retrained})
    assert len(retrained.asked) == 8
    assert scores["direct"].contains == 0.0


def test_an_edited_gold_answer_is_judged_without_asking(run, config):
    evaluate(run, config, QUESTIONS, "dev", {"direct": half()})
    corrected = [Question("q0", "What is fact 0?", "something else"), *QUESTIONS[1:]]
    again = half()
    scores = evaluate(run, config, corrected, "dev", {"direct": again})
    assert again.asked == []
    assert scores["direct"].contains == pytest.approx(3 / 7)


def test_a_failure_is_recorded_and_raised(run, config):
    class Broken(Table):
        def answer(self, questions):
            raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        evaluate(run, config, QUESTIONS, "dev", {"direct": Broken({})})
    status = json.loads((run.eval("dev") / "STATUS.json").read_text())
    assert (status["state"], status["error"]) == ("failed", "RuntimeError: out of memory")


@pytest.mark.parametrize("name", ["", "..", "a/b", ".hidden"])
def test_the_name_must_be_a_folder_name(run, config, name):
    with pytest.raises(UsageError, match="folder name"):
        evaluate(run, config, QUESTIONS, name, {"direct": half()})


def test_nothing_to_do_is_an_error(run, config):
    with pytest.raises(UsageError, match="no question"):
        evaluate(run, config, [], "dev", {"direct": half()})
    with pytest.raises(UsageError, match="no method"):
        evaluate(run, config, QUESTIONS, "dev", {})


def test_unknown_baselines_are_refused_with_a_suggestion():
    with pytest.raises(UsageError, match="did you mean 'closed_book'"):
        load_config(overrides=["evaluate.baselines=[closedbook]"])


def test_memory_identity_follows_bank_and_calibration(tmp_path):
    memory = tmp_path / "memory"
    with pytest.raises(UsageError, match="run encode first"):
        memory_identity(memory)
    (memory / "shard-0").mkdir(parents=True)
    (memory / "bank.json").write_text("{}")
    (memory / "shard-0" / "calibration.json").write_text('{"threshold": 0.5}')
    answerer = MemoryAnswerer(Direct(half()), memory)
    assert answerer.identity == memory_identity(memory)
    assert answerer.answer([QUESTIONS[0].question])[0].text == "answer 0"
    (memory / "shard-0" / "calibration.json").write_text('{"threshold": 0.6}')
    assert memory_identity(memory) != answerer.identity
    other = Direct(half())
    other.decided_by = (24,)
    assert MemoryAnswerer(other, memory).identity != memory_identity(memory)


def test_text_tables_show_methods_intervals_and_types(run, config):
    scores = evaluate(run, config, QUESTIONS, "dev", {"direct": half(), "closed_book": Table({})})
    text = scores_text(scores)
    (row,) = [line for line in text.splitlines() if line.startswith("direct")]
    assert row.split()[1:3] == ["7+1", "57.1"]
    assert max(len(line) for line in text.splitlines()) <= 100
    (evaluation,) = load_evaluations(run)
    types = types_text(evaluation.verdicts)
    (row,) = [line for line in types.splitlines() if line.startswith("even")]
    assert row.split() == ["even", "4+0", "50.0", "0.0"]
    assert types_text({"direct": evaluation.verdicts["direct"][:1]}) == ""
