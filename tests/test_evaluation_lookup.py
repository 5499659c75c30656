"""What is compared with the training questions: lookup, the causes of wrong answers, recall."""

import json
from collections import Counter

import pytest
from trained_bank import train_shards, write_bank

from memo_dist.answers.answer import Answer
from memo_dist.cli.main import run as run_cli
from memo_dist.config import Config, to_yaml
from memo_dist.evaluation.findings import findings
from memo_dist.evaluation.lookup import Lookup
from memo_dist.evaluation.mistakes import CAUSES, find_mistakes
from memo_dist.evaluation.questions import Question
from memo_dist.evaluation.results import load_evaluation
from memo_dist.evaluation.run import evaluate as score_all
from memo_dist.evaluation.scoring import judge
from memo_dist.evaluation.taught import Taught
from memo_dist.evaluation.trained import Trained, load_trained
from memo_dist.io import atomic
from memo_dist.io.runfolder import RunFolder
from memo_dist.synthesis.types import Reflection


def reflection(question, answer, source="mill", kind="direct"):
    return Reflection(question, answer, kind, (source,), (), 0, "t", "1", "0")


ROWS = [
    reflection("Who owns the mill?", "Ada Venn"),
    reflection("What colour is the sail in phase 2?", "a dark red"),
    reflection("What colour is the sail in phase 3?", "white"),
    reflection("What did the mill cost?", "around 40,000 crowns"),
    reflection("Who runs the bakery?", "Jon Pell", "bakery"),
    reflection("Who painted the bakery?", "I don't know.", "bakery", "abstain"),
]
TAUGHT = Taught(ROWS)


def test_lookup_answers_as_the_nearest_trained_question_does():
    lookup = Lookup(TAUGHT)
    owner, sail, painter, stranger = lookup.answer(
        ["Whom does the mill belong to, who owns it?", "The sail in phase 3: which colour?",
         "By whom was the bakery painted?", "zzz qqq"]
    )  # fmt: skip
    assert (owner.text, owner.sources, owner.tokens) == ("Ada Venn", ("mill",), 0)
    assert sail.text == "white", "a number of one digit counts"
    assert painter.abstained, "the nearest trained question is an abstention"
    assert painter.text == ""
    assert stranger.abstained, "no trained question shares a word"
    assert Lookup(Taught(ROWS[:-1])).identity != lookup.identity
    assert Lookup(Taught(ROWS)).identity == lookup.identity


def test_the_first_of_equally_near_questions_answers():
    rows = [reflection("Who sings?", "Ida"), reflection("Who sings?", "Una")]
    (answer,) = Lookup(Taught(rows)).answer(["Who sings?"])
    assert answer.text == "Ida"


def test_questions_without_a_word_do_not_break_the_search():
    (answer,) = Lookup(Taught([reflection("?", "Ida")])).answer(["Who sings?"])
    assert answer.abstained


def test_an_answer_counts_as_taught_for_its_documents_and_at_its_length():
    assert TAUGHT.holds(["ada venn"], ["mill"])
    assert not TAUGHT.holds(["Ada Venn"], ["bakery"])
    assert TAUGHT.holds(["Ada Venn"], [])
    assert TAUGHT.holds(["nobody", "40,000"], ["mill"])
    assert not TAUGHT.holds(["40,000"], ["mill"], most_words=2)
    assert not TAUGHT.holds(["Ven"], ["mill"]), "whole words only"
    assert not TAUGHT.holds(["know"], ["bakery"]), "an abstention teaches no answer"


def said(text, refused=""):
    return Answer(text, 0.4, not text, (), (0,), 0.1, 9, refused=refused)


@pytest.mark.parametrize(
    ("gold", "documents", "answer", "cause"),
    [
        ("Ada Venn", ("mill",), said("Jon"), "taught, not recalled"),
        ("Ada Venn", ("mill",), said("", "I don't know."), "taught, not recalled"),
        ("Ada Venn", ("mill",), said("", "it is Ada Venn"), "recalled, refused"),
        ("Ada Venn", ("mill",), said("", "Ada"), "taught, not recalled"),
        ("Ada Venn", ("bakery",), said("Jon"), "never taught"),
        ("Ada Venn", (), said("Jon"), "taught, not recalled"),
        ("Ida", (), said("Jon"), "never taught"),
        ("Ada Venn", ("mill", "bakery"), said("Jon"), "two documents"),
        ("Ada Venn", ("mill", "bakery"), said("", "Ada Venn"), "recalled, refused"),
        ("Ada Venn", ("mill",), said("Ada"), "scoring"),
        ("Ada Venn", ("mill",), said("well " * 20 + "Ada Venn"), "scoring"),
        ("12 June 2030", ("mill",), said("14 June 2030"), "never taught"),
        ("", (), said("Jon"), "answered, should refuse"),
    ],
)
def test_every_wrong_answer_has_its_cause(gold, documents, answer, cause):
    question = Question("q", "Who owns the mill today?", gold, (), documents, bool(gold))
    (mistake,) = find_mistakes("direct", [judge(question, answer)], TAUGHT)
    assert mistake.cause == cause
    assert mistake.cause in CAUSES
    assert (mistake.answer, mistake.refused) == (answer.text, answer.refused)
    assert mistake.nearest.question == "Who owns the mill?"
    assert (mistake.nearest.answer, mistake.nearest.sources) == ("Ada Venn", ("mill",))
    assert 0.8 < mistake.nearest.similarity < 1


def test_right_answers_are_no_mistakes():
    asked = [Question("a", "Who?", "Ada"), Question("b", "Which?", "", answerable=False)]
    verdicts = [judge(asked[0], said("Ada")), judge(asked[1], said(""))]
    assert find_mistakes("direct", verdicts, TAUGHT) == []


class Knows:
    """Answers the first ``count`` questions rightly."""

    def __init__(self, count):
        self.known = {f"What is {n}?": f"fact {n}" for n in range(count)}
        self.identity = str(count)

    def answer(self, questions):
        return [said(self.known.get(question, "nothing")) for question in questions]


@pytest.mark.parametrize(
    ("memory", "lookup", "told"),
    [
        (30, 10, "The memory beats lookup."),
        (21, 20, "It is not certain that the memory beats lookup"),
        (20, 20, "The memory does not beat lookup."),
        (10, 30, "The memory does not beat lookup."),
    ],
)
def test_the_memory_is_compared_with_lookup(memory, lookup, told, tmp_path):
    run = RunFolder(tmp_path)
    questions = [Question(str(n), f"What is {n}?", f"fact {n}") for n in range(40)]
    methods = {"direct": Knows(memory), "lookup": Knows(lookup)}
    score_all(run, Config(), questions, "q", methods, trained=Trained(TAUGHT))
    against, confidence, recall = findings(load_evaluation(run.eval("q")))
    assert f"has {memory} of 40 answerable questions right" in against
    assert f"{2.5 * (memory - lookup):+.1f} points" in against
    assert told in against
    assert ("has learned nothing" in against) == (memory != 30)
    assert f"tells {memory} right answers from {40 - memory} wrong" in confidence
    assert "answers 0 of 5 (0.0 %, 95 % interval 0–43) rightly" in recall


def test_a_sample_is_seeded_and_grows():
    trained = Trained(TAUGHT)
    assert trained.sample(4, seed=5)[:2] == trained.sample(2, seed=5)
    assert len({q.id for q in trained.sample(99, seed=5)}) == len(ROWS)
    orders = {tuple(q.id for q in trained.sample(6, seed)) for seed in range(5)}
    assert len(orders) > 1
    assert sum(not q.answerable for q in trained.sample(6, seed=5)) == 1


# -- a trained bank, through the command line ------------------------------------------------------

FACTS = [
    {
        "Who founded the choir of Lund?": "Lissa",
        "What does Tarn produce?": "clocks",
        "Which river passes Orm?": "the Sella",
        "When did the Oder plant open?": "in 2019",
    },
    {"Who runs the ferry?": "Brandt", "What colour is the lighthouse?": "green"},
]
HELD = "When did the Oder plant open?"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run with a bank of two shards and the records of its training."""
    root = tmp_path_factory.mktemp("lookup")
    run = RunFolder(root / "run")
    write_bank(run.memory, train_shards(root, FACTS, []), FACTS)
    rows = list(atomic.read_jsonl(run.reflections))
    for shard in range(2):
        held = [row for row in rows if row["question"] == HELD and row["shard"] == shard]
        atomic.write_jsonl(run.train(shard) / "held-out.jsonl", held)
    config = Config()
    config.evaluate.baselines = ["lookup"]
    atomic.write_text(run.config, to_yaml(config))
    atomic.write_jsonl(
        root / "questions.jsonl",
        [
            {"id": "1", "question": "Who was it that founded the choir?", "answer": "Lissa"},
            {"id": "2", "question": "Which are the things that Tarn produces?", "answer": "clocks"},
            {"id": "3", "question": "When was the Oder plant opened?", "answer": "2019"},
            {"id": "4", "question": "Who sank the ferry?", "answer": "", "answerable": False},
        ],
    )
    return run


def evaluate(run, *more):
    questions = run.root.parent / "questions.jsonl"
    command = ["evaluate", str(run.root), "--questions", str(questions), "--name", "q", *more]
    assert run_cli(command) == 0
    return load_evaluation(run.eval("q"))


def test_held_out_questions_are_not_trained_ones(trained):
    rows = load_trained(trained).rows
    assert {row.question for row in rows} == {q for shard in FACTS for q in shard} - {HELD}
    assert [row.id for row in rows] == [row.id for row in load_trained(trained).rows]


def test_an_evaluation_is_compared_with_the_training(trained, capsys):
    found = evaluate(trained)
    out = capsys.readouterr().out
    lookup = {v.question.id: v for v in found.verdicts["lookup"]}
    assert lookup["1"].answer.text == "Lissa"
    assert not lookup["3"].right, "the question was held out"
    assert found.scores["lookup"].calls_per_query == 0
    recall = found.trained.recall["direct"]
    assert (recall.n, recall.right, found.trained.questions) == (5, 5, 5), "tiny, but trained"
    pair = next(c for c in found.comparisons if c.second == "lookup")
    assert pair.ci95[0] <= pair.difference <= pair.ci95[1]
    wrong = [v.question.id for v in found.verdicts["direct"] if not v.right]
    assert [m.id for m in found.mistakes["direct"]] == wrong
    text = " ".join(out.split())
    assert f"of {pair.n} answerable questions right, lookup (no model" in text
    assert "paired 95 % interval" in text
    assert "a sample of 5 of 5 trained questions" in text
    counted = Counter(m.cause for m in found.mistakes["direct"])
    report = " ".join(trained.report.read_text().split())
    for cause in CAUSES:
        assert cause in text
        row = f'<td class="key">{cause}</td><td class="num">{counted[cause]}</td>'
        assert row in report
    assert "paired 95 % interval" in report
    assert "nearest trained question (" in report


def test_predictions_keep_what_was_refused(trained):
    evaluate(trained)
    rows = list(atomic.read_jsonl(trained.eval("q") / "predictions-direct.jsonl"))
    assert all(bool(row["refused"]) == row["abstained"] for row in rows)
    path = trained.eval("q") / "predictions-direct.jsonl"
    older = [{k: v for k, v in row.items() if k != "refused"} for row in rows]
    path.write_text("".join(json.dumps(row) + "\n" for row in older))
    evaluate(trained)
    assert next(iter(atomic.read_jsonl(path))).keys() == rows[0].keys(), "asked again"


def test_no_sample_where_none_is_configured(trained, capsys):
    found = evaluate(trained, "evaluate.trained_sample=0")
    assert found.trained.recall == {}
    assert "Trained wordings" not in capsys.readouterr().out
    few = evaluate(trained, "evaluate.trained_sample=2")
    assert few.trained.recall["direct"].n == 2


@pytest.mark.parametrize("gone", ["reflections.jsonl", "train/shard-1/held-out.jsonl", "changed"])
def test_unknown_training_questions_are_explained(trained, gone, tmp_path, capsys):
    path = trained.root / ("reflections.jsonl" if gone == "changed" else gone)
    kept = path.read_bytes()
    if gone == "changed":
        path.write_bytes(kept[: kept.rindex(b"\n", 0, -1) + 1])
        reason = "was trained on other reflections than"
    else:
        path.unlink()
        reason = f"{path} is missing"
    try:
        found = evaluate(trained)
        assert reason in found.trained.missing
        assert list(found.scores) == ["direct"]
        assert found.mistakes == {}
        assert not (trained.eval("q") / "mistakes.jsonl").exists()
        out = " ".join(capsys.readouterr().out.split())
        assert "trained questions of this memory are not known" in out
        assert "trained questions of this memory are not known" in trained.report.read_text()
    finally:
        path.write_bytes(kept)
