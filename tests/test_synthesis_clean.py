"""Cleaning rules, each with a case that it catches and one that it leaves alone."""

import random
from dataclasses import replace

import pytest

from memo_dist.config.schema import SynthesisConfig
from memo_dist.synthesis.clean import Candidate, clean, normalise
from memo_dist.synthesis.types import Reflection

LIMITS = SynthesisConfig(max_question_chars=60, max_answer_chars=40)


def row(question, answer="1999", step=0, kind="direct", request="r", parent=None, source="d"):
    reflection = Reflection(
        question, answer, kind, (source,), (f"{source}:0-9",), 0, "toy", "1", request, parent
    )
    return Candidate(step, reflection)


def dropped(cleaned):
    return [(entry.reason, entry.reflection.question) for entry in cleaned.dropped]


def test_normalise_keeps_what_tells_names_and_numbers_apart():
    assert normalise("What is “The Tarn  Plant”?") == "what is tarn plant"
    assert normalise("It's 1.5!") == normalise("it's 1.5")
    distinct = ["C", "C++", "1.5", "15", "-15", "5%", "5"]
    assert len({normalise(text) for text in distinct}) == len(distinct)


def test_unrelated_reflections_stay_sorted_by_id():
    rows = [row(f"Question {index}?") for index in range(9)]
    cleaned = clean(rows, LIMITS)
    assert not cleaned.dropped
    assert [kept.id for kept in cleaned.kept] == sorted(item.reflection.id for item in rows)


def test_of_equal_ids_the_lowest_step_and_request_stays():
    rows = [row("Q?", step=1, request="a"), row("Q?", request="z"), row("Q?", request="b")]
    cleaned = clean(rows, LIMITS)
    assert [kept.request for kept in cleaned.kept] == ["b"]
    assert [entry.reason for entry in cleaned.dropped] == ["duplicate", "duplicate"]
    assert cleaned.by_step == {0: 1}


def test_two_answers_to_one_question_contradict():
    cleaned = clean([row("When?", "1999"), row("when ?", "2001", step=1)], LIMITS)
    assert [kept.answer for kept in cleaned.kept] == ["1999"]
    assert dropped(cleaned) == [("contradicts", "when ?")]
    assert cleaned.dropped[0].kept == cleaned.kept[0].id


def test_a_question_that_two_documents_answer_differently_is_trained_with_neither_answer():
    rows = [row("Which port?", "9464", source="go"), row("Which port?", "9090", source="java")]
    child = row("What port?", "9464", 1, "paraphrase", parent=rows[0].reflection.id, source="go")
    cleaned = clean([*rows, child, row("Which host?", "the east host")], LIMITS)
    assert [kept.question for kept in cleaned.kept] == ["Which host?"]
    reasons = [reason for reason, question in dropped(cleaned) if question == "Which port?"]
    assert reasons == ["ambiguous between documents"] * 2
    assert ("parent dropped", "What port?") in dropped(cleaned)


def test_answers_of_two_documents_that_say_the_same_in_other_words_are_not_ambiguous():
    rows = [row("Who leads?", "Anna Berg"), row("Who leads?", "the manager Anna Berg", source="e")]
    assert len(clean(rows, LIMITS).kept) == 1


def test_the_same_fact_of_two_documents_is_trained_once():
    cleaned = clean([row("When?"), row("When?", source="e", step=1)], LIMITS)
    assert len(cleaned.kept) == 1
    assert dropped(cleaned) == [("same question", "When?")]


@pytest.mark.parametrize(
    ("question", "answer", "reason"),
    [
        (" ?", "1999", "empty"),
        ("When?", "...", "empty"),
        ("When " + "x" * 60, "1999", "overlong question"),
        ("When?", "x" * 41, "overlong answer"),
    ],
)
def test_unusable_reflections_go(question, answer, reason):
    assert dropped(clean([row(question, answer)], LIMITS)) == [(reason, question)]


def test_an_abstain_example_yields_to_an_answer_of_any_step():
    abstain = row("When?", "I don't know.", step=0, kind="abstain")
    cleaned = clean([abstain, row("When?", step=2), row("Who?", "I don't know.")], LIMITS)
    assert ("answerable", "When?") in dropped(cleaned)
    assert sorted(kept.question for kept in cleaned.kept) == ["When?", "Who?"]


GROUND = {"d:0-9": "Nothing of it stands here.", "d:9-20": "Ada Moss built the Tarn mill."}


def of_chunk(item, chunk):
    return replace(item, reflection=replace(item.reflection, chunks=(chunk,)))


@pytest.mark.parametrize(
    ("kind", "early"), [("entity", False), ("entity", True), ("paraphrase", False)]
)
def test_a_later_copy_that_cites_the_right_chunk_keeps_its_rewordings(kind, early):
    """Also those that are judged before it, as they are of an earlier step."""
    bad = of_chunk(row("Who built the mill?", "Ada Moss"), "d:0-9")
    good = of_chunk(row("Who built the mill?", "Ada Moss", 1, "entity", "s"), "d:9-20")
    name = good.reflection.id
    rewordings = [
        of_chunk(row(f"Who {verb} it up?", "Ada Moss", 0 if early else 2, "paraphrase",
                     parent=name), "d:9-20")
        for verb in ("built", "put", "set")
    ]  # fmt: skip
    items = [bad, good, *rewordings] if kind == "entity" else [bad, *rewordings]
    cleaned = clean(items, LIMITS, lambda item: GROUND[item.chunks[0]])
    reasons = sorted(reason for reason, _ in dropped(cleaned))
    if kind == "entity":
        assert reasons == ["answer not in the text"]
        assert [kept.fact for kept in cleaned.kept] == [name] * 4
        assert sum(cleaned.by_step.values()) == 4
    else:
        assert reasons == ["answer not in the text", *["parent dropped"] * 3]


def test_a_twin_stands_for_a_fact_of_which_an_earlier_copy_went():
    other = row("Who built the mill?", "Ada Moss", request="a", source="e")
    bad = of_chunk(row("Who built the mill?", "Ada Moss", request="0"), "d:0-9")
    copy = of_chunk(row("Who built the mill?", "Ada Moss", 1, "entity", "s"), "d:9-20")
    child = row("Who put it up?", "Ada Moss", 2, "paraphrase", parent=copy.reflection.id)
    ground = {**GROUND, "e:0-9": GROUND["d:9-20"]}
    items = [other, bad, copy, of_chunk(child, "d:9-20")]
    cleaned = clean(items, LIMITS, lambda item: ground[item.chunks[0]])
    assert [reason for reason, _ in dropped(cleaned)] == ["answer not in the text", "same question"]
    kept = {item.question: item for item in cleaned.kept}
    assert kept["Who put it up?"].parent == other.reflection.id


def test_rewordings_follow_the_fate_of_their_parent():
    first, wrong = row("When?"), row("When?", "2001", step=1)
    twin = row("When?", source="e", step=1)
    children = [
        row(f"In what year? {index}", item.reflection.answer, 2, "paraphrase", parent=item_id)
        for index, item in enumerate((first, wrong, twin))
        for item_id in [item.reflection.id]
    ]
    cleaned = clean([first, wrong, twin, *children], LIMITS)
    assert ("parent dropped", "In what year? 1") in dropped(cleaned)
    kept = {kept.question: kept for kept in cleaned.kept}
    assert kept["In what year? 0"].parent == first.reflection.id
    assert kept["In what year? 2"].fact == first.reflection.id  # one fact, one group
    assert kept["In what year? 2"].id == children[2].reflection.id


def test_the_order_of_the_input_does_not_matter():
    rows = [
        row(f"Q {index % 5}?", str(index % 3), index % 2, request=str(index % 4))
        for index in range(30)
    ]
    rows += [replace(item, reflection=replace(item.reflection, kind="abstain")) for item in rows]
    expected = clean(rows, LIMITS)
    for seed in range(5):
        random.Random(seed).shuffle(rows)
        assert clean(rows, LIMITS).kept == expected.kept
