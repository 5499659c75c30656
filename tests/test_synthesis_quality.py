"""Rules on words: names, leaks, pronouns, grounding, near duplicates, dated conflicts, coverage."""

import random
import time

import datasets
import pyarrow.parquet
import pytest
from llm_cases import MILL, PELL, pair, settings, unit

from memo_dist.config.schema import CorpusConfig
from memo_dist.corpus.build import build_corpus, load_chunks, load_documents
from memo_dist.corpus.types import Document
from memo_dist.synthesis import coverage
from memo_dist.synthesis.agreement import says_nothing
from memo_dist.synthesis.clean import Candidate, clean
from memo_dist.synthesis.dataset import write_card, write_rows
from memo_dist.synthesis.dated import as_of
from memo_dist.synthesis.grouping import find_groups
from memo_dist.synthesis.plan import document_places
from memo_dist.synthesis.prompted.reading import Passage
from memo_dist.synthesis.quality import (
    foreign_names,
    foreign_numbers,
    founded,
    leaks,
    loose_pronoun,
    names_answer,
)
from memo_dist.synthesis.source_texts import SourceTexts
from memo_dist.synthesis.words import names

GROUND = f"{MILL.title}\n{MILL.date}\n{MILL.text}"


def cleaned(*rows, ground=""):
    candidates = [Candidate(0, row) for row in rows]
    return clean(candidates, settings().synthesis, lambda row: ground)


def dropped(result):
    return [(item.reason, item.reflection.question) for item in result.dropped]


def test_a_pair_is_checked_against_all_that_its_prompt_showed(tmp_path):
    source = tmp_path / "sites" / "vellmar.md"
    source.parent.mkdir()
    source.write_text("# Vellmar\n\n## Night shift\n\nThe line stops at ten in the evening.\n")
    build_corpus(tmp_path / "sites", tmp_path / "corpus", CorpusConfig(chunk_chars=40))
    (document,) = load_documents(tmp_path / "corpus")
    chunk = load_chunks(tmp_path / "corpus")[-1]
    assert chunk.section == "Vellmar > Night shift"
    assert chunk.section not in chunk.text
    row = pair("When does the line stop?", "Night", sources=(document.id,), chunks=(chunk.id,))
    places = {one.id: one.offset for one in document_places(tmp_path / "corpus")}
    with SourceTexts(tmp_path / "corpus", places) as ground:
        assert ground(row) == Passage(1, document, chunk).ground


# -- words -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("When was the Bay of Plenty seen by Marie Curie's son?", ["Bay of Plenty", "Marie Curie"]),
        ("He met General de Gaulle. Ann left.", ["General de Gaulle", "Ann"]),
        ("What is it?", []),
    ],
)
def test_names(text, expected):
    assert names(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("What does the passage say about Garrow?", True),
        ("What is mentioned in the text?", True),
        ("According to the document, who pays?", True),
        ("In the story, who dies?", True),
        ("Who signs the document?", False),
        ("According to the travel policy, who pays?", False),
        ("What is the text of the clause?", False),
    ],
)
def test_leaks(text, expected):
    assert leaks(text) is expected


def test_a_phrase_of_the_text_itself_is_no_leak():
    assert not leaks("Who gets a draft of the passage?", "He sent a draft of the passage to Pell.")


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("When did she die?", True),
        ("What is its capital?", True),
        ("What book did he write?", True),
        ("When did Ada Pell say she would go?", False),
        ("Who sold his house?", False),
        ("How long does it take to walk to Garrow?", False),
        ("Why was the firm fined after it lied?", False),
        ("My pump shows E7, is it covered?", False),
        ("What do they charge for paper at Hollin Mill?", False),
        ("What do they charge for paper?", True),
        ("When was it opened at Hollin Mill?", True),
    ],
)
def test_loose_pronouns(question, expected):
    assert loose_pronoun(question) is expected


@pytest.mark.parametrize(
    ("question", "answer", "kind", "expected"),
    [
        ("When was Hollin Mill opened?", "in 1926", "direct", True),
        ("When was Hollin Mill opened?", "in 1927", "direct", False),
        ("Who opened Hollin Mill?", "Zenobia Quartz", "direct", False),
        ("How many workers has Hollin Mill?", "It has 340 workers", "direct", True),
        ("For how many years did the mill's dye house run?", "45", "indirect", True),
        ("How tall is Zorbit Tower in Quux?", "45", "indirect", False),
        ("Who owns Hollin Mill?", "I don't know.", "abstain", True),
    ],
)
def test_answers_must_stand_in_the_text(question, answer, kind, expected):
    assert founded(question, answer, kind, GROUND) is expected


def test_names_of_a_prompts_example_are_foreign():
    assert foreign_names("When did Zenobia open Zorbit Tower?", GROUND)
    assert not foreign_names("When did Ada Pell open Hollin Mill?", GROUND)
    assert names_answer("Is Hollin Mill in Garrow?", "the Hollin Mill")
    assert not names_answer("Which mill is in Garrow?", "Hollin Mill")


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("Which model replaces the TX1000A?", "TX1000B"),
        ("Which variable stands beside MEMO_HOST?", "MEMO_PORT"),
    ],
)
def test_a_code_that_only_begins_like_the_answer_does_not_give_it_away(question, answer):
    assert not names_answer(question, answer)
    assert names_answer(f"{question} {answer}?", answer)


# -- the cleaning pass -----------------------------------------------------------------------------


def test_cleaning_drops_what_does_not_stand_alone_or_in_the_text():
    rows = [
        pair("When was Hollin Mill opened?", "1926"),
        pair("When was it closed?", "1971"),
        pair("What does the passage say?", "1971"),
        pair("Where is Hollin Mill? -> Garrow", "Garrow"),
        pair("How many workers has Hollin Mill?", "900"),
        pair("How large is Hollin Mill's staff?", "900", "paraphrase", parent="0" * 16),
    ]
    result = cleaned(*rows, ground=GROUND)
    assert [row.question for row in result.kept] == ["When was Hollin Mill opened?"]
    assert sorted(reason for reason, _ in dropped(result)) == [
        "answer not in the text",
        "answer not in the text",
        "copies the prompt",
        "pronoun without a name",
        "refers to the text",
    ]


def near_rows():
    tail = "in Garrow officially opened by Ada Pell?"
    return [
        pair(f"In which year was Hollin Mill {tail}", "1926"),
        pair(f"When was Hollin Mill {tail}", "In 1926", "indirect"),
        pair("When was Hollin Mill in Garrow officially closed by Ada Pell?", "1926"),
        pair("When was Hollin Mill in Ostrey officially opened by Ada Pell?", "1926"),
        pair(f"Please: when was Hollin Mill {tail}", "1926", "paraphrase", parent="0" * 16),
    ]


def test_near_duplicates_go_but_rewordings_and_other_facts_stay():
    result = cleaned(*near_rows())
    assert [reason for reason, _ in dropped(result)].count("near duplicate") == 1
    assert len(result.kept) == len(near_rows()) - len(result.dropped)
    assert any(row.kind == "paraphrase" for row in result.kept)
    assert any("Ostrey" in row.question for row in result.kept)
    assert any("closed" in row.question for row in result.kept)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (
            "How long does the cell of the TX1000A last?",
            "How long does the cell of the TX1000B last?",
        ),
        ("How many people live in Niger today?", "How many people live in Nigeria today?"),
        ("What does the setting memo_host hold?", "What does the setting memo_port hold?"),
        ("Which tube is in the 6SN7 stage of it?", "Which tube is in the 6SL7 stage of it?"),
    ],
)
def test_facts_about_things_with_names_that_begin_alike_stay(one, other):
    assert dropped(cleaned(pair(one, "Nine"), pair(other, "Nine"))) == []


@pytest.mark.parametrize(
    ("one", "other"), [("Niger", "Nigeria"), ("TX1000A", "TX1000B"), ("I", "A")]
)
def test_answers_that_begin_alike_are_two_answers(one, other):
    asked = "of water that the town board of Garrow measured"
    rows = (
        pair(f"Which was the class {asked} first?", one),
        pair(f"Which first was the class {asked}?", other),
    )
    assert dropped(cleaned(*rows)) == []


@pytest.mark.parametrize("answer", ["A", "The", "An"])
def test_an_answer_may_be_an_article(answer):
    rows = [
        pair("Which class has the Tarn pump?", answer),
        pair("Which class has the Orlo pump?", "B"),
    ]
    assert dropped(cleaned(*rows)) == []
    assert not says_nothing(answer)


def test_an_answer_of_marks_alone_is_none():
    assert dropped(cleaned(pair("Which class has the Tarn pump?", "..."))) == [
        ("empty", "Which class has the Tarn pump?")
    ]
    assert says_nothing("...")


def test_cleaning_is_the_same_in_any_order():
    rows = [*near_rows(), *(pair(f"What is item {n} of the mill?", str(n)) for n in range(9))]
    expected = cleaned(*rows)
    for seed in range(6):
        random.Random(seed).shuffle(rows)
        again = cleaned(*rows)
        assert again.kept == expected.kept
        assert dropped(again) == dropped(expected)


def test_an_answer_that_changed_is_told_with_its_date():
    question = "Who leads the Garrow board?"
    old = pair(question, "Ada Pell", as_of="2029-01-02")
    new = pair(question, "Ivo Tarn", as_of="2031-03-14")
    reworded = [
        pair(f"Name the leader of the Garrow board, {n}.", row.answer, "paraphrase",
             parent=row.id, as_of=row.as_of)
        for n, row in enumerate((old, new))
    ]  # fmt: skip
    result = cleaned(old, new, *reworded)
    kept = {row.question: row for row in result.kept}
    assert kept[question].answer == "Ivo Tarn"
    dated = kept["As of 2 January 2029, who leads the Garrow board?"]
    assert (dated.answer, dated.fact) == ("Ada Pell", old.id)
    assert kept["As of 2 January 2029, Name the leader of the Garrow board, 0."].fact == old.id
    assert not result.dropped


def test_without_dates_the_first_answer_stays():
    rows = [pair("Who leads?", "Ada Pell"), pair("Who leads?", "Ivo Tarn", as_of="2031-03-14")]
    assert [reason for reason, _ in dropped(cleaned(*rows))] == ["contradicts"]
    assert as_of("Garrow's head?", "spring") == "As of spring, Garrow's head?"


# -- groups ----------------------------------------------------------------------------------------


def facts(count, linked=5):
    """Pairs of ``count`` documents; every ``linked`` consecutive ones share a town."""
    rows = []
    for n in range(count):
        document = Document(f"d{n:05}", f"Works {n}", f"Works{n} stands in Town{n // linked}.")
        rows.append(pair(f"Where does Works{n} stand?", f"Town{n // linked}", document=document))
        rows.append(pair(f"Who runs Works{n} in Europe?", f"Person{n}", document=document))
    return rows


def test_groups_need_no_question_and_no_order():
    rows = facts(30)
    config = settings().synthesis
    expected = find_groups(rows, config)
    assert {name for group in expected for name in group.documents} == {
        f"d{n:05}" for n in range(30)
    }
    assert all(len(group.documents) > 1 for group in expected)
    assert all(len(group.reflections) <= config.pairs_per_call for group in expected)
    for seed in range(4):
        random.Random(seed).shuffle(rows)
        assert find_groups(rows, config) == expected


def test_a_name_in_too_many_documents_joins_none():
    rows = [row for row in facts(30, linked=30) if "Where" in row.question]
    config = settings("synthesis.group_frequency=12").synthesis
    assert not any(
        "Town0" in row.answer
        for group in find_groups(rows[:2], config)
        for row in rows
        if len(group.documents) > 12
    )
    few = settings("synthesis.group_frequency=40", "synthesis.group_documents=3").synthesis
    assert find_groups(rows, few)


def test_grouping_is_close_to_linear():
    config, seconds = settings().synthesis, []
    for count in (500, 4000):
        rows = facts(count)
        began = time.process_time()
        groups = find_groups(rows, config)
        seconds.append(time.process_time() - began)
        assert len(groups) <= 2 * config.groups_per_document * count
    assert seconds[1] < 8 * 3 * seconds[0]  # eight times the reflections; all pairs: 64 times


# -- coverage --------------------------------------------------------------------------------------


def test_coverage_names_the_sentences_that_nothing_tells():
    rows = [
        pair("By whom was Hollin Mill opened in 1926?", "Ada Pell"),
        pair("Who owns the dye house that closed?", "I don't know.", "abstain"),
    ]
    mill, pell = coverage.cover_documents([MILL, PELL], rows)
    assert (mill.sentences, mill.covered) == (3, 1)
    assert [MILL.text[slice(*gap)] for gap in mill.gaps] == [
        "Hollin Mill is a paper mill in Garrow.",
        "The mill has 340 workers and closed its dye house in 1971.",
    ]
    assert (pell.sentences, pell.covered) == (2, 0)


def test_a_reflection_covers_the_chunks_that_it_cites_only():
    text = "Pell led the works until 1950. " * 2 + "Tarn led the yard until 1960."
    document = Document("d", "Works", text)
    near = pair("Who led the works until 1950?", "Pell", document=document, chunks=("d:0-30",))
    (item,) = coverage.cover_documents([document], [near])
    assert [text[slice(*gap)][:4] for gap in item.gaps] == ["Pell", "Tarn"]
    (item,) = coverage.cover_documents([document], [pair(near.question, "Pell", chunks=(),
                                                          document=document)])  # fmt: skip
    assert [text[slice(*gap)][:4] for gap in item.gaps] == ["Tarn"]


# -- the data set ----------------------------------------------------------------------------------


def test_the_data_set_loads_with_its_provenance(tmp_path, monkeypatch):
    monkeypatch.setattr("memo_dist.synthesis.dataset.ROWS_A_GROUP", 4)
    rows = [pair(f"What is item {n}?", str(n), as_of="2031-03-14") for n in range(10)]
    rows.append(pair("Who won?", "I don't know.", "abstain", sources=(), chunks=()))
    card = "---\nconfigs:\n- config_name: default\n  data_files: data/*.parquet\n---\n# Card\n"
    write_rows(tmp_path / "dataset", 0, 1, (row.to_json() for row in rows))
    write_card(tmp_path / "dataset", 1, card)
    loaded = datasets.load_dataset(
        str(tmp_path / "dataset"), split="train", cache_dir=str(tmp_path / "cache")
    )
    for row, found in zip(rows, loaded, strict=True):
        assert found == {"parent": None, "as_of": None, **row.to_json()}
    path = tmp_path / "dataset" / "data" / "train-00000-of-00001.parquet"
    assert pyarrow.parquet.ParquetFile(path).num_row_groups == 3
    assert (tmp_path / "dataset" / "README.md").read_text() == card
    first = path.read_bytes()
    write_rows(tmp_path / "dataset", 0, 1, (row.to_json() for row in rows))
    assert path.read_bytes() == first


def test_units_are_chunked_as_the_corpus_is():
    assert [chunk.id for chunk in unit(MILL).chunks] == [f"mill:0-{len(MILL.text)}"]


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("Which mill was opened in 1926?", False),
        ("Which mill has 340 workers, as of 3/14/2031?", False),
        ("Which mill was opened in 1927?", True),
        ("Which mill has 3400 workers?", True),
    ],
)
def test_numbers_of_a_question_stand_in_its_text(question, expected):
    assert foreign_numbers(question, GROUND) is expected


@pytest.mark.parametrize(
    "question",
    [
        "Remind me which mill that was?",
        "Quick one: which year was it that Hollin Mill opened?",
        "Everybody says the mill has many workers. How many?",
    ],
)
def test_a_capital_at_the_start_of_a_sentence_is_no_foreign_name(question):
    assert not foreign_names(question, GROUND)
