"""The demo's configuration and what it says at its end."""

from memo_dist.answers.answer import Answer
from memo_dist.config import load_config
from memo_dist.demo.screen import OWN_DOCUMENTS, examples_text
from memo_dist.demo.variants import configuration, generators
from memo_dist.evaluation.questions import Question
from memo_dist.evaluation.results import Evaluation
from memo_dist.evaluation.scoring import judge


def verdict(name: str, kind: str, said: str, gold: str = ""):
    question = Question(
        name, f"{name}?", gold, supporting_ids=("paper",), answerable=bool(gold), type=kind
    )
    sources = ("paper",) if said else ()
    return judge(question, Answer(said, 0.9, not said, sources, (0,), 0.1, 20))


def evaluation(*verdicts):
    return Evaluation("held-back", {}, {"direct": list(verdicts), "bm25": []}, [], {}, None)


def test_examples_are_right_answers_of_each_type_in_turn_and_one_refusal():
    rows = [
        *(verdict(f"d{n}", "direct", f"Value {n}", f"Value {n}") for n in range(6)),
        verdict("wrong", "multi", "Other", "Value"),
        verdict("m1", "multi", "Both", "Both"),
        verdict("refused", "multi", "", "Known"),
        verdict("u0", "unanswerable", "Invented"),
        verdict("u1", "unanswerable", ""),
        verdict("u2", "unanswerable", ""),
    ]
    assert examples_text(evaluation(*rows)).splitlines() == [
        "5 of 7 right answers (of 9 answerable questions):",
        "  d0?",
        "    Value 0   [paper]",
        "  m1?",
        "    Both   [paper]",
        "  d1?",
        "    Value 1   [paper]",
        "  d2?",
        "    Value 2   [paper]",
        "  d3?",
        "    Value 3   [paper]",
        "abstained on 2 of 3 questions that no document answers:",
        "  u1?",
        "    I don't know.",
    ]


def test_a_memory_that_knows_nothing_is_told_as_it_is():
    rows = [verdict("a", "direct", "Other", "Value"), verdict("b", "unanswerable", "Invented")]
    assert examples_text(evaluation(*rows)).splitlines() == [
        "0 of 0 right answers (of 1 answerable questions):",
        "abstained on 0 of 1 questions that no document answers:",
    ]


def test_recorded_replies_are_the_default_where_they_are(tmp_path):
    replies = tmp_path / "replies.jsonl.xz"
    assert generators(replies) == ("writer", "rules")
    replies.touch()
    assert generators(replies) == ("recorded", "writer", "rules")
    for full in (False, True):
        config = load_config(*configuration(full, "recorded", replies))
        assert (config.generator.kind, config.generator.recording) == ("recorded", str(replies))
        assert config.synthesis.documents_per_unit == 1
        for kind in ("writer", "rules"):
            assert load_config(*configuration(full, kind, replies)).generator.kind == kind


def test_the_commands_for_own_documents_are_commands():
    lines = [line.split() for line in OWN_DOCUMENTS.splitlines() if line.startswith("  ")]
    for words in lines:
        assert words[:3] == ["memo-dist", "encode", "DOCUMENTS"]
        keys = [word.strip("'").replace("URL", "http://a/v1") for word in words if "=" in word]
        assert load_config((), keys).generator.model == "NAME"
