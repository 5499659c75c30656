"""Parts of a comparison with a known answer: break-even, fusion, graph, prices, planted answers."""

import json
from itertools import islice
from types import SimpleNamespace

import numpy as np
import pytest

from memo_dist.answers.answer import Answer
from memo_dist.compare import judge
from memo_dist.compare.breakeven import Expense, break_even
from memo_dist.compare.comparing import Result, _pairs, reference_of
from memo_dist.compare.graph import PassageGraph, entities
from memo_dist.compare.judge import planted_wrong
from memo_dist.compare.memories import MemoryMethod
from memo_dist.compare.method import Cost, Reply
from memo_dist.compare.outside import PredictedMethod, split_predictions
from memo_dist.compare.prices import load_prices
from memo_dist.compare.retrieval import fuse_ranks
from memo_dist.compare.rows import Pricing, judged, table_row
from memo_dist.compare.task import Outcome
from memo_dist.compare.text import findings
from memo_dist.config import load_config
from memo_dist.errors import UsageError
from memo_dist.evaluation.questions import Question
from memo_dist.evaluation.scoring import compare
from memo_dist.evaluation.statistics import holm

# Training for 100, questions at 0.01 against none and 0.05: equal after 2,500 questions.
TRAINED = Expense("trained", 100.0, 0.01, 20.0)
READER = Expense("reader", 0.0, 0.05, 0.0)


@pytest.mark.parametrize("swapped", [False, True])
def test_break_even_of_synthetic_costs(swapped):
    pair = (READER, TRAINED) if swapped else (TRAINED, READER)
    found = break_even(*pair, questions_per_day=1000)
    assert found.questions == pytest.approx(2500)
    assert (found.before, found.after) == ("reader", "trained")
    assert TRAINED.total(2500) == pytest.approx(READER.total(2500))
    # 1,000 questions a day save 40 a day; an update costs 20: two a day.
    assert found.updates_per_day == pytest.approx(2.0)
    assert (found.few_updates, found.many_updates) == ("trained", "reader")


def test_no_break_even_where_one_is_always_cheaper():
    found = break_even(READER, Expense("worse", 1.0, 0.06, 1.0), 1000)
    assert (found.questions, found.before, found.after) == (None, "reader", "reader")
    assert (found.updates_per_day, found.few_updates) == (None, "reader")
    same = break_even(READER, Expense("twin", 0.0, 0.05, 0.0), 1000)
    assert (same.questions, same.before, same.updates_per_day) == (None, "", None)
    late = break_even(READER, Expense("dearer", 0.0, 0.06, 0.0), 1000)
    assert (late.questions, late.before) == (None, "reader")


def test_holm_adjusts_for_the_number_of_tests():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_reciprocal_ranks_prefer_what_both_searches_find():
    assert fuse_ranks([[3, 1, 2], [1, 4]]) == [1, 3, 4, 2]
    assert fuse_ranks([[], [5]]) == [5]


def test_graph_reaches_a_passage_over_a_shared_entity():
    texts = [
        "Ada Venn founded the pilot school of Lindmouth.",
        "The tide is high. Nobody sails.",
        "The school's patron was Oskar Brehm, and Ada Venn knew him.",
        "Pears grow well here in October.",
    ]
    nothing = np.zeros(len(texts))
    ranked = PassageGraph(texts).rank("Who was the patron of the woman from Lindmouth?", nothing)
    assert set(ranked[:2]) == {0, 2}
    assert PassageGraph(texts).rank("zzz", nothing) == []
    assert PassageGraph(texts).rank("zzz", np.array([0, 0, 0, 1.0]))[0] == 3
    assert "ada venn" in entities(texts[0])


def test_prices_are_data_and_bad_ones_are_refused(tmp_path):
    prices = load_prices()
    assert prices.models
    assert prices.machine("cpu").money(7200) == pytest.approx(2 * prices.machines["cpu"].per_hour)
    assert all(row.date and row.source for row in prices.models.values())
    with pytest.raises(UsageError, match=r"compare\.machine=cpus .*did you mean 'cpu'"):
        prices.machine("cpus")
    file = tmp_path / "p.yaml"
    for text, message in {
        "models: {m: {prompt: -1, completion: 2}}": r"models\.m\.prompt is -1",
        "models: {m: {prompt: 1}}": "completion",
        "models: [1]": "'models' must map",
        "- 1": "must hold currency",
        "a: [": "cannot read",
    }.items():
        file.write_text(text)
        with pytest.raises(UsageError, match=message):
            load_prices(str(file))


def questions(*types):
    return [Question(f"q{n}", f"What is {n}?", f"gold{n}", type=t) for n, t in enumerate(types)]


def test_planted_answers_are_wrong_and_of_the_same_type():
    rows = [*questions("date", "name", "date"), Question("q3", "Who?", "the gold0 house")]
    planted = {question.id: answer for question, answer in planted_wrong(rows)}
    assert planted["q0"] == "gold2"
    assert planted["q2"] == "gold0"
    assert planted["q3"] in {"gold1", "gold2"}


def test_planted_answers_are_made_as_they_are_read(monkeypatch):
    """The first hundred of many questions do not look at all pairs."""
    looked = []
    wrong = judge._is_wrong
    monkeypatch.setattr(judge, "_is_wrong", lambda *a: looked.append(1) or wrong(*a))
    rows = questions(*(str(n % 7) for n in range(2000)))
    first = list(islice(planted_wrong(rows), 100))
    assert len(looked) == 100
    assert [(question.id, answer) for question, answer in first[:2]] == [
        ("q0", "gold7"),
        ("q1", "gold8"),
    ]
    few = questions("a", "b")
    assert [answer for _, answer in planted_wrong(few)] == ["gold1", "gold0"]
    assert not list(planted_wrong(few[:1]))


def result_of(**rights):
    """A comparison in which each method has these questions right (None: missing)."""
    count = len(next(iter(rights.values())))
    asked = questions(*["a"] * count)
    how = Pricing(load_prices(), "cpu", "none", 20, 0)
    rows, answered = [], {}
    for name, right in rights.items():
        replies = [
            None if one is None else Reply(q.answer if one else "no")
            for q, one in zip(asked, right, strict=True)
        ]
        answered[name] = judged(asked, replies)
        rows.append(table_row(name, name, Outcome("k", "done"), answered[name], how))
    reference = reference_of(rows)
    return Result(None, rows, answered, _pairs(reference, answered, how), reference, [], "USD")


def test_a_missing_question_does_not_make_another_method_the_best():
    half = [True, False] * 30
    first, *_ = findings(result_of(memory=[None, *half[1:]], bm25=[True] * 9 + [False] * 51))
    assert first.startswith("Most right: memory (memory), 49.2 % of 59 (1 missing).")
    # One answer that is right is no best row.
    found = findings(result_of(memory=half, bm25=[True] + [None] * 59))
    assert found[0].startswith("Most right: memory (memory), 50.0 % of 60.")
    assert "Not decided" in found[1]
    assert "bm25 (59 missing)" in found[1]


def test_rows_are_compared_on_the_questions_that_both_answered():
    memory = [True] * 12 + [None] * 48
    bm25 = [True] * 9 + [False] * 3 + [True] * 6 + [False] * 42
    first, second, *_ = findings(result_of(memory=memory, bm25=bm25))
    assert first.startswith("Most right: bm25 (bm25), 25.0 % of 60.")
    assert "memory has 100.0 % of 12 (48 missing): 25.0 points more on the 12 that both" in first
    assert "memory (48 missing)" in second
    whole = result_of(memory=[True, False, False, False], bm25=[True, True, True, False])
    assert "memory has 25.0 %: 50.0 points less" in findings(whole)[0]


def test_both_together_are_compared_on_the_questions_that_all_answered():
    both = [True, True, False, None]
    found = result_of(
        memory=[True, False, False, True], bm25=[False, True, False, True], memory_bm25=both
    )
    (said,) = (text for text in findings(found) if "memory_bm25" in text and "beside" in text)
    assert said == (
        "Use both together: memory_bm25 66.7 % beside memory 33.3 %, bm25 33.3 % of the 3"
        " questions that all answered."
    )


def test_lines_of_a_file_end_at_line_feeds_only(tmp_path):
    file = tmp_path / "p.jsonl"
    row = {"id": "q0", "answer": "Ali\u2028ce \x85"}
    file.write_bytes(b"\xef\xbb\xbf" + json.dumps(row, ensure_ascii=False).encode() + b"\r\n")
    (reply,) = PredictedMethod("mine", file, questions("a")).answer(["q0"])
    assert reply.text == "Ali\u2028ce"
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="line 1: not UTF-8 JSON"):
        PredictedMethod("mine", file, questions("a"))


def test_predictions_of_a_file(tmp_path):
    file = tmp_path / "p.jsonl"
    rows = [{"id": "q0", "answer": " gold0 ", "tokens_in": 7}, {"id": "q1", "answer": ""}]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = questions("a", "a", "a")
    first, second, third = PredictedMethod("mine", file, asked).answer([q.id for q in asked])
    assert (first.text, first.tokens_in, first.failed) == ("gold0", 7, "")
    assert (second.text, second.failed) == ("", "")
    assert "does not answer" in third.failed
    for line, message in {
        '{"id": "q0"}': r"line 1: 'answer' is None",
        "[]": "a list, not",
        "{": "not UTF-8 JSON",
        '{"id": "zz", "answer": "x"}': "none of its ids",
        '{"id": "q0", "answer": "x", "seconds": -1}': "'seconds' is -1",
        '{"id": "q0", "answer": "x", "seconds": NaN}': "'seconds' is nan",
        '{"id": "q0", "answer": "x"}\n{"id": "q0", "answer": "x"}': "comes twice",
    }.items():
        file.write_text(line)
        with pytest.raises(UsageError, match=message):
            PredictedMethod("mine", file, asked)
    assert split_predictions(["a=b=c"])["a"].name == "b=c"
    for word in ("a", "=x", "a/b=x", ".a=x"):
        with pytest.raises(UsageError, match="write NAME=FILE"):
            split_predictions([word])


def test_missing_replies_are_neither_right_nor_wrong_and_cost_nothing():
    asked = questions("a", "a", "a")
    replies = [Reply("gold0", seconds=2.0, tokens_in=10), Reply("", failed="server down"), None]
    found = judged(asked, replies)
    assert (len(found.verdicts), found.missing, found.first_failure) == (1, 2, "server down")
    how = Pricing(load_prices(), "cpu", "none", 100, 0)
    row = table_row("m", "", Outcome("k", "done", cost=Cost(seconds=3600.0)), found, how)
    assert (row.n, row.missing, row.right, row.reason) == (1, 2, 1.0, "server down")
    per_hour = load_prices().machines["cpu"].per_hour
    assert row.money == pytest.approx(1000 * 2.0 * per_hour / 3600)
    assert row.prepare_money == pytest.approx(per_hour)
    empty = table_row("m", "", Outcome("k", "failed", "no"), judged(asked, [None] * 3), how)
    assert (empty.right, empty.money, empty.seconds, empty.expense) == (None, None, None, None)


def test_billed_tokens_cost_the_readers_price_and_an_unknown_price_is_no_zero(tmp_path):
    file = tmp_path / "p.yaml"
    file.write_text("models: {big: {prompt: 2, completion: 10}}\nmachines: {cpu: {per_hour: 36}}\n")
    asked = questions("a")
    billed = [Reply("x", tokens_priced_in=1000, tokens_priced_out=100, seconds=9.0, tokens_in=1000)]
    for reader, money in {"big": 1000 * (0.002 + 0.001), "other": None}.items():
        how = Pricing(load_prices(str(file)), "cpu", reader, 100, 0)
        row = table_row("m", "", Outcome("k", "done", cost=Cost()), judged(asked, billed), how)
        assert row.money == (None if money is None else pytest.approx(money))


def test_a_synthesis_by_an_unpriced_model_is_not_free():
    how = Pricing(load_prices(), "cpu", "none", 100, 0)
    for cost, known in (
        (Cost(seconds=9.0), True),
        (Cost(seconds=9.0, priced_model="gpt-5.5", tokens_in=10, calls=1), True),
        (Cost(seconds=9.0, priced_model="gpt-5.5", calls=1), False),  # recorded replies
        (Cost(seconds=9.0, priced_model="unknown", tokens_in=10, calls=1), False),
    ):
        row = table_row("m", "", Outcome("k", "done", cost=cost), judged([], []), how)
        assert (row.prepare_money is not None) is known


def test_pairs_count_refusals_of_unanswerable_questions():
    asked = [*questions("a"), Question("u", "Who?", "", answerable=False)]
    sure = judged(asked, [Reply("gold0"), Reply("made up")]).verdicts
    careful = judged(asked, [Reply("gold0"), Reply("")]).verdicts
    (one,) = compare({"sure": sure, "careful": careful}, 100, 0, unanswerable=True)
    assert (one.n, one.only_first, one.only_second) == (2, 0, 1)


@pytest.mark.parametrize("failed", [0, 2])
def test_an_answer_that_rests_on_a_failed_call_is_missing(failed):
    """The memory's own answer stands in for the executive's there, and would be a wrong score."""
    method = MemoryMethod.__new__(MemoryMethod)
    method._setting = SimpleNamespace(config=load_config())
    method._tokenizer = lambda text, add_special_tokens: {"input_ids": text.split()}
    answer = Answer("seven", 0.9, False, ("a",), (0,), 0.1, 12)
    reply = method._reply(answer, {"failed_calls": failed})
    assert (reply.text, bool(reply.failed)) == ("seven", bool(failed))
    question = Question("q", "How many?", "eight")
    found = judged([question], [reply])
    assert len(found.verdicts) == (0 if failed else 1)
