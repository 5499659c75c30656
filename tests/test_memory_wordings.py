"""A question asked in several wordings: what is asked, which answer counts, what it costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

from memo_dist.answers.rewording import MOST_WORDINGS, rewordings
from memo_dist.memory.answering import FEATURES, RawAnswer, Reading
from memo_dist.memory.grouping import joined, parted
from memo_dist.memory.wordings import agreed, answer_wordings, read_wordings

CERTAINTY, AGREEMENT = FEATURES.index("mean_logprob"), FEATURES.index("agreement")


def raw(text: str, certainty: float) -> RawAnswer:
    values = [0.0] * len(FEATURES)
    values[CERTAINTY], values[AGREEMENT] = certainty, 1.0
    return RawAnswer(text, tuple(values), 10, 0.5)


class Scripted:
    """Two shards that answer every text with a line of a table; keeps what it was asked."""

    shards = (0, 3)
    streams = False

    def __init__(self, table: dict[str, RawAnswer]) -> None:
        self.table = table
        self.asked: list[dict[int, list[str]]] = []

    def answer(
        self, asked: Mapping[int, Sequence[str]], batch_size: int
    ) -> dict[int, list[RawAnswer]]:
        self.asked.append({shard: list(texts) for shard, texts in asked.items()})
        other = raw("another", -2.0)
        return {k: [other if k else self.table[text] for text in asked[k]] for k in asked}

    def read(self, questions: Sequence[str], batch_size: int) -> dict[int, list[Reading]]:
        return {k: [Reading(-k - len(q), len(q), 0.5) for q in questions] for k in self.shards}


def test_a_question_is_asked_in_many_manners() -> None:
    asked = rewordings("According to the manual, how long does the Tessmar 40 last?", 7)
    assert asked == (
        "According to the manual, how long does the Tessmar 40 last?",
        "Manual Tessmar 40 last, how long?",
        "How long does the Tessmar 40 last?",
        "Can you tell me how long does the Tessmar 40 last?",
        "In Tessmar 40, how long does the Tessmar 40 last?",
        "according to the manual, how long does the tessmar 40 last",
    )
    assert rewordings("Who designed the Marrow pump?", 7)[-2:] == (
        "Which person designed the Marrow pump?",
        "who designed the marrow pump",
    )


@pytest.mark.parametrize("count", range(1, MOST_WORDINGS + 1))
def test_there_are_at_most_as_many_wordings_as_asked_for_and_none_twice(count: int) -> None:
    asked = rewordings("When does the Marrow pump of Oderfurt need new oil?", count)
    assert asked == tuple(dict.fromkeys(asked))
    assert len(asked) == min(count, 6)  # it has no lead to leave out


@pytest.mark.parametrize(
    ("question", "others"),
    [
        ("Who is it?", ("Can you tell me who is it?", "Which person is it?", "who is it")),
        ("Wie lange hält die Zelle?", ("wie lange hält die zelle",)),
        ("", ()),
    ],
)
def test_rules_for_english_leave_other_questions_alone(question: str, others: tuple) -> None:
    assert rewordings(question, MOST_WORDINGS)[1:] == others


def test_the_more_certain_of_two_answers_counts() -> None:
    best = agreed([raw("six years", -0.9), raw("ten years", -0.1)])
    assert best.text == "ten years"
    assert best.features[AGREEMENT] == 0.5
    assert (best.tokens, best.seconds) == (20, 1.0)


def test_two_that_agree_outvote_a_more_certain_third() -> None:
    best = agreed([raw("ten years", -0.1), raw("six years", -0.5), raw("Six years.", -0.4)])
    assert best.text == "Six years."
    assert best.features[CERTAINTY] == -0.4
    assert best.features[AGREEMENT] == pytest.approx(2 / 3)
    assert (best.tokens, best.seconds) == (30, 1.5)
    unsure = agreed([raw("ten years", -0.1), raw("six years", -2.0), raw("Six years.", -2.0)])
    assert unsure.text == "ten years"


@pytest.mark.parametrize("count", [1, 2])
def test_questions_are_read_in_the_wordings_that_are_asked(count: int) -> None:
    long, short = "How long does the battery of the Tessmar 40 last?", "ja"
    read = read_wordings(Scripted({}), [long, short], 8, count)
    lengths = [len(text) for text in rewordings(long, count)]
    assert len(set(lengths)) == count
    for shard in (0, 3):
        first, second = read[shard]
        assert first.logprob == pytest.approx(-shard - sum(lengths) / len(lengths))
        assert (first.tokens, first.seconds) == (sum(lengths), 0.5 * len(lengths))
        assert second == Reading(-shard - len(short), len(short))


def test_agreement_is_counted_on_normalised_text_and_the_first_of_equals_wins() -> None:
    best = agreed([raw("Six years.", -0.1), raw("six years", -0.1)])
    assert best.text == "Six years."
    assert best.features[AGREEMENT] == 1.0


def test_all_wordings_of_all_questions_run_in_one_call() -> None:
    long, short = "How long does the battery of the Tessmar 40 last?", "ja"
    first, second = rewordings(long, 2)
    memory = Scripted({first: raw("a", -0.5), second: raw("b", -0.2), short: raw("c", -0.3)})
    answers = answer_wordings(memory, {0: [long, short], 3: [short, long]}, 8, count=2)
    assert memory.asked == [{0: [first, second, short], 3: [short, first, second]}]
    assert [a.text for a in answers[0]] == ["b", "c"]
    assert [a.tokens for a in answers[3]] == [10, 20]
    assert [a.features[AGREEMENT] for a in answers[3]] == [1.0, 1.0]


def test_without_rewording_each_question_is_asked_once() -> None:
    question = "How long does the battery of the Tessmar 40 last?"
    memory = Scripted({question: raw("a", -0.5)})
    answers = answer_wordings(memory, {0: [question]}, 8, count=1)
    assert [a.text for a in answers[0]] == ["a"]
    assert memory.asked == [{0: [question]}]


def test_what_was_asked_together_comes_back_in_its_rows() -> None:
    rows = {3: ["a", "b"], 1: [], 0: ["c"]}
    items = joined(rows.values())
    assert items == ["a", "b", "c"]
    assert parted(items, [2, 0, 1]) == [["a", "b"], [], ["c"]]
    for wrong in ([2, 0], [2, 0, 2]):
        with pytest.raises(ValueError, match="3 items for"):
            parted(items, wrong)
